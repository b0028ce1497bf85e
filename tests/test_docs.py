"""The Python blocks of the documentation run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_blocks_of_the_dataplane_page_run_in_order() -> None:
    text = (DOCS / "dataplane.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/dataplane.md", "exec"), names)
