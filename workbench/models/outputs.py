"""What networks return: logits or probabilities, alone or in a tuple, a dict or a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

__all__ = ["are_probabilities", "as_logits", "named_outputs", "pick_output", "tensors_in"]


def named_outputs(
    output: Any, batch: int = 1, frames: int = 1, wanted: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Return a network's outputs by name: (batch, N), or three axes if there are answers over time.

    A single tensor is called "logits"; the entries of a tuple "0", "1", …, those of a dict within
    it "1.name"; an entry `logits` of a dict or dataclass comes first. Axes of one number at the end
    are left out, and (batch · frames, N) becomes (batch, frames, N).

    Args:
        output: what the network returned.
        batch: number of clips it saw.
        frames: their length.
        wanted: names of outputs that may have three axes though others have two. Without any, such
            tensors are taken for hidden states if there is an output of two axes.

    Outputs of a single number count only if there are no others.

    Raises:
        ValueError: there is no such tensor.
    """
    parts = _named_parts(output)
    if parts is None:
        raise ValueError(
            f"expected the network to return logits (1, N), or a tuple or a dict of them; "
            f"got {_describe(output)}"
        )
    found = {name: _as_answers(part, batch, frames) for name, part in parts.items()}
    answers = {name: each for name, each in found.items() if each is not None}
    rows = {name: each for name, each in answers.items() if each.ndim == 2 and each.shape[1] > 1}
    timed = {name: each for name, each in answers.items() if each.ndim == 3}
    if not rows and "logits" in timed:
        rows["logits"] = timed["logits"]
    chosen = {n: each for n, each in answers.items() if n in rows or (n in timed and n in wanted)}
    if not rows:
        chosen = timed or answers
    if not chosen:
        got = ", ".join(f"{name}: {_describe(part)}" for name, part in parts.items())
        raise ValueError(
            "expected the network to return logits (1, N), or (1, T, N) for answers over time; "
            f"got {got or 'nothing'}"
        )
    return chosen


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
    """Return outputs (batch, N) or (batch, T, N) as float32 logits.

    The logarithms of probabilities are logits up to a constant.
    """
    rows = rows.float()
    first = rows[0] if rows.ndim == 2 else rows[0, 0]
    return rows.clamp(min=1e-30).log() if are_probabilities(first) else rows


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


def _named_parts(output: Any) -> dict[str, Any] | None:
    """Return the parts of an output by name; None if it is nothing that holds tensors."""
    if isinstance(output, torch.Tensor):
        return {"logits": output}
    if isinstance(output, Mapping) or dataclasses.is_dataclass(output):
        items = output.items() if isinstance(output, Mapping) else vars(output).items()
        parts = {str(name): part for name, part in items}
        return {name: parts[name] for name in sorted(parts, key=lambda name: name != "logits")}
    if not isinstance(output, (tuple, list)):
        return None
    found: dict[str, Any] = {}
    for number, part in enumerate(output):
        nested = isinstance(part, Mapping) or dataclasses.is_dataclass(part)
        inner = _named_parts(part) if nested else None
        if inner is None:
            found[str(number)] = part
        else:
            found |= {f"{number}.{name}": each for name, each in inner.items()}
    return found


def _as_answers(part: Any, batch: int, frames: int) -> torch.Tensor | None:
    """Return a tensor as (batch, N) or with three axes; None for anything else."""
    if not isinstance(part, torch.Tensor) or not part.numel():
        return None
    while part.ndim > 3 and part.shape[-1] == 1:
        part = part.squeeze(-1)
    if part.ndim == 2 and frames > 1 and len(part) == batch * frames:
        return part.unflatten(0, (batch, frames))
    return part if part.ndim in (2, 3) and len(part) == batch else None


def _describe(part: Any) -> str:
    if isinstance(part, torch.Tensor):
        return f"a tensor {tuple(part.shape)}"
    return type(part).__name__
