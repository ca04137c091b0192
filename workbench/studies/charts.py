"""Charts of the study: means with their intervals by method and split, and curves, for notebooks and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .figures import STYLE

__all__ = ["curves", "dots"]

_STYLE = {**STYLE, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120}
_COLOURS = ("#1f5fa8", "#c44e18", "#2d8a4e", "#7a4fa3", "#a0781e", "#4a4a4a")
_OWN = "#1f5fa8"
_OTHER = "#8a8a8a"


def dots(
    means: pd.DataFrame,
    metric: str,
    *,
    highlight: Sequence[str] = (),
    marks: Mapping[str, float] | None = None,
    title: str = "",
    width: float = 7.0,
) -> Figure:
    """Draw one metric: a panel a data set, a row a method, the mean as a dot and its interval as a line.

    Args:
        means: as `evaluation.compare` returns it: data, method, metric, mean, low, high.
        metric: which of its metrics.
        highlight: methods drawn in colour; the others are grey.
        marks: name to a value at which a dashed line is drawn (chance, a bound).
        title: what is to be read; the metric's name stands at the axis.
        width: inches.
    """
    part = means[means["metric"] == metric]
    panels, methods = list(part["data"].unique()), list(part["method"].unique())[::-1]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(width, 0.19 * len(methods) + 0.9),
            sharey=True,
            sharex=True,
            layout="constrained",
        )
        for ax, panel in zip([axes] if len(panels) == 1 else axes, panels):
            rows = part[part["data"] == panel].set_index("method")
            for place, method in enumerate(methods):
                row, colour = rows.loc[method], _OWN if method in highlight else _OTHER
                ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
                ax.plot(row["mean"], place, "o", color=colour, markersize=4)
            for name, value in (marks or {}).items():
                ax.axvline(value, color="#000000", linewidth=0.6, linestyle=(0, (4, 3)), label=name)
            ax.set_title(panel.removeprefix("samples, "))
            ax.set_yticks(range(len(methods)), methods)
            ax.grid(axis="x", color="#e6e6e6", linewidth=0.6)
            ax.set_axisbelow(True)
        _name(figure, metric, title)
    return figure


def curves(
    means: pd.DataFrame,
    x: str,
    metrics: Sequence[str],
    *,
    label: str = "",
    log: bool = False,
    title: str = "",
    width: float = 7.0,
) -> Figure:
    """Draw metrics against a column: a panel a metric, a curve a data set, its interval as a band.

    Args:
        means: data, `x`, metric, mean, low, high.
        x: a column of numbers, or of texts in the order in which they are to stand.
        metrics: which, one panel each.
        label: of the x axis.
        log: whether it is logarithmic.
        title: what is to be read.
        width: inches.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(metrics), figsize=(width, 2.1), layout="constrained", squeeze=False
        )
        for ax, metric in zip(axes[0], metrics):
            for (name, rows), colour in zip(
                means[means["metric"] == metric].groupby("data", sort=False), _COLOURS
            ):
                ax.fill_between(
                    rows[x], rows["low"], rows["high"], color=colour, alpha=0.2, linewidth=0
                )
                ax.plot(rows[x], rows["mean"], "o-", color=colour, markersize=3, linewidth=1.2,
                        label=str(name).removeprefix("samples, "))  # fmt: skip
            ax.set_title(metric)
            ax.grid(color="#e6e6e6", linewidth=0.6)
            if log:
                ax.set_xscale("log")
                places = sorted(means[x].unique())[::2]
                ax.set_xticks(places, [f"{place:g}" for place in places])
                ax.minorticks_off()
            if means[x].dtype.kind not in "if":
                ax.tick_params(axis="x", rotation=45)
        axes[0][0].legend(frameon=False, fontsize=7)
        _name(figure, label or x, title)
    return figure


def _name(figure: Figure, label: str, title: str) -> None:
    figure.supxlabel(label, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
