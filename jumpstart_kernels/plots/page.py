"""A page about one model: tables and plots in one self-contained HTML file."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.penalties.by_layer import PenaltyTerms, penalty_by_layer
from jumpstart_kernels.plots import sources, style
from jumpstart_kernels.plots.bars import penalty_bars
from jumpstart_kernels.plots.maps import point_status_map, unit_status_map
from jumpstart_kernels.plots.strips import extrema_strips
from jumpstart_kernels.usage.report import UsageReport, shown_cosine, shown_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111; background: #fff; margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
p { max-width: 45rem; margin: .3rem 0; } .of { color: #555; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
figure { margin: 0; flex: 1 1 28rem; max-width: 36rem; } figure img { width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #333; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: right; padding: .1rem .6rem; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 1px solid #999; }
tbody tr:nth-child(even) { background: #f4f4f4; }
"""
_RATIOS = {
    "unit_dead_ratio": "units that are never active",
    "unit_linear_ratio": "units that are always active",
    "unit_nonlinear_ratio": "units that do both",
    "point_dead_ratio": "points for which some layer is entirely dead",
    "point_linear_ratio": "points for which every layer is entirely linear",
    "point_nonlinear_ratio": "points for which every layer is nonlinear",
    "deathness_ratio": "layer-point pairs that are dead",
    "linearity_ratio": "layer-point pairs that are linear",
    "nonlinearity_ratio": "layer-point pairs that are nonlinear",
    "point_efficiency": "layer-point pairs left when all layers up to a point's last dead one count as dead",
}
_PAGE_DPI = 160


def usage_page(
    usage: UsageReport,
    extrema: Mapping[str, LayerExtrema] | None = None,
    *,
    title: str = "Unit usage",
    subtitle: str = "",
    margin: float = 1.0,
) -> str:
    """HTML with the ratios, the plots (embedded as PNG) and the table by layer.

    Args:
        usage: over all data.
        extrema: of a training batch, from :func:`~jumpstart_kernels.layer_extrema`; the page then also has
            the extrema and the penalty by layer.
        title: of the page.
        subtitle: a line below it.
        margin: of the layers.

    Raises:
        TypeError, ValueError: ``usage`` or ``extrema`` has the wrong type, or there is no layer.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(usage, UsageReport):
        raise TypeError(f"usage must be a UsageReport, got {type(usage).__name__}")
    if extrema is not None:
        sources.check_extrema(extrema)
    parts = None if extrema is None else penalty_by_layer(extrema, margin=margin)
    style.need_matplotlib()
    return "\n".join(_lines(usage, extrema, parts, title, subtitle, margin)) + "\n"


def _lines(
    usage: UsageReport,
    extrema: Mapping[str, LayerExtrema] | None,
    parts: Mapping[str, PenaltyTerms] | None,
    title: str,
    subtitle: str,
    margin: float,
) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    yield f'<h1>{escape(title)}</h1>\n<p class="of">{escape(subtitle)}</p>'
    yield (
        "<p>A unit is dead if its pre-activation is never positive, linear if it always is; a data point "
        "likewise in each layer. Neither contributes a nonlinearity.</p>"
    )
    yield "<h2>All layers</h2>"
    yield from _table(
        ("", "ratio", ""),
        [(name, f"{usage[name]:.1%}", meaning) for name, meaning in _RATIOS.items()],
    )
    if usage.nan_units:
        yield f"<p><strong>{usage.nan_units:,} units saw a NaN; they count as nonlinear.</strong></p>"

    yield '<h2>Over all data</h2>\n<div class="pictures">'
    yield _picture(unit_status_map(usage), "Units of each layer by status, the first layer at the top.")
    yield _picture(point_status_map(usage), "Data points by status in each layer.")
    yield "</div>"
    if extrema is not None and parts is not None:
        points = len(next(iter(sources.point_status(extrema).values())))
        yield f'<h2>In a batch of {points:,}</h2>\n<div class="pictures">'
        caption = "Largest and smallest pre-activation of each {}; the penalty pushes them beyond the margin."
        for of in ("units", "points"):
            strips = extrema_strips(extrema, of=of, margin=margin)
            yield _picture(strips, caption.format(of.removesuffix("s")))
        yield _picture(penalty_bars(parts), "Each layer's contribution to the penalty (balanced, λ = 1).")
        yield "</div>"

    yield "<h2>Layer by layer</h2>"
    statuses = ("dead", "linear", "nonlinear")
    header: tuple[str, ...] = ("layer", "units", *statuses, "points", *statuses)
    rows = [(name, *(f"{n:,}" for n in layer)) for name, layer in usage.layers.items()]
    if usage.dormancy:
        header = (*header, "dormant outputs")
        masks = usage.dormant().values()
        rows = [(*row, f"{int(mask.sum()):,}") for row, mask in zip(rows, masks, strict=True)]
    if usage.effective_ranks:
        header = (*header, "effective rank of outputs")
        rows = [(*row, shown_rank(usage.effective_ranks[row[0]])) for row in rows]
    if usage.cosines:
        header = (*header, "cosine between samples")
        rows = [(*row, shown_cosine(usage.cosines[row[0]])) for row in rows]
    yield from _table(header, rows)
    yield "</body>\n</html>"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield '<div class="table"><table>\n<thead><tr>'
    yield "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr></thead>\n<tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def _picture(ax: "Axes", caption: str) -> str:
    file = io.BytesIO()
    ax.figure.savefig(file, format="png", dpi=_PAGE_DPI)  # type: ignore[union-attr]  # of the plot itself
    image = base64.b64encode(file.getvalue()).decode()
    text = escape(caption)
    source = f"data:image/png;base64,{image}"
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
