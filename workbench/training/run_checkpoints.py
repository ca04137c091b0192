"""Checkpoints: files that are there whole or not at all, and that can be read without running code in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

__all__ = ["read_state", "write_state"]


def write_state(path: Path, content: dict[str, Any]) -> None:
    """Write a dict of tensors, numbers, texts, lists and dicts with `torch.save`, under its name only once complete.

    Raises OSError where that fails, for a full disk say; a file that was there before is left as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports some failed writes as RuntimeError
        partial.unlink(missing_ok=True)
        kept = "the one before is as it was" if path.is_file() else "there was none before"
        raise OSError(
            f"the checkpoint {path} cannot be written ({error}): make room for it; {kept}"
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_state(path: Path, keys: set[str]) -> dict[str, Any]:
    """Read what `write_state` wrote; ValueError where it is none, or lacks one of the keys."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: {error}. Remove it, or resume=False"
        ) from error
    if not isinstance(content, dict) or not keys <= content.keys():
        raise ValueError(
            f"{path} is no checkpoint of wb.fine_tune: give another output=, or resume=False"
        )
    return content
