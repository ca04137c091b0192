"""Files and folders: a file that appears whole or not at all, and what a folder lists."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["listed", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `path` at the end, or vanishes on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def listed(folder: Path) -> list[str]:
    """Return the names in a folder; none where there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
