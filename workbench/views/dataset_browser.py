"""The browser: a data set's clips as thumbnails, explained under the explorer when picked.

Explanations are kept, the latest ones, and the browser's page asks for the next clip's before it is
wanted. A handler that fails shows its error in place of the explorer and raises it: in the cell
that set the control, or in JupyterLab's log. The controls keep working.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anywidget
import ipywidgets as widgets
import pandas as pd
import traitlets
from PIL import Image

from ..clips.clip import Clip
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..saliency.explaining import explain
from ..saliency.explanation import Explanation
from .explorer.app import Explorer, guarded, quietly
from .explorer.widget import CSS, SCRIPT

__all__ = ["Browser", "browse"]

_KEPT = 16  # explanations, the latest
_THUMB = (128, 96)


class ClipList(anywidget.AnyWidget):
    """Thumbnails, filters and progress, drawn by `tube_view.js`.

    Attributes:
        kind: says to the script that this is the list of clips.
        rows: name, class and narration of each clip.
        category: the class whose clips are listed, or "" for all.
        explains: whether clips are explained on demand; those of a store are explained already.
        chosen: name of the clip on the screen.
        busy: what the kernel is at, or "".
        note: an error to show, or "".
    """

    _esm = SCRIPT
    _css = CSS

    kind = traitlets.Unicode("clips").tag(sync=True)
    rows: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    category = traitlets.Unicode("").tag(sync=True)
    explains = traitlets.Bool(True).tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)
    busy = traitlets.Unicode("").tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)


class Browser(widgets.VBox):
    """A data set's clips as thumbnails, and the explorer of the picked one. Made by `explore`.

    Attributes:
        data: the clips offered; those of the data set that are on the disk.
        model: what explains them; None if `data` is a store of explanations.
        category: Dropdown of the classes that have clips; its value is a class name, or "" for all.
        clip: Dropdown of the clips of that class; its value is a clip name.
        screen: `ClipList`, which draws the thumbnails.
        results: DataFrame of the clips explained so far, of a store all: class, predicted,
            probability, right (None: no label).
        explorer: the `Explorer` of the last clip that could be explained; shown unless the last
            pick failed.
    """

    def __init__(self, data: Any, model: VideoModel | None) -> None:
        super().__init__(layout={"width": "100%"})
        self.add_class("wb-browser")
        self.data, self.model = data, model
        self._quiet = False
        self._kept: OrderedDict[str, Explanation] = OrderedDict()
        index = self._index = _offered(data)
        labels = next((index[key] for key in ("class", "label") if key in index), None)
        self._classes = pd.Series("", index.index) if labels is None else labels.fillna("")
        self._results: dict[str, tuple[str, float, bool | None]] = {}
        if model is None:
            said = zip(index.index, self._classes, index["prediction"], index["probability"])
            self._results = {name: _judged(*rest) for name, *rest in said}
        counts = self._classes.value_counts()
        offered = [name for name in self._classes.unique() if name]
        options = [
            (f"all classes ({len(index)})", ""),
            *((f"{name} ({counts[name]})", name) for name in offered),
        ]
        self.category = widgets.Dropdown(options=options, description="class")
        self.clip = widgets.Dropdown(description="clip")
        self._narrations = (
            index["narration"] if "narration" in index else pd.Series("", index.index)
        )
        self._list_clips()
        rows = zip(index.index, self._classes, self._narrations)
        self.screen = ClipList(
            rows=[[str(name), str(label), str(text)] for name, label, text in rows],
            explains=model is not None,
            chosen=self.clip.value,
        )
        self.screen.on_msg(self._answer)
        self.explorer = self._explored(self.clip.value)
        self.children = [self.screen, self.explorer]
        traitlets.link((self.category, "value"), (self.screen, "category"))
        traitlets.link((self.clip, "value"), (self.screen, "chosen"))
        self.category.observe(self._guarded(self._on_class), "value")
        self.clip.observe(self._guarded(self._on_clip), "value")

    @property
    def explanation(self) -> Explanation:
        """The explanation under the explorer."""
        return self.explorer.explanations[0]

    @property
    def results(self) -> pd.DataFrame:
        """The clips explained so far: class, predicted, probability, right (None: no label)."""
        table = pd.DataFrame.from_dict(
            self._results, orient="index", columns=["predicted", "probability", "right"]
        )
        table.insert(0, "class", [self._classes[name] for name in table.index])
        return table

    def show(self, name: str) -> None:
        """Pick a clip by name, whatever its class.

        Raises:
            KeyError: no such clip among those offered.
            ClipError, FileNotFoundError, ValueError: it cannot be read or explained.
        """
        if name not in self._index.index:
            raise KeyError(f"no clip {name!r} among the {len(self._index)} of {self._title}")
        with quietly(self):
            if self.category.value not in ("", self._classes[name]):
                self.category.value = self._classes[name]
                self._list_clips()
            self.clip.value = name
        self._guarded(self._on_clip)(None)

    def code(self) -> str:
        """Return the lines that recreate this view, given the data set `data` and the `model`."""
        given = "data" if self.model is None else "data, model"
        lines = self.explorer.code().splitlines()
        place = next(n for n, line in enumerate(lines) if line.startswith("app = "))
        body = [line.replace("app.", "app.explorer.", 1) for line in lines[place + 1 :]]
        opening = [f"app = wb.explore({given})", f"app.show({self.clip.value!r})"]
        return "\n".join(["import math", "import workbench as wb", *opening, *body])

    def close(self) -> None:
        """Take the browser off the screen and free its widgets."""
        self.explorer.close()
        for part in (self.category, self.clip):
            part.style.close()
        for part in (self.category, self.clip, self.screen):
            part.layout.close()
            part.close()
        self.layout.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        picture = self.explorer._repr_mimebundle_()["image/png"]
        return {**bundle, "image/png": picture}

    def __repr__(self) -> str:
        if not hasattr(self, "explorer"):
            return "<Browser>"
        return f"<Browser of {self.data!r}: {self.clip.value}>"

    @property
    def _title(self) -> str:
        return getattr(self.data, "title", "") or "the data set"

    def _guarded(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        return guarded(self, handler, lambda: f"{self.clip.value}: ")

    def _list_clips(self) -> None:
        """Offer the clips of the class, with any narrations, and pick the first."""
        chosen = self.category.value
        rows = self._narrations[self._classes == chosen] if chosen else self._narrations
        titles = (f"{name} · {text}" if text else str(name) for name, text in rows.items())
        self.clip.options = list(zip(titles, rows.index.tolist()))
        self.clip.index = 0

    def _on_class(self) -> None:
        before = self.clip.value
        with quietly(self):
            self._list_clips()
            if before in rows_of(self.clip):
                self.clip.value = before
        if self.clip.value != before or self.explorer not in self.children:
            self._on_clip()

    def _on_clip(self) -> None:
        try:
            fresh = self._explored(self.clip.value)
        except Exception:
            # Never one clip's explanation under another's name.
            self.children = [self.screen]
            raise
        before, self.explorer = self.explorer, fresh
        self.children = [self.screen, fresh]
        before.close()

    def _explored(self, name: str) -> Explorer:
        with self._busy(f"explaining {name} …"):
            return Explorer([self._explain(name)])

    @contextmanager
    def _busy(self, what: str) -> Iterator[None]:
        self.screen.busy = what
        try:
            yield
        finally:
            self.screen.busy = ""

    def _explain(self, name: str) -> Explanation:
        """Return the explanation of a clip, from those kept if it is among them."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        if self.model is None:
            explanation = self.data[name]
        else:
            spec = self.model.input
            clip = self.data.read(name, frames=spec.frames, stride=spec.stride)
            explanation = explain(self.model, clip)
        self._kept[name] = explanation
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        best = explanation.class_id()
        predicted, probability = explanation.classes[best], explanation.probabilities[best]
        self._results[name] = _judged(self._classes[name], predicted, float(probability))
        self.screen.send({"result": [name, *self._results[name]]})
        return explanation

    def _answer(self, _view: Any, question: dict[str, Any], _buffers: Any) -> None:
        """Answer `tube_view.js`: a thumbnail, an explanation to be kept, or all results."""
        answers: dict[str, Callable[[str], tuple[dict[str, Any], list[bytes]]]] = {
            "thumb": lambda name: ({}, [self._thumb(name)]),
            "explain": lambda name: ({"layer": self._explain(name).layer}, []),
            "results": lambda _: ({"results": [[k, *v] for k, v in self._results.items()]}, []),
        }
        asked = {"id": question.get("id")}
        try:
            content, sent = answers[question["kind"]](question.get("name", ""))
        except Exception as error:  # one clip that cannot be read must not end a run over all
            self.screen.send({**asked, "error": f"{type(error).__name__}: {error}"})
            return
        self.screen.send({**asked, **content}, sent)

    def _thumb(self, name: str) -> bytes:
        clip: Clip = self._kept[name].clip if name in self._kept else self._first_frame(name)
        picture = Image.fromarray(clip.frames[len(clip) // 2])
        picture.thumbnail(_THUMB)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=80)
        return stream.getvalue()

    def _first_frame(self, name: str) -> Clip:
        if self.model is None:
            return self._explain(name).clip
        clip: Clip = self.data.read(name, frames=1)
        return clip


def rows_of(dropdown: widgets.Dropdown) -> list[Any]:
    """Return the values that a drop-down offers."""
    return [value for _, value in dropdown.options]


def _judged(label: str, predicted: str, probability: float) -> tuple[str, float, bool | None]:
    """Return what a network said of a clip, and whether it is right; None without a label."""
    return predicted, probability, predicted == label if label else None


def _offered(data: Any) -> pd.DataFrame:
    """Return the rows that can be shown: of a store, the clips that could be explained."""
    index = data.index
    return index[index["status"] == "ok"] if "status" in index else index


def browse(data: Any, model: VideoModel | None) -> Browser:
    """Show a data set in a notebook, clip by clip: another name of `explore(data, model)`.

    Args:
        data: from `wb.ucf101`, `wb.epic_kitchens` or `wb.samples`; filter it with `subset` to
            browse a part. Clips that are not on the disk are not offered. Or a store of
            explanations.
        model: from `wb.load_model` or `wb.wrap_model`; clips are sampled as its `input` says. Its
            classes need not be those of the data. None for a store.

    Returns:
        A `Browser`, an ipywidgets box: the last line of a cell shows it.

    Raises:
        ValueError: there is no clip to show, or no model for a data set.
        ClipError, ValueError: the first clip cannot be read or explained.
    """
    if isinstance(data, Dataset) and model is None:
        raise ValueError("model: expected one that explains the clips of the data set, got None")
    there = data.present() if isinstance(data, Dataset) else data
    if not len(_offered(there)):
        count = len(data.index)
        why = f"none of its {count} segments is on the disk; data/README.md tells where they go"
        if not isinstance(data, Dataset):
            why = f"none of its {count} clips could be explained; the column `error` says why"
        title = getattr(data, "title", "") or "the data set"
        raise ValueError(f"{title}: {why if count else 'it has no segments'}")
    return Browser(there, model)
