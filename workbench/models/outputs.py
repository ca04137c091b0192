"""What networks return: logits, probabilities, or several of them in a tuple or a dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["are_probabilities", "named_outputs", "pick_output"]


def named_outputs(output: Any, batch: int = 1) -> dict[str, torch.Tensor]:
    """Return a network's outputs by name, each (batch, N) with N > 1.

    Those of a tuple are named by position, "0", "1", …; an entry `logits` of a dict comes first. Raises ValueError
    where there is no such tensor.
    """
    if isinstance(output, torch.Tensor):
        parts: dict[str, Any] = {"logits": output}
    elif isinstance(output, Mapping) or dataclasses.is_dataclass(output):
        items = output.items() if isinstance(output, Mapping) else vars(output).items()
        parts = {str(name): part for name, part in items}
        parts = {name: parts[name] for name in sorted(parts, key=lambda name: name != "logits")}
    elif isinstance(output, (tuple, list)):
        parts = {str(number): part for number, part in enumerate(output)}
    else:
        raise ValueError(
            f"expected the network to return logits (1, N), a tuple or a dict of such; got {_told(output)}"
        )
    found = {name: part for name, part in parts.items() if _is_row(part, batch)}
    if not found:
        told = ", ".join(f"{name}: {_told(part)}" for name, part in parts.items())
        raise ValueError(
            f"expected the network to return logits (1, N) with N > 1, got {told or 'nothing'}"
        )
    return found


def pick_output(outputs: Mapping[str, Any], name: str | None) -> str:
    """Return the name of the output asked for, or the first one's; KeyError lists what there is."""
    if name is None:
        return next(iter(outputs))
    if name not in outputs:
        raise KeyError(f"the network has no output {name!r}; there are {', '.join(outputs)}")
    return name


def are_probabilities(row: torch.Tensor) -> bool:
    """Tell whether numbers (N,) are a softmax: none negative, their sum 1."""
    row = row.detach()
    return bool(row.min() >= 0) and abs(float(row.sum()) - 1) < 1e-3 and bool(row.isfinite().all())


def _is_row(part: Any, batch: int) -> bool:
    return (
        isinstance(part, torch.Tensor)
        and part.ndim == 2
        and len(part) == batch
        and part.shape[1] > 1
    )


def _told(part: Any) -> str:
    return (
        f"a tensor {tuple(part.shape)}" if isinstance(part, torch.Tensor) else type(part).__name__
    )
