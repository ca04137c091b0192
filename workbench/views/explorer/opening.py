"""What opens an explorer: of an explanation, of several, of a data set, or as a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...models.video_model import VideoModel
from ...saliency.explanation import Explanation
from ..dataset_browser import Browser, browse
from .app import Explorer
from .page import write_page

__all__ = ["explore", "save_page"]

_MOST = 4  # explanations side by side


def explore(
    explanation: Explanation | Sequence[Explanation] | Any, model: VideoModel | None = None
) -> Explorer | Browser:
    """Show an explanation in a notebook, several side by side, or a data set clip by clip.

    Args:
        explanation: from `wb.explain`; or two to four of them that name the same classes; or a data
            set (from `wb.ucf101` and the like) together with a model; or a store of explanations.
        model: from `wb.load_model` or `wb.wrap_model`: explains the clips of a data set.

    Returns:
        An `Explorer`, or for a data set a `Browser`: the last line of a cell shows it.

    Raises:
        ValueError: no explanation, more than four, several that name different classes, or a data
            set without a clip on the disk.
    """
    if hasattr(explanation, "index") and not isinstance(explanation, (list, tuple)):
        return browse(explanation, model)
    if model is not None:
        raise ValueError(f"model: expected only with a data set, got {explanation!r}")
    explanations = [explanation] if isinstance(explanation, Explanation) else list(explanation)
    if not explanations or not all(isinstance(ex, Explanation) for ex in explanations):
        got = ", ".join(type(ex).__name__ for ex in explanations) or "none"
        raise ValueError(f"expected an Explanation or several, from wb.explain; got {got}")
    if len(explanations) > _MOST:
        raise ValueError(f"expected at most {_MOST} explanations, got {len(explanations)}")
    for other in explanations[1:]:
        odd = set(explanations[0].classes) ^ set(other.classes)
        if odd:
            raise ValueError(
                f"expected explanations of the same classes; {len(odd)} are not in both, "
                f"as {min(odd)!r}. Give the models the same classes="
            )
    return Explorer(explanations)


def save_page(
    explanation: Explanation | Sequence[Explanation] | Explorer, path: str | Path
) -> Path:
    """Write the explorer as one HTML file that works offline and without Python, sliders and all.

    Weights that come from gradients are saved for the ten most probable classes; the others are
    listed but cannot be chosen.

    Args:
        explanation: what `explore` takes, except a data set; or an `Explorer`, whose view is saved
            as it is.
        path: ending in .html; missing folders are made. The file appears whole or not at all.

    Raises:
        ValueError: another suffix, or what `explore` refuses.
        OSError: the file cannot be written.
    """
    if isinstance(explanation, Explorer):
        return write_page(explanation.page, path)
    app = explore(explanation)
    if not isinstance(app, Explorer):
        app.close()
        raise ValueError("expected an Explanation, several of them, or an Explorer; got a data set")
    try:
        return write_page(app.page, path)
    finally:
        app.close()
