"""Checkpoints: files of weights, read without running any code that is in them, and fitted strictly."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

__all__ = ["load_strictly", "read_checkpoint", "read_file", "state_in"]

# A pickle may name anything that can be imported. Besides tensors and plain values, one type more is let through:
# the arguments of the training, which the EPIC-Kitchens action models keep in their files.
ALLOWED: list[Any] = [argparse.Namespace]
INSIDE = ("state_dict", "model_state_dict", "model_state", "model")
WRAPPERS = ("module.", "_orig_mod.")  # nn.DataParallel, torch.compile


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a file by `torch.save` (of any age) or safetensors, without running any code in it.

    A training's checkpoint is unpacked: what is inside `state_dict`, `model_state_dict`, `model_state` or `model`.
    `module.` and `_orig_mod.` are taken from the names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, broken, or one that needs more than tensors, plain values and
            `argparse.Namespace`; the message names what it needs.
    """
    return state_in(read_file(path), path)


def read_file(path: str | Path) -> Any:
    """Read all that a checkpoint holds, onto the CPU. Raises what `read_checkpoint` raises."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a broken file breaks the unpickler in any way there is
        raise ValueError(_told(path, error)) from error


def state_in(content: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """Return the state dict in what a checkpoint holds; raises ValueError with the path where there is none."""
    while isinstance(content, dict) and (
        inner := [k for k in INSIDE if isinstance(content.get(k), dict)]
    ):
        content = content[inner[0]]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(v, torch.Tensor) for v in content.values())
    ):
        raise ValueError(
            f"{path} holds no state dict: expected names and tensors, or a dict with 'state_dict'"
        )
    state = dict(content)
    while wrapper := next(
        (each for each in WRAPPERS if all(name.startswith(each) for name in state)), None
    ):
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def load_strictly(module: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dict that has exactly the module's names and shapes and only finite numbers.

    The one thing that may be missing is batch norm's count of batches, which files from before PyTorch 0.4.1 lack.
    Raises ValueError that lists what is missing, what is extra, and what has another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    if all(name.endswith("num_batches_tracked") for name in missing):
        state, missing = {**{name: own[name] for name in missing}, **state}, []
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{source} is no checkpoint of {type(module).__name__}: "
            f"{_some('missing', missing)}; {_some('extra', extra)}; {_some('other shape', shapes)}"
        )
    bad = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if bad:
        raise ValueError(f"{source} holds NaN or infinite weights: {_some('in', bad)}")
    module.load_state_dict(state, strict=True)


def _told(path: Path, error: Exception) -> str:
    """Say what is wrong with a file, and for one that needs more than is allowed, what that is and what to do."""
    refused = re.search(r"GLOBAL ([\w.]*\w) (was|whose)", str(error))
    if refused is None:
        inner = re.search(
            r"WeightsUnpickler error: (.+)", str(error)
        )  # around it torch advises to load anything
        reason = inner[1] if inner else (str(error) or type(error).__name__).splitlines()[0]
        return f"{path} ({path.stat().st_size:,} bytes) is not a checkpoint that can be read safely: {reason}"
    return (
        f"{path} needs {refused[1]}, which could run code: of a checkpoint only tensors, plain values and "
        "argparse.Namespace are read. If you trust its source, save its weights alone, where they can be read: "
        "torch.save(torch.load(path, weights_only=False)['state_dict'], 'weights.pth')"
    )


def _some(what: str, names: list[str], most: int = 6) -> str:
    more = f", … ({len(names) - most} more)" if len(names) > most else ""
    return f"{len(names)} {what}" + (f": {', '.join(names[:most])}{more}" if names else "")
