"""Damaged and hostile checkpoints: every one loads, or is refused with ValueError and its path.

Each case writes a valid checkpoint with one seeded mutation (of its bytes, of a tensor, or of its
layout), and loads it with `wb.load_model`.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .isolation import Row, run_cases

BACKBONE = "mobilenet_v3_small"
FEATURES = 1024  # in front of its classifier
MEMORY = 2 << 30  # bytes that the cases of a process may take beyond what the libraries have


def run(seed: int, count: int) -> list[Row]:
    """Load `count` mutated checkpoints, each in at most 10 s and 2 GB; returns a row for each."""
    return run_cases("checkpoints", judge, [(f"{seed}/{n}", (seed, n)) for n in range(count)])


def judge(case: tuple[int, int]) -> tuple[str, str]:
    """Write and load one checkpoint; returns "loaded" or "ValueError", and the mutation."""
    limit_memory()
    rng = np.random.default_rng(case)
    torch.manual_seed(case[1])
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "ran"
        mutation, path = mutate(Path(folder), rng, mark)
        outcome, message = load(path)
        if mark.exists():
            raise AssertionError(f"{mutation}: code in the file was run")
    if outcome != "loaded" and str(path) not in message:
        raise AssertionError(f"{mutation}: no path in {message!r}")
    if "weights_only" in message:
        raise AssertionError(f"{mutation}: torch's advice in {message!r}")
    return outcome, f"{mutation}: {message}"


def load(path: Path) -> tuple[str, str]:
    """Load a checkpoint the way a user does; an exception that is not documented passes on."""
    import workbench as wb

    name = "mfnet3d" if path.stem == "mfnet" else f"tsn/{BACKBONE}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wb.load_model(name, checkpoint=path, device="cpu")
    except ValueError as error:
        return "ValueError", str(error)
    return "loaded", ""


@cache
def limit_memory() -> None:
    """Limit this process's address space, so that a greedy case fails instead of the machine."""
    import torchvision  # noqa: F401

    import workbench.models.zoo  # noqa: F401

    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


class Evil:
    """A pickle that leaves a file behind if its code is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w')",)


# ---- valid checkpoints to begin with


def mfnet() -> dict[str, Any]:
    return {"state_dict": dict(mfnet_state())}


@cache
def mfnet_state() -> dict[str, torch.Tensor]:
    from workbench.models.networks.mfnet import MFNet3d

    return MFNet3d(3).state_dict()


@cache
def backbone_state() -> dict[str, torch.Tensor]:
    from workbench.models.libraries import picture_network

    state = picture_network(BACKBONE).module.state_dict()
    own = {name: value for name, value in state.items() if not name.startswith("classifier.3.")}
    return {f"base_model.{name}": value for name, value in own.items()}


def linear(name: str, rows: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.zeros(rows, FEATURES), f"{name}.bias": torch.zeros(rows)}


def epic55() -> dict[str, Any]:
    state = {**backbone_state(), **linear("fc_verb", 125), **linear("fc_noun", 352)}
    return {
        "model_type": "tsn", "epoch": 80, "segment_count": 8, "modality": "RGB",
        "arch": BACKBONE, "consensus_type": "avg",
        "args": argparse.Namespace(dropout=0.7, arch=BACKBONE), "state_dict": state,
    }  # fmt: skip


def epic100() -> dict[str, Any]:
    state = {**backbone_state(), **linear("new_fc", 397)}
    data = {
        "frame_count": 8, "test_frame_count": 25,
        "preprocessing": {"bgr": False, "rescale": True, "input_size": 224, "scale_size": 256,
                          "mean": [0.485, 0.456, 0.406], "std": [0.485, 0.456, 0.406]},
        "test_augmentation": {"rescale_size": 256},
    }  # fmt: skip
    hyper = {"modality": "RGB", "model": {"type": "TSN", "backbone": BACKBONE}, "data": data}
    state = {f"model.{name}": value for name, value in state.items()}
    return {"epoch": 40, "hyper_parameters": hyper, "state_dict": state}


# ---- mutations: of a file's bytes, of its tensors, of its layout


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    # Half of the damage goes to the first bytes, where the structure is.
    for _ in range(int(rng.integers(1, 40))):
        reach = len(damaged) if rng.random() < 0.5 else min(len(damaged), 60_000)
        damaged[int(rng.integers(0, reach))] ^= 1 << int(rng.integers(0, 8))
    return bytes(damaged)


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(content)))
    length = min(int(rng.integers(1, 5000)), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def noise(content: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(1, 10_000)))


def doubled(content: bytes, rng: np.random.Generator) -> bytes:
    return content + content[int(rng.integers(0, len(content))) :]


BYTES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut": cut,
    "bits flipped": flipped,
    "zeroed": zeroed,
    "noise": noise,
    "appended": doubled,
}


def quantised(value: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)


TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "half": lambda value: value.half(),
    "double": lambda value: value.double(),
    "bfloat16": lambda value: value.bfloat16(),
    "float8": lambda value: value.to(torch.float8_e4m3fn),
    "int32": lambda value: value.to(torch.int32),
    "uint16": lambda value: value.to(torch.uint16),
    "bool": lambda value: value.bool(),
    "complex": lambda value: value.to(torch.complex64),
    "NaN": lambda value: torch.full_like(value, float("nan"), dtype=torch.float32),
    "1e300": lambda value: torch.full_like(value, 1e300, dtype=torch.float64),
    "sparse": lambda value: value.to_sparse(),
    "meta": lambda value: value.to("meta"),
    "quantised": quantised,
    "expanded to terabytes": lambda value: torch.zeros(1).expand(10**9, *value.shape[1:]),
    "no dimension": lambda value: torch.tensor(1.0),
    "no rows": lambda value: value[:0] if value.ndim else value,
    "too many rows": lambda value: torch.zeros(1_000_000, 1),
    "transposed": lambda value: value.transpose(0, -1) if value.ndim else value,
    "parameter": lambda value: torch.nn.Parameter(value, requires_grad=False),
    "not a tensor": lambda value: [1, 2],
    "None": lambda value: None,
    "nested": lambda value: torch.nested.nested_tensor([value.float(), value.float()]),
}
ODD: list[Any] = [
    None, True, -1, 0, 1.5, float("nan"), 10**400, "", "x", b"x", [], [1], {}, {"a": 1}, (1, 2, 3),
    [0.1, 0.2], ["a", "b", "c"], [1e300, 1, 1], [-1, -1, -1], torch.zeros(3),
]  # fmt: skip


def places(content: dict[Any, Any]) -> list[tuple[dict[Any, Any], Any]]:
    """Every (dict, key) in a checkpoint's layout, without the names of its tensors."""
    found: list[tuple[dict[Any, Any], Any]] = []
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            continue
        found.append((content, key))
        if isinstance(value, dict):
            found += places(value)
    return found


def layout(content: dict[str, Any], rng: np.random.Generator, mark: Path) -> tuple[str, Any]:
    """Change one thing of a layout; returns what was done, and the content."""
    kinds = ["value", "missing", "key", "itself", "code", "head", "names"]
    kind = str(rng.choice(kinds, p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))
    entries = places(content)
    inside, key = entries[int(rng.integers(len(entries)))]
    state = content["state_dict"]
    if kind == "value":
        inside[key] = ODD[int(rng.integers(len(ODD)))]
    elif kind == "missing":
        del inside[key]
    elif kind == "key":
        odd_key = [1, None, (1, 2), b"x", 1.5][int(rng.integers(5))]
        target = state if rng.random() < 0.5 else inside
        target[odd_key] = torch.zeros(1)
    elif kind == "itself":
        inside[key] = content
        if rng.random() < 0.5:
            content["state_dict"] = content
    elif kind == "code":
        inside[key] = Evil(mark)
    elif kind == "head":
        heads = head_names(state)
        del state[heads[int(rng.integers(len(heads)))]]
    else:
        prefix = ["fc_.", "fc_a b.", "module.", "model.model.", "new_fc."][int(rng.integers(5))]
        state[f"{prefix}weight"] = torch.zeros(2, 2)
    return f"layout: {kind}", content


def head_names(state: dict[Any, Any]) -> list[str]:
    heads = ("fc_verb.", "fc_noun.", "new_fc.", "model.new_fc.", "classifier.")
    return [name for name in state if str(name).startswith(heads)]


def mutate(folder: Path, rng: np.random.Generator, mark: Path) -> tuple[str, Path]:
    """Write one damaged checkpoint; returns the mutation's name and the path."""
    make = [mfnet, epic55, epic100][int(rng.integers(3))]
    content = make()
    path = folder / f"{make.__name__}.pth"
    family = str(rng.choice(["bytes", "tensor", "layout"]))
    if family == "layout":
        name, content = layout(content, rng, mark)
    elif family == "tensor":
        change = str(rng.choice(list(TENSORS)))
        state = content["state_dict"]
        # Heads have code of their own: half of the damage goes there.
        keys = head_names(state) if rng.random() < 0.5 else list(state)
        key = keys[int(rng.integers(len(keys)))]
        state[key] = TENSORS[change](state[key])
        name = f"tensor: {change}"
    write = str(rng.choice(["zip", "legacy", "pickle"], p=[0.6, 0.3, 0.1]))
    if write == "pickle" and family != "tensor":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "zip")
    if family == "bytes":
        change = str(rng.choice(list(BYTES)))
        path.write_bytes(BYTES[change](path.read_bytes(), rng))
        name = f"bytes: {change}"
    return f"{make.__name__}, {name}", path
