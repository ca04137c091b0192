"""The data set: a pandas DataFrame of labelled segments, and a way to read a row of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from ..clips.clip import Clip

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled segments of videos.

    Attributes:
        index: DataFrame, a row a segment, indexed by the clip's name; at least the columns `class`
            (name), `class_id` (0-based position in `classes`), `start`, `stop` and `duration`
            (seconds; a stop of NaN is the end of the file). Data sets on disk have `present`,
            whether the file is there.
        classes: class names.
        reader: reads a row's segment, called with the row and `frames=`, `stride=` as in
            `read_clip`; `frames=None` is all of the segment. A row with another `start` and `stop`
            reads that interval.
        title: the data set's name.
        frames, stride: the sampling of `read` if it is called without, as in `read_clip`.
    """

    index: pd.DataFrame
    classes: list[str]
    reader: Callable[..., Clip]
    title: str = ""
    frames: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        repeated = self.index.index[self.index.index.duplicated()]
        if len(repeated):
            raise ValueError(
                f"names in the index must be unique; {repeated[0]!r} occurs more than once"
            )

    def __len__(self) -> int:
        """Return how many segments there are."""
        return len(self.index)

    def __iter__(self) -> Iterator[Clip]:
        """Read one clip after the other."""
        return (self[name] for name in self.index.index)

    def __getitem__(self, key: int | str) -> Clip:
        """Read a clip by its name or its 0-based row."""
        return self.read(key)

    def read(self, key: int | str, frames: int | None = None, stride: int | None = None) -> Clip:
        """Read a clip by name or row, sampled as `read_clip` does.

        Without `frames` and `stride`, the data set's own sampling is used; if it has none either,
        all frames of the segment are read.

        Raises:
            KeyError, IndexError: no such clip; the message lists what there is.
            FileNotFoundError: the clip's file is not on the disk.
            ClipError, ValueError: it cannot be read, or not as asked.
        """
        if frames is None and stride is None:
            frames, stride = self.frames, self.stride
        return self.reader(self._row(key), frames=frames, stride=stride)

    def subset(self, rows: pd.DataFrame | pd.Index | pd.Series) -> Dataset:
        """Return the data set of some rows: part of `index`, clip names, or a boolean column."""
        names = rows.index if isinstance(rows, pd.DataFrame) else rows
        return replace(self, index=self.index.loc[names])

    def present(self) -> Dataset:
        """Return the data set of the clips whose files were on the disk when it was made."""
        return self.subset(self.index["present"]) if "present" in self.index else self

    def _row(self, key: int | str) -> pd.Series:
        if isinstance(key, str):
            if key not in self.index.index:
                raise KeyError(
                    f"no clip {key!r} among the {len(self)} of {self.title or 'the data set'}"
                )
            key = int(self.index.index.get_loc(key))  # type: ignore[arg-type]  # names are unique
        if not -len(self) <= key < len(self):
            raise IndexError(f"clip {key} of {len(self)}: rows are counted from 0")
        return self.index.iloc[key]

    def __repr__(self) -> str:
        there = len(self.present())
        missing = "" if there == len(self) else f", {there or 'none'} of them on disk"
        return f"<Dataset {self.title}: {len(self)} segments, {len(self.classes)} classes{missing}>"
