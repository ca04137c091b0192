"""Data sets: a table of labelled segments that reads clips.

`Dataset` is a pandas DataFrame, `index`, and a way to read a row of it; filter the table and pass the rows
to `subset` to work with a part. `ucf101` and `epic_kitchens` make one of the data sets as they are on disk;
`find_data` tells where those are.
"""

from __future__ import annotations

from .epic import epic_kitchens
from .places import Place, find_data
from .table import Dataset
from .ucf import ucf101

__all__ = ["Dataset", "Place", "epic_kitchens", "find_data", "ucf101"]
