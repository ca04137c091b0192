"""What networks return: logits or probabilities, alone or in a tuple, a dict or a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

__all__ = ["are_probabilities", "as_logits", "named_outputs", "pick_output", "tensors_in"]


def named_outputs(output: Any, batch: int = 1) -> dict[str, torch.Tensor]:
    """Return a network's outputs by name, each (batch, N).

    Outputs of a single number count only if there are no others.

    A single tensor is called "logits"; the entries of a tuple "0", "1", …; an entry `logits` of a
    dict or dataclass comes first.

    Raises:
        ValueError: there is no such tensor.
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
            f"expected the network to return logits (1, N), or a tuple or a dict of them; "
            f"got {_describe(output)}"
        )
    rows = {name: part for name, part in parts.items() if _is_row(part, batch)}
    rows = {name: row for name, row in rows.items() if row.shape[1] > 1} or rows
    if not rows:
        got = ", ".join(f"{name}: {_describe(part)}" for name, part in parts.items())
        raise ValueError(f"expected the network to return logits (1, N), got {got or 'nothing'}")
    return rows


def pick_output(outputs: Mapping[str, Any], name: str | None) -> str:
    """Return `name`, or the first output's name if it is None; KeyError lists the outputs."""
    if name is None:
        return next(iter(outputs))
    if name not in outputs:
        raise KeyError(f"the network has no output {name!r}; there are {', '.join(outputs)}")
    return name


def are_probabilities(row: torch.Tensor) -> bool:
    """Return whether numbers (N,) are a softmax: none negative, and their sum is 1."""
    row = row.detach()
    return bool(row.min() >= 0) and abs(float(row.sum()) - 1) < 1e-3 and bool(row.isfinite().all())


def as_logits(rows: torch.Tensor) -> torch.Tensor:
    """Return outputs (batch, N) as float32 logits.

    The logarithms of probabilities are logits up to a constant.
    """
    rows = rows.float()
    return rows.clamp(min=1e-30).log() if are_probabilities(rows[0]) else rows


def tensors_in(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in what a network returns, however they are packed."""
    if isinstance(output, torch.Tensor):
        yield output
        return
    if isinstance(output, Mapping):
        output = list(output.values())
    elif dataclasses.is_dataclass(output):
        output = list(vars(output).values())
    for part in output if isinstance(output, (tuple, list)) else ():
        yield from tensors_in(part)


def _is_row(part: Any, batch: int) -> bool:
    return (
        isinstance(part, torch.Tensor)
        and part.ndim == 2
        and len(part) == batch
        and part.shape[1] > 0
    )


def _describe(part: Any) -> str:
    if isinstance(part, torch.Tensor):
        return f"a tensor {tuple(part.shape)}"
    return type(part).__name__
