"""Data sets: tables of labelled segments that read clips.

`Dataset` is a pandas DataFrame, `index`, with a way to read one of its rows. UCF-101, its boxes,
JHMDB, EPIC-Kitchens and its masks are read as they lie on disk, the sample clips are drawn or
shipped. Training on a data set lives in `training`.
"""

from __future__ import annotations

from . import samples
from .actor_boxes import ucf101_24
from .epic import epic_kitchens
from .places import Place, find_data
from .puppet_masks import jhmdb
from .table import Dataset
from .ucf import ucf101

__all__ = [
    "Dataset",
    "Place",
    "epic_kitchens",
    "find_data",
    "jhmdb",
    "samples",
    "ucf101",
    "ucf101_24",
]
