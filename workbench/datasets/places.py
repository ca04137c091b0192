"""Locate the data sets: by an environment variable, in `data/`, or the shipped samples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import overload

__all__ = ["Place", "find_data"]

DATA = Path(__file__).resolve().parents[2] / "data"  # in a checkout
_VARIABLES = {"ucf101": "WORKBENCH_UCF101", "epic-kitchens": "WORKBENCH_EPIC_KITCHENS"}


@dataclass(frozen=True, repr=False)
class Place:
    """The folder of a data set, usable as a path: `wb.ucf101(place)`, `open(place / "a.txt")`.

    Attributes:
        name: "ucf101" or "epic-kitchens".
        root: the folder.
        real: whether it is the user's; otherwise it is that of the shipped samples.
        source: the environment variable or folder it was found by.
    """

    name: str
    root: Path
    real: bool
    source: str

    def __fspath__(self) -> str:
        return str(self.root)

    def __truediv__(self, part: str | Path) -> Path:
        return self.root / part

    def __repr__(self) -> str:
        what = f"{self.root}, from {self.source}"
        if not self.real:
            what += (
                f"; data/README.md says where to put the real ones, or set {_VARIABLES[self.name]}"
            )
        return f"<{self.name}: {what}>"


@overload
def find_data(name: str) -> Place: ...
@overload
def find_data(name: None = None) -> Mapping[str, Place]: ...
def find_data(name: str | None = None) -> Place | Mapping[str, Place]:
    """Return where a data set is: the real one, or else the shipped samples in its layout.

    Looked for in this order: the folder in the environment variable WORKBENCH_UCF101 or
    WORKBENCH_EPIC_KITCHENS, `data/ucf101` or `data/epic-kitchens` in the checkout, and the samples
    in `data/samples`. The samples have UCF-101's split 1, and EPIC-Kitchens' validation set of
    release 100 and training set of release 55.

    Args:
        name: "ucf101" or "epic-kitchens"; None is both, by name.

    Returns:
        A `Place` for `wb.ucf101` or `wb.epic_kitchens`; `.real` says whether it is the user's.

    Raises:
        KeyError: no such data set.
        FileNotFoundError: the environment variable names no folder, or there are no samples either.
    """
    if name is None:
        return {data: find_data(data) for data in _VARIABLES}
    name = name.lower().replace("_", "-")
    if name not in _VARIABLES:
        raise KeyError(f"no data set {name!r}; there are {', '.join(_VARIABLES)}")
    variable = _VARIABLES[name]
    value = os.environ.get(variable)
    if value:
        folder = Path(value).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{variable} is {value}, which is no folder: set it to that of the data set, or "
                "unset it"
            )
        return Place(name, folder, True, variable)
    here = DATA / name
    if here.is_dir() and any(here.iterdir()):
        return Place(name, here, True, f"data/{name}")
    samples = DATA / "samples" / name
    if not samples.is_dir():
        raise FileNotFoundError(
            f"no {name}: {variable} is not set, and there is neither {here} nor {samples}. Set the "
            "variable to the data set's folder (data/README.md lists what goes in it), or work in "
            "a checkout of the repository."
        )
    return Place(name, samples, False, "shipped samples")
