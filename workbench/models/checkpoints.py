"""Checkpoints: read without running any code in them, and loaded only if they fit exactly."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

__all__ = ["class_count", "load_strictly", "read_checkpoint", "read_file", "state_in"]

# A pickle may name anything that can be imported. Besides tensors and plain values, only the
# training arguments are allowed, which the EPIC-Kitchens action models keep in their files.
ALLOWED: list[Any] = [argparse.Namespace]
NESTED = ("state_dict", "model_state_dict", "model_state", "model")
WRAPPERS = ("module.", "_orig_mod.")  # nn.DataParallel, torch.compile
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
MOST_CLASSES = 100_000  # a damaged head must not ask for all memory
LISTED = 6  # names in an error message
RESAVE = (
    "If you trust its source, load it in the program that made it and save the weights alone: "
    "torch.save(network.state_dict(), 'weights.pth')"
)


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a `torch.save` file (of any age) or a safetensors file.

    No code in the file is run. If the file holds more than weights, the weights are taken from
    `state_dict`, `model_state_dict`, `model_state` or `model`. The prefixes `module.` and
    `_orig_mod.` are removed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, damaged, or one that needs more than dense tensors, plain
            values and `argparse.Namespace`; the message names what it needs.
    """
    return state_in(read_file(path), path)


def read_file(path: str | Path) -> Any:
    """Read everything a checkpoint holds, onto the CPU. Raises what `read_checkpoint` raises."""
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
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise ValueError(_unreadable(path, error)) from error


def state_in(content: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """Return the state dict inside the content of a checkpoint.

    Raises ValueError with the path if there is none, or if it holds anything but dense tensors
    with text names.
    """
    state = _plain_state(_innermost(content, path), path)
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in state)), None):
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def class_count(state: dict[str, torch.Tensor], name: str, source: str) -> int | None:
    """Return the number of rows of a head's weights, None if the state dict has no such weights.

    Raises ValueError if the weights cannot be those of a linear layer or a convolution.
    """
    weight = state.get(name)
    if weight is None:
        return None
    if weight.ndim < 2 or not 1 <= len(weight) <= MOST_CLASSES:
        raise ValueError(
            f"{source}: {name} has the shape {tuple(weight.shape)}, expected (classes, features)"
        )
    return len(weight)


def load_strictly(module: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dict that has exactly the module's names and shapes, without losing a value.

    Floating-point weights are converted to the module's precision (half to float, for example).
    Only batch norm's count of batches may be missing, as in files from before PyTorch 0.4.1.

    Raises:
        ValueError: names are missing or extra, shapes differ, a number is NaN or infinite or
            becomes so in the module's precision, or the kind of number differs (integer or complex
            weights for a float network).
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    if all(name.endswith("num_batches_tracked") for name in missing):
        state = {**{name: own[name] for name in missing}, **state}
        missing = []
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
    kinds = [
        f"{name} {state[name].dtype}, expected {own[name].dtype}"
        for name in own
        if _kind(state[name]) != _kind(own[name])
    ]
    if kinds:
        raise ValueError(
            f"{source} holds another kind of number: {_some('tensors', kinds)}. {RESAVE}"
        )
    # After the conversion, because 1e300 is a number as float64 and infinite as float32.
    bad = [name for name in own if not _survives(state[name], own[name].dtype)]
    if bad:
        raise ValueError(
            f"{source} holds weights that are NaN, infinite or out of range as "
            f"{own[bad[0]].dtype}: {_some('in', bad)}"
        )
    module.load_state_dict(state, strict=True)


def _innermost(content: Any, path: str | Path) -> Any:
    """Return what is inside all the `state_dict` and `model` entries of a checkpoint."""
    seen: set[int] = set()
    while isinstance(content, dict):
        # A pickle can hold a dict that contains itself.
        if id(content) in seen:
            raise ValueError(f"{path} holds no state dict: the file contains itself. {RESAVE}")
        seen.add(id(content))
        inner = next((key for key in NESTED if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = content[inner]
    return content


def _plain_state(content: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """Check that the content is a dict of text names and dense tensors, and return a copy."""
    if not isinstance(content, dict) or not content:
        raise ValueError(_no_state(path, f"got {_described(content)}"))
    for name, value in content.items():
        if not isinstance(name, str):
            raise ValueError(_no_state(path, f"got the key {name!r:.60}, which is not a text"))
        if not isinstance(value, torch.Tensor):
            raise ValueError(_no_state(path, f"{name!r:.60} is {_described(value)}"))
        problem = _not_dense(value)
        if problem:
            raise ValueError(
                f"{path}: {name!r:.60} is {problem}, expected a dense tensor. {RESAVE}"
            )
    return dict(content)


def _not_dense(value: torch.Tensor) -> str:
    """Return what keeps a tensor from being used as weights; "" if nothing does."""
    if value.is_meta:
        return "a tensor without values (meta)"
    if value.is_quantized:
        return "a quantised tensor"
    if value.is_nested or value.layout != torch.strided:
        return "a sparse or nested tensor"
    # A few bytes can claim to be a tensor of terabytes if all its strides are 0.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"a tensor {tuple(value.shape)} with fewer values than that"
    return ""


def _kind(value: torch.Tensor) -> str:
    if value.is_floating_point():
        return "float"
    return "integer" if value.dtype in INTEGERS else str(value.dtype)


def _survives(value: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether floats are finite, and integers the same, in another precision."""
    converted = value.to(dtype)
    if dtype.is_floating_point:
        return bool(converted.isfinite().all())
    return converted.tolist() == value.tolist()


def _no_state(path: str | Path, got: str) -> str:
    expected = "names and tensors, or a dict with 'state_dict'"
    return f"{path} holds no state dict: expected {expected}; {got}"


def _described(value: Any) -> str:
    empty = isinstance(value, (dict, list)) and not value
    return f"{'an empty' if empty else 'a'} {type(value).__name__}"


def _unreadable(path: Path, error: Exception) -> str:
    """Say why a file cannot be read, without torch's advice to load it with any code in it."""
    refused = re.search(r"GLOBAL ([\w.]*\w) (was|whose)", str(error))
    if refused is not None:
        return (
            f"{path} needs {refused[1]}, which could run code: only tensors, plain values and "
            f"argparse.Namespace are read from a checkpoint. {RESAVE}"
        )
    size = f"{path.stat().st_size:,} bytes"
    # Around the unpickler's reason, torch advises to load the file with any code in it.
    inner = re.search(r"WeightsUnpickler error: (.+)", str(error))
    if inner is not None:
        return f"{path} ({size}) cannot be read safely: {inner[1]}. {RESAVE}"
    if "legacy .tar format" in str(error):
        return f"{path} ({size}) is in PyTorch's .tar format of 2016. {RESAVE}"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "weights_only" in reason:
        reason = type(error).__name__
    return f"{path} ({size}) is not a checkpoint, or is damaged: {reason}. Get the file again"


def _some(what: str, names: list[str]) -> str:
    """Count names and list the first of them: "2 missing: a, b"."""
    if not names:
        return f"0 {what}"
    more = f", … ({len(names) - LISTED} more)" if len(names) > LISTED else ""
    return f"{len(names)} {what}: {', '.join(names[:LISTED])}{more}"
