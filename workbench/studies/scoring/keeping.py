"""Rows that a run keeps in a Parquet file, with what they depend on, so that it can resume."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from ...clips.files import whole_file
from ...datasets.table import Dataset
from ...models.video_model import VideoModel
from .tables import Scores, read_scores

__all__ = ["KeptRows", "score_provenance"]

SAVE_EVERY = 30.0  # seconds


class KeptRows:
    """Rows that are kept in a Parquet file, if there is a path; saved on every way out."""

    def __init__(self, path: str | Path | None, provenance: dict[str, object]) -> None:
        self.path = None if path is None else Path(path)
        self.provenance = provenance
        self.table = pd.DataFrame()
        self.rows: list[dict[str, object]] = []
        if self.path is not None and self.path.is_file():
            self._resume(self.path)
        self.done = set(self.table["clip"]) if len(self.table) else set()
        self.saved = time.monotonic()

    def __enter__(self) -> KeptRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._save()

    def __contains__(self, name: str) -> bool:
        return name in self.done

    def add(self, name: str, rows: list[dict[str, object]]) -> None:
        """Keep a clip's rows."""
        self.rows += rows
        self.done.add(name)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self._save()

    def scores(self, clips: pd.Index | None = None) -> Scores:
        """Return the rows of these clips; None: all, those of earlier runs too."""
        if self.rows:
            self.table = pd.concat([self.table, pd.DataFrame(self.rows)], ignore_index=True)
            self.rows = []
        table = self.table
        if clips is not None and len(table):
            table = table[table["clip"].isin(clips)].reset_index(drop=True)
        scores = Scores(table)
        scores.attrs.update(self.provenance)
        return scores

    def _resume(self, path: Path) -> None:
        earlier = read_scores(path)
        for key, value in self.provenance.items():
            if key != "date" and earlier.attrs.get(key) != value:
                raise ValueError(
                    f"{path} holds another run: its {key} is {earlier.attrs.get(key)!r}, and this "
                    f"one's {value!r}. Give another path, or remove the file"
                )
        self.table = pd.DataFrame(earlier)
        self.provenance["date"] = earlier.attrs["date"]

    def _save(self) -> None:
        table = self.scores()
        self.saved = time.monotonic()
        if self.path is not None and len(table):
            with whole_file(self.path) as part:
                table.to_parquet(part, index=False)


def score_provenance(
    data: Dataset, model: VideoModel, methods: Sequence[str], settings: dict[str, object]
) -> dict[str, object]:
    """Return what a table of scores depends on."""
    digest = hashlib.sha256()
    for name, tensor in model.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": data.title,
        "model": model.name,
        "weights": digest.hexdigest(),
        "input": repr(model.input),
        "methods": list(methods),
        **settings,
        "workbench": version("saliency-workbench"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pandas", "scikit-image")},
    }
