"""Do recorded means replicate on other clips?"""

from __future__ import annotations

from typing import cast

import pandas as pd

from ..metrics.confidence import Interval, difference
from .evaluation import compare
from .study_methods import TWINS

__all__ = ["replicated", "replication_text"]


def replicated(again: pd.DataFrame, record: pd.DataFrame) -> pd.DataFrame:
    """Compare the means of `methods` on other clips with the recorded ones.

    Both are means of samples, so a new mean may well lie outside the recorded one's interval:
    what has to hold 0 is the interval of their difference (`wb.metrics.difference`). Of 95 %
    intervals one in twenty does not, if nothing differs. Rows are not independent: methods share
    clips, and metrics share tubes.

    Args:
        again: a `methods` table on other clips, of any number.
        record: the table to compare with, `study.recorded("methods")`.

    Returns:
        A DataFrame, a row per data set, method and metric: `again`, `recorded`, `difference`,
        `low`, `high`, and `apart`, whether the interval excludes 0. Methods that coincide with
        another on this network (`TWINS`) are left out, and metrics that are not in both.

    Raises:
        ValueError: the clips are those of the record.
    """
    key = ["data", "method", "metric"]
    same = ["data", "clip", "action", "method", "box share"]  # names are the same for every seed
    if len(again.merge(record, on=same)) > len(again) / 2:
        raise ValueError("these are the recorded clips: take another seed")
    means = []
    for table in (again, record):
        own = table[~table["method"].isin(TWINS)]
        # These two are the clips', whatever the method.
        own = own.drop(columns=["box share", "probability"], errors="ignore")
        means.append(compare(own).set_index(key))
    both = means[0].join(means[1].add_suffix(" recorded"), how="inner")
    rows = []
    for place, row in both.iterrows():
        first = Interval(row["mean"], row["low"], row["high"])
        second = Interval(row["mean recorded"], row["low recorded"], row["high recorded"])
        gap = difference(first, second)
        values = {
            "again": first.mean,
            "recorded": second.mean,
            "difference": gap.mean,
            "low": gap.low,
            "high": gap.high,
            "apart": gap.low > 0 or gap.high < 0,
        }
        rows.append(dict(zip(key, cast(tuple, place))) | values)
    return pd.DataFrame(rows)


def replication_text(table: pd.DataFrame) -> str:
    """Return how many means of a `replicated` table differ, how many may, and which they are."""
    apart = table[table["apart"]].drop(columns="apart").round(3)
    return (
        f"{len(apart)} of {len(table)} differences exclude 0 at 95 %; "
        f"{0.05 * len(table):.0f} would if nothing differs\n\n{apart.to_string(index=False)}"
    )
