"""The folder of a training: `latest.pt` to resume from, `best.pt`, and a lock."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..clips.files import whole_file
from ..models.checkpoints import read_file

__all__ = ["RunFolder", "read_state", "write_state"]

LATEST = {"run", "state_dict", "optimizer", "step", "curve", "best", "classes", "settings"}
BEST = {"run", "state_dict", "epoch", "accuracy", "loss"}
# Temporary files of `whole_file`, and of the first versions of this package.
ORPHANS = (".latest.*.part.pt", ".best.*.part.pt", "latest.pt.*.partial", "best.pt.*.partial")


class RunFolder:
    """Where one training keeps its state and its best network.

    Both files carry the id of the run that wrote them, so that one run's best network is never
    returned as another's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = uuid.uuid4().hex

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Reserve the folder, and remove the temporary files of killed runs.

        Raises RuntimeError if another training is writing to the folder, and OSError if it cannot
        be written to.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"another training is writing to {self.path}: "
                "wait until it ends, or give another output="
            ) from None
        try:
            for pattern in ORPHANS:
                for orphan in self.path.glob(pattern):
                    orphan.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write `latest.pt` or `best.pt`; raises OSError, as `write_state`."""
        write_state(self.path / name, {"run": self.run, **content})

    def read(self) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """Return the latest state and the best network (None before the first validation).

        Returns None if there is nothing to resume from. Raises ValueError if the files cannot be
        read or were written by two different runs.
        """
        path = self.path / "latest.pt"
        if not path.is_file():
            return None
        latest = read_state(path, LATEST)
        if latest["best"] is None:
            return latest, None
        best = read_state(self.path / "best.pt", BEST)
        if best["run"] != latest["run"]:
            raise ValueError(
                f"{self.path / 'best.pt'} was written by another training than {path}: put back "
                "the file that belongs here, give another output=, or start anew with resume=False"
            )
        return latest, best


def write_state(path: Path, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values with `torch.save`, completely or not at all.

    Raises OSError if that fails (a full disk, for example); an earlier file stays as it was.
    """
    try:
        with whole_file(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:  # torch reports some failed writes as RuntimeError
        kept = "the one before is as it was" if path.is_file() else "there was none before"
        raise OSError(
            f"the checkpoint {path} cannot be written ({error}): make room for it; {kept}"
        ) from error


def read_state(path: Path, keys: set[str]) -> dict[str, Any]:
    """Read a file by `write_state`; raises ValueError if it is invalid or lacks one of the keys."""
    remedy = "give another output=, or start anew with resume=False"
    try:
        content = read_file(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot resume: {error}; {remedy}") from error
    if not isinstance(content, dict) or not keys <= content.keys():
        raise ValueError(f"{path} is no checkpoint of wb.fine_tune, or of an old version: {remedy}")
    return content
