"""The file of the results, which is complete whenever the program ends."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_results(output: Path, results: Mapping[str, Any], **layout: Any) -> None:
    """Write JSON, laid out as ``json.dumps`` does, in the place of what an earlier call has written."""
    part = output.with_name(f"{output.name}.part")
    part.write_text(json.dumps(results, **(layout or {"indent": 1})) + "\n")
    os.replace(part, output)
