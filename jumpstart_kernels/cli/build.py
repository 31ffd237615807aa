"""The command ``build``: compile the extension now, rather than at first use."""

import argparse

from jumpstart_kernels.building import cache
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.ops import native


def add_build(commands: argparse._SubParsersAction) -> None:
    text = "compile the C++ extension for the torch that is here, as is done at first use otherwise"
    parser = commands.add_parser("build", help=text, description=text)
    parser.add_argument("--anew", action="store_true", help="even if it is there already")
    parser.set_defaults(run=build)


def build(arguments: argparse.Namespace) -> int:
    """Build the extension into the cache, unless one that fits came with the package, and load it."""
    packaged = native.packaged_extension()
    if packaged is not None and not arguments.anew:
        print(f"nothing to do: the package came with an extension that fits, {packaged}")
        return 0
    entry = cache.find_entry()
    broken = native.extension() is None and entry is not None and entry.find() is not None
    try:
        # What failed before is tried again: whoever calls this has mended something.
        path = cache.build(anew=arguments.anew or broken, retry=True)
    except cache.BuildError as error:
        raise CommandError(str(error)) from None
    print(path)
    return 0
