"""A tiny network and clips for the tests of sweeps, importable by the processes that they start."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import workbench as wb
from workbench.datasets.table import Dataset

CLASSES = ["a", "b", "c", "d", "e", "f", "g", "h"]
SPEC = wb.InputSpec(frames=8, resize=(32, 32))


class Tiny(nn.Module):
    """Maps of 12×4×8×8, average pooling and a linear layer; or a head that is not linear."""

    def __init__(self, linear: bool = True, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv3d(3, 12, 3, stride=(2, 4, 4), padding=1)
        self.relu = nn.ReLU()
        self.head = (
            nn.Linear(12, 8)
            if linear
            else nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3, 4)))


class Several(nn.Module):
    """Three outputs of one map: by gradients, by a linear head, by sigmoids behind a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(3, 12, 3, stride=(2, 4, 4), padding=1)
        self.relu = nn.ReLU()
        self.manner = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))
        self.verb = nn.Linear(12, 8)
        self.norm = nn.LayerNorm(12)
        self.noun = nn.Linear(12, 5)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = self.relu(self.conv(x)).mean((2, 3, 4))
        nouns = self.sigmoid(self.noun(self.norm(pooled)))
        return {"manner": self.manner(pooled), "verb": self.verb(pooled), "noun": nouns}


def several() -> wb.VideoModel:
    return wb.wrap_model(Several().eval(), SPEC, CLASSES, device="cpu", name="several")


def tiny(linear: bool = True, seed: int = 0, spec: wb.InputSpec = SPEC) -> wb.VideoModel:
    return wb.wrap_model(Tiny(linear, seed).eval(), spec, CLASSES, device="cpu", name="tiny")


def clips(count: int = 20, flags: Path | None = None, pause: float = 0.0) -> Dataset:
    """Clips of noise, whose reading takes a while, is counted, and fails, all by files in `flags`."""
    names = [f"clip_{number:03d}" for number in range(count)]
    index = pd.DataFrame(
        {
            "class": [CLASSES[number % 8] for number in range(count)],
            "class_id": [number % 8 for number in range(count)],
            "seed": range(count),
            "start": 0.0,
            "stop": 0.32,
            "duration": 0.32,
            "flags": str(flags or ""),
            "pause": pause,
        },
        index=pd.Index(names, name="name"),
    )
    return Dataset(index, CLASSES, read, title="noise")


def read(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
    time.sleep(row["pause"])
    if row["flags"]:
        flags = Path(row["flags"])
        if (flags / f"fail_{row.name}").exists():
            raise wb.ClipError(f"{row.name} is damaged")
        with (flags / "reads").open("a") as file:
            file.write(f"{row.name}\n")
    rng = np.random.default_rng(row["seed"])
    small = rng.integers(0, 255, (8, 4, 4, 3), dtype=np.uint8)
    pixels = small.repeat(12, axis=1).repeat(12, axis=2)
    return wb.Clip(pixels, 25, name=str(row.name), label=row["class"])


def reads(flags: Path) -> list[str]:
    """Return the names of the clips that were read, in order."""
    path = flags / "reads"
    return path.read_text().split() if path.exists() else []


def contents(store: Path) -> dict[str, bytes]:
    """Return every file of a store's shards."""
    return {path.name: path.read_bytes() for path in sorted((store / "shards").iterdir())}


def sweep_slowly(path: str) -> None:
    """Run in a process of its own, to be killed."""
    torch.set_num_threads(1)
    wb.sweep(clips(40, pause=0.01), tiny(), path, batch=4, progress=False)


def deadly(data: Dataset, name: str) -> Dataset:
    """A data set one of whose clips kills the process that reads it."""
    return replace(data, reader=partial(_read_deadly, name))


def _read_deadly(name: str, row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
    if row.name == name:
        os._exit(1)
    return read(row, frames, stride)
