"""The table of scores, its means and their intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ...metrics.confidence import Interval, bootstrap
from .measures import PEAK

__all__ = ["Scores", "read_scores"]

# Columns that say what a row is about; all others are scores.
KEYS = (
    "data",
    "clip",
    "actor",
    "class",
    "group",
    "method",
    "kind",
    "informative",
    "centre hits",
    "fills the clip",
    *PEAK,
)


class Scores(pd.DataFrame):
    """A table of scores, a row per clip, actor and method; `attrs` holds the provenance."""

    @property
    def _constructor(self) -> type[Scores]:
        return Scores

    def summary(self, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Return the mean of every score by method, with bootstrap intervals over groups.

        Args:
            level: of the intervals.
            seed: of the bootstrap.

        Returns:
            A DataFrame indexed by `clips` ("all", "informative" or "uninformative"), `method` and
            `metric`, with `mean`, `low`, `high`, `rows` and `groups`. The interval is NaN for fewer
            than two groups. Rows in which a score is NaN are left out of its mean.
        """
        rows = []
        parts = {
            "all": self,
            "informative": self[self["informative"]],
            "uninformative": self[~self["informative"]],
        }
        metrics = [name for name in self.columns if name not in KEYS]
        for which, part in parts.items():
            for method, table in part.groupby("method", sort=False):
                for metric in metrics:
                    known = table[table[metric].notna()]
                    if len(known):
                        mean = _mean(known, metric, level, seed)
                        rows.append({"clips": which, "method": method, "metric": metric, **mean})
        columns = ["clips", "method", "metric", "mean", "low", "high", "rows", "groups"]
        return pd.DataFrame(rows, columns=columns).set_index(["clips", "method", "metric"])


def _mean(rows: pd.DataFrame, metric: str, level: float, seed: int) -> dict[str, float]:
    values = rows[metric].to_numpy(dtype=np.float64)
    groups = rows["group"].to_numpy(dtype=str)
    count = len(np.unique(groups))
    if count < 2:  # one group says nothing about how groups differ
        interval = Interval(float(values.mean()), np.nan, np.nan)
    else:
        interval = bootstrap(values, groups, level=level, seed=seed)
    return {**interval._asdict(), "rows": len(values), "groups": count}


def read_scores(path: str | Path) -> Scores:
    """Return the scores that a Parquet file holds; `attrs` is their provenance.

    Raises:
        FileNotFoundError: no such file.
    """
    table = pd.read_parquet(path)
    scores = Scores(table)
    scores.attrs.update(table.attrs)
    return scores
