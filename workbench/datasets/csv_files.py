"""Annotation files: where they lie, and tables that hold what they must."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

__all__ = ["data_root", "folder_with", "read_table"]


def data_root(root: str | os.PathLike[str], what: str) -> Path:
    """Return the folder of a data set, absolute. Raises FileNotFoundError or NotADirectoryError where it is none."""
    folder = Path(root).expanduser().absolute()
    if not folder.exists():
        raise FileNotFoundError(
            f"no folder {folder}; expected that of {what} (data/README.md tells what goes in it)"
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected the folder of {what}")
    return folder


def folder_with(file: str, folders: Iterable[Path], remedy: str) -> Path:
    """Return the first folder that holds a file. Raises FileNotFoundError that names all of them."""
    folders = list(dict.fromkeys(folders))
    for folder in folders:
        if (folder / file).is_file():
            return folder
    looked = "".join(f"\n  {folder}" for folder in folders)
    raise FileNotFoundError(f"no {file}; looked in{looked}\n{remedy}")


def read_table(
    path: Path, columns: Sequence[str], remedy: str = "Get the official file again."
) -> pd.DataFrame:
    """Read some columns of a CSV file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no CSV file, or lacks columns; the message says which it has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}. {remedy}")
    try:
        header = pd.read_csv(path, nrows=0).columns
        lacking = [column for column in columns if column not in header]
        if not lacking:
            return pd.read_csv(path, usecols=list(columns))[list(columns)]
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"{path} cannot be read as CSV: {error}. {remedy}") from error
    raise ValueError(
        f"{path}: no column {', '.join(lacking)}; it has {', '.join(map(str, header))}. {remedy}"
    )
