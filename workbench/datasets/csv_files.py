"""Annotation files: where they lie, and tables that are read strictly.

Everything is read as text, so that pandas guesses no types. `integers`, `numbers` and `clock_times`
turn a column into values, or raise ValueError with the file, row and column of the first bad one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = ["clock_times", "data_root", "folder_with", "integers", "numbers", "read_table"]

_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d+)?)")
_OFFICIAL = "Get the official file again."


def data_root(root: str | os.PathLike[str], what: str) -> Path:
    """Return the folder of a data set, absolute.

    Raises FileNotFoundError if there is none, NotADirectoryError if it is a file.
    """
    folder = Path(root).expanduser().absolute()
    if not folder.exists():
        raise FileNotFoundError(
            f"no folder {folder}; expected that of {what} (data/README.md lists what goes in it)"
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected the folder of {what}")
    return folder


def folder_with(file: str, folders: Iterable[Path], remedy: str) -> Path:
    """Return the first folder that has a file. Raises FileNotFoundError that names all of them."""
    folders = list(dict.fromkeys(folders))
    for folder in folders:
        if (folder / file).is_file():
            return folder
    looked = "".join(f"\n  {folder}" for folder in folders)
    raise FileNotFoundError(f"no {file}; looked in{looked}\n{remedy}")


def read_table(path: Path, columns: Sequence[str], remedy: str = _OFFICIAL) -> pd.DataFrame:
    """Read some columns of a CSV file as text, NaN for empty cells. Row 1 is the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no CSV file, or lacks columns; the message lists those it has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}. {remedy}")
    try:
        header = pd.read_csv(path, nrows=0).columns
        lacking = [column for column in columns if column not in header]
        if not lacking:
            table = pd.read_csv(path, usecols=list(columns), dtype=str)[list(columns)]
            # pandas takes the first column for an index if rows are longer than the header.
            if not isinstance(table.index, pd.RangeIndex):
                raise ValueError("rows have more cells than the header")
            table.index = table.index + 2
            return table
    # pandas' parser errors are ValueErrors.
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}. {remedy}") from error
    has = ", ".join(map(str, header))
    raise ValueError(f"{path}: no column {', '.join(lacking)}; it has {has}. {remedy}")


def integers(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column of a table as int64: whole numbers, 0 or more."""
    text = table[column]
    wrong = ~text.str.fullmatch(r"\d{1,18}(\.0*)?").fillna(False).astype(bool)
    _refuse(path, text, wrong, "a whole number, 0 or more")
    return text.str.replace(r"\..*", "", regex=True).astype(np.int64)


def numbers(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column of a table as float64: finite numbers, 0 or more."""
    values = pd.to_numeric(table[column], errors="coerce").astype(float)
    _refuse(path, table[column], ~values.between(0, 1e300), "a number, 0 or more")
    return values


def clock_times(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column of times such as 00:01:02.70, hours:minutes:seconds, in seconds."""
    text = table[column]
    parts = text.str.extract(f"^{_CLOCK.pattern}$")
    _refuse(path, text, parts[0].isna(), "a time as h:m:s, such as 00:01:02.70")
    hours, minutes, seconds = (parts[part].astype(float) for part in range(3))
    # By the hundredth of a microsecond, so that 1.7 is 1.7 however it is summed.
    return (3600 * hours + 60 * minutes + seconds).round(8)


def _refuse(path: Path, text: pd.Series, wrong: pd.Series, expected: str) -> None:
    if wrong.any():
        row = text.index[wrong.to_numpy()][0]
        value = text[row]
        got = "an empty cell" if pd.isna(value) else repr(value)
        raise ValueError(f"{path}, row {row}: {text.name}: expected {expected}; got {got}")
