"""The browser: a data set's clips by class, each explained under the explorer as it is picked, in JupyterLab.

A handler that fails shows its error in the place of the explorer and raises it, as the explorer's do: in the cell
that set the control, or in JupyterLab's log. The drop-downs keep working.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import pandas as pd

from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..saliency.explanations import Explanation, explain
from .explorer.app import Explorer, guarded

__all__ = ["Browser", "browse"]

_GREY = "color:var(--jp-ui-font-color2, #666)"
_WIDE = {"flex": "1 1 0", "width": "auto", "min_width": "0"}


class Browser(widgets.VBox):
    """Class and clip as drop-downs, and the explorer of the clip picked below them. Made by `browse`.

    Attributes:
        data: the clips offered; those of the data set that are on the disk.
        model: what explains them.
        category: Dropdown of the classes that have clips; its value is a class name.
        clip: Dropdown of the clips of that class; its value is a clip name.
        explorer: the `Explorer` of the last clip that could be explained; on the screen unless the last pick failed.
        note: HTML, what went wrong with the last pick.
    """

    def __init__(self, data: Dataset, model: VideoModel) -> None:
        super().__init__(layout={"width": "100%", "overflow": "hidden"})
        self.data, self.model = data, model
        self._quiet = False
        counts = data.index["class"].value_counts()
        self._names = data.index.groupby("class", sort=False).groups
        classes = [each for each in data.classes if each in counts.index]
        narrow = {"description_width": "44px"}
        self.category = widgets.Dropdown(
            options=[(f"{each} ({counts[each]})", each) for each in classes], description="class",
            style=narrow, layout={"flex": "0 1 300px", "width": "auto", "min_width": "160px"},
        )  # fmt: skip
        self.clip = widgets.Dropdown(description="clip", style=narrow, layout=_WIDE)
        self.note = widgets.HTML()
        self._controls = widgets.HBox(
            [self.category, self.clip], layout={"width": "100%", "grid_gap": "12px"}
        )
        self._list_clips()
        self.explorer = self._explored(self.clip.value)
        self.children = [self._controls, self.note, self.explorer]
        self.category.observe(self._guarded(self._on_class), "value")
        self.clip.observe(self._guarded(self._on_clip), "value")

    @property
    def explanation(self) -> Explanation:
        """The explanation under the explorer."""
        return self.explorer.panels[0].explanation

    def show(self, name: str) -> None:
        """Pick a clip by name, whatever its class.

        Raises:
            KeyError: no such clip among those offered.
            ClipError, FileNotFoundError, ValueError: it cannot be read, or not explained.
        """
        if name not in self.data.index.index:
            raise KeyError(
                f"no clip {name!r} among the {len(self.data)} of {self.data.title or 'the data set'}"
            )
        self._quiet = True
        try:
            self.category.value = self.data.index.loc[name, "class"]
            self._list_clips()
            self.clip.value = name
        finally:
            self._quiet = False
        self._guarded(self._on_clip)(None)

    def close(self) -> None:
        """Take the browser off the screen and free its widgets."""
        self.explorer.close()
        self.category.style.close()
        self.clip.style.close()
        self.note.style.close()
        for part in (self.category, self.clip, self.note, self._controls):
            part.layout.close()
            part.close()
        self.layout.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        self.explorer._repr_mimebundle_(**kwargs)  # shown anew, its figures begin as they are now
        return super()._repr_mimebundle_(**kwargs)

    def __repr__(self) -> str:
        return (
            f"<Browser of {self.data!r}: {self.clip.value}>"
            if hasattr(self, "clip")
            else "<Browser>"
        )

    def _list_clips(self) -> None:
        """Offer the clips of the class, with what was narrated where that is known, and pick the first."""
        rows = self.data.index.loc[self._names[self.category.value]]
        narrated = rows["narration"] if "narration" in rows else pd.Series("", rows.index)
        titles = (f"{name} · {text}" if text else name for name, text in narrated.items())
        self.clip.options = list(zip(titles, rows.index.tolist()))
        self.clip.index = 0

    def _on_class(self) -> None:
        self._quiet = True
        try:
            self._list_clips()
        finally:
            self._quiet = False
        self._on_clip()

    def _on_clip(self) -> None:
        self.note.value = (
            f"<span style='{_GREY}'>explaining {html.escape(self.clip.value)} …</span>"
        )
        try:
            fresh = self._explored(self.clip.value)
        except Exception:
            self.children = [
                self._controls,
                self.note,
            ]  # never one clip's explanation under another's name
            raise
        before, self.explorer = self.explorer, fresh
        self.children = [self._controls, self.note, fresh]
        before.close()

    def _explored(self, name: str) -> Explorer:
        spec = self.model.input
        return explore(
            explain(self.model, self.data.read(name, frames=spec.frames, stride=spec.stride))
        )

    def _guarded(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        return guarded(self, handler, lambda: f"{self.clip.value}: ")


def browse(data: Dataset, model: VideoModel) -> Browser:
    """Show a data set in JupyterLab: pick a class and a clip, and see the clip explained under the explorer.

    Args:
        data: from `wb.ucf101`, `wb.epic_kitchens` or `wb.samples`; filter it with `subset` to browse a part.
            Clips that are not on the disk are not offered.
        model: from `wb.load_model` or `wb.wrap_model`; clips are sampled as its `input` says. Its classes need
            not be those of the data.

    Returns:
        A `Browser`, an ipywidgets box: the last line of a cell shows it.

    Raises:
        ValueError: there is no clip to show.
        ClipError, ValueError: the first clip cannot be read, or not explained.
    """
    there = data.present()
    if not len(there):
        why = f"none of its {len(data)} segments is on the disk; data/README.md tells where they go"
        raise ValueError(
            f"{data.title or 'the data set'}: {why if len(data) else 'it has no segments'}"
        )
    return Browser(there, model)
