"""Data sets: tables of labelled segments that read clips.

`Dataset` is a pandas DataFrame, `index`, with a way to read one of its rows. UCF-101 and
EPIC-Kitchens are read as they lie on disk, the sample clips are drawn or shipped. Training on a
data set lives in `training`.
"""

from __future__ import annotations

from . import samples
from .epic import epic_kitchens
from .places import Place, find_data
from .table import Dataset
from .ucf import ucf101

__all__ = ["Dataset", "Place", "epic_kitchens", "find_data", "samples", "ucf101"]
