"""Run axe-core over the built site: every page, light and dark, on a desktop and on a phone.

``make docs-accessibility``. It fails on any violation of WCAG 2.2, levels A and AA, that axe-core can decide,
and where a page is wider than the screen.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, Playwright, sync_playwright

SITE = Path(__file__).resolve().parents[2] / "build" / "docs" / "html"
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = "no Chromium: apt-get install chromium, or the like, or else playwright install chromium"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", help="such as index or reference/penalty; default: all")
    pages = [SITE / f"{page}.html" for page in parser.parse_args().pages] or all_pages()
    if not pages:
        print(f"no pages in {SITE}: run make docs first", file=sys.stderr)
        return 2
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            print(NO_BROWSER, file=sys.stderr)
            return 2
        found = [violation for path in pages for violation in check(browser, path)]
    print(*found, sep="\n")
    print(f"{len(found)} violations on {len(pages)} pages, {' and '.join(SCHEMES)}, {' and '.join(SCREENS)}")
    return 1 if found else 0


def all_pages() -> list[Path]:
    """All pages but the listings of the source, which are of one kind: the first two stand for them."""
    pages = sorted(SITE.rglob("*.html"))
    sources = [page for page in pages if page.is_relative_to(SITE / "_modules")]
    return [page for page in pages if page not in sources[2:]]


def launch(playwright: Playwright) -> Browser | None:
    """The system's Chromium, or the one that playwright has installed."""
    system = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        return playwright.chromium.launch(executable_path=system)
    except Error:
        return None


def check(browser: Browser, path: Path) -> Iterator[str]:
    page = browser.new_page(reduced_motion="reduce")  # colors that are fading have no contrast yet
    page.goto(path.as_uri())
    for screen, (width, height) in SCREENS.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(100)  # for the page's own scripts
            # The slowest rule. Colors depend on the width only in the header, which all pages share.
            contrast = screen == "desktop" or path.stem == "index"
            for violation in violations(page, contrast):
                yield f"{path.relative_to(SITE)} ({scheme}, {screen}): {violation}"
    page.close()


def violations(page: Page, contrast: bool) -> Iterator[str]:
    options = {
        "runOnly": {"type": "tag", "values": LEVELS},
        "resultTypes": ["violations"],
        "rules": {"color-contrast": {"enabled": contrast}},
    }
    if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        yield "the page is wider than the screen"
    rows = {"exclude": [["tbody tr:nth-child(n+6)"]]} if contrast else None  # they look like those above
    for violation in Axe().run(page, context=rows, options=options).response["violations"]:
        for node in violation["nodes"]:
            shown = [f"{violation['id']}: {violation['help']}", node["html"][:200], node["failureSummary"]]
            yield "\n    ".join(shown)


if __name__ == "__main__":
    sys.exit(main())
