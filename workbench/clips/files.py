"""Files that appear whole or not at all, and the names in a folder."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["file_names", "remove_orphans", "whole_file"]

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, if this is one

# A temporary name: .<stem>.<host>-<process id>-<random>.part<suffix>
_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
_TEMPORARY = re.compile(r"\..*\.(?P<host>\w+)-(?P<process>\d+)-[0-9a-f]{8}\.part(\.[^.]*)?")
_swept: set[Path] = set()  # folders that this process has cleared of orphans


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path`, or is removed after an error.

    The temporary file lies beside `path` and has its suffix. It reaches the disk before it is
    renamed, so that a power cut leaves the old file or the new one. Missing folders are made. The
    first write of a process into a folder also removes what killed processes left there.

        with whole_file(path) as temporary:
            temporary.write_bytes(content)

    Raises OSError if the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    if folder not in _swept:
        _swept.add(folder)
        remove_orphans(folder)
    writer = f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    # A name may have 255 bytes: a long stem is shortened.
    temporary = path.with_name(f".{path.stem[:40]}.{writer}.part{path.suffix}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        if os.name == "posix":
            _flush(folder)
    finally:
        temporary.unlink(missing_ok=True)


def remove_orphans(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the temporary files of killed processes from a folder, and return their names.

    Files of running processes, and of other computers that share the folder, stay.
    """
    removed = []
    for name in file_names(Path(folder)):
        match = _TEMPORARY.fullmatch(name)
        if match is None or match["host"] != _HOST or psutil.pid_exists(int(match["process"])):
            continue
        Path(folder, name).unlink(missing_ok=True)
        removed.append(name)
    return removed


def file_names(folder: Path) -> list[str]:
    """Return the names in a folder, an empty list if there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
