"""The explorer as one HTML file: the same view, with its own data, script and plotly.js inside."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...clips.files import whole_file
from .widget import CSS, SCRIPT, TubeView, packed_plotly

__all__ = ["page_bytes", "write_page"]

_STATE = (
    "explanations", "colormaps", "choice", "tau", "frame", "feature", "mode", "opacity",
    "colormap", "low", "high", "boxes", "search", "unit", "compare", "note",
)  # fmt: skip

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{css}
</style>
</head>
<body class="wb-page">
<div id="explorer"><noscript>This page needs JavaScript.</noscript></div>
<script type="text/plain" id="plotly">{plotly}</script>
<script type="text/plain" id="data">{data}</script>
<script type="module">
{script}
const text = (id) => document.getElementById(id).textContent;
openPage(document.getElementById("explorer"), text("data"), text("plotly"));
</script>
</body>
</html>
"""


def page_bytes(screen: TubeView) -> bytes:
    """Return the page that shows what a view shows."""
    state = {name: getattr(screen, name) for name in _STATE}
    return _PAGE.format(
        title=html.escape(f"Saliency tubes of {state['explanations'][0]['clip']}"),
        css=CSS.read_text("utf-8"),
        script=SCRIPT.read_text("utf-8"),
        plotly=base64.b64encode(packed_plotly()).decode(),
        data=base64.b64encode(_packed(state)).decode(),
    ).encode()


def _packed(state: dict[str, Any]) -> bytes:
    """Return JSON and the bytes it refers to, gzipped: length, JSON, bytes; equal bytes once."""
    places: dict[bytes, int] = {}
    size = 0

    def refer(value: Any) -> Any:
        nonlocal size
        if not isinstance(value, (bytes, memoryview)):
            raise TypeError(f"expected bytes, got {type(value).__name__}")
        content = bytes(value)
        if content not in places:
            places[content] = size
            size += len(content)
        return {"$bytes": [places[content], len(content)]}

    text = json.dumps(state, default=refer).encode()
    return gzip.compress(len(text).to_bytes(4, "little") + text + b"".join(places), mtime=0)


def write_page(page: Callable[[], bytes], path: str | Path) -> Path:
    """Write a page, whole or not at all; missing folders are made."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"{path}: expected a name ending in .html, got {path.suffix or 'no suffix'!r}"
        )
    with whole_file(path) as part:
        part.write_bytes(page())
    return path
