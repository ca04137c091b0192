"""Charts of the study: means with their intervals by method and split, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["curves", "dots"]

STYLES = [Path(__file__).with_name(f"{name}.mplstyle") for name in ("print", "chart")]
COLOURS = ("#1f5fa8", "#c44e18", "#2d8a4e", "#7a4fa3", "#a0781e", "#4a4a4a")
HIGHLIGHTED, OTHERS = "#1f5fa8", "#8a8a8a"


def dots(
    means: pd.DataFrame,
    metric: str,
    *,
    highlight: Sequence[str] = (),
    marks: Mapping[str, float] | None = None,
    title: str = "",
    width: float = 7.0,
) -> Figure:
    """Draw one metric: a panel per data set, a row per method, means with their intervals.

    Args:
        means: as `evaluation.compare` returns it: data, method, metric, mean, low, high.
        metric: which of its metrics.
        highlight: methods drawn in colour; the others are grey.
        marks: name to a value at which a dashed line is drawn (chance, a bound).
        title: what is to be read; the metric's name stands at the axis.
        width: inches.
    """
    part = means[means["metric"] == metric]
    panels = list(part["data"].unique())
    methods = list(part["method"].unique())[::-1]  # the first method on top
    with plt.style.context(STYLES):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(width, 0.19 * len(methods) + 0.9),
            sharey=True,
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        for ax, panel in zip(axes[0], panels):
            rows = part[part["data"] == panel].set_index("method")
            for place, method in enumerate(methods):
                if method not in rows.index:  # measured on other panels only
                    continue
                row = rows.loc[method]
                colour = HIGHLIGHTED if method in highlight else OTHERS
                ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
                ax.plot(row["mean"], place, "o", color=colour, markersize=4)
            for name, value in (marks or {}).items():
                ax.axvline(value, color="#000000", linewidth=0.6, linestyle=(0, (4, 3)), label=name)
            ax.set_title(_split(panel))
            ax.set_yticks(range(len(methods)), methods)
            ax.grid(axis="x")
        _write_titles(figure, metric, title)
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
    """Draw metrics against a column: a panel per metric, a curve with its band per data set.

    Args:
        means: data, `x`, metric, mean, low, high.
        x: a column of numbers, or of texts in the order of the axis.
        metrics: which, one panel for each.
        label: of the x axis.
        log: whether it is logarithmic.
        title: what is to be read.
        width: inches.
    """
    with plt.style.context(STYLES):
        figure, axes = plt.subplots(
            1, len(metrics), figsize=(width, 2.1), layout="constrained", squeeze=False
        )
        for ax, metric in zip(axes[0], metrics):
            by_data = means[means["metric"] == metric].groupby("data", sort=False)
            for (name, rows), colour in zip(by_data, COLOURS):
                data = _split(str(name))
                ax.fill_between(rows[x], rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
                ax.plot(rows[x], rows["mean"], "o-", color=colour, ms=3, lw=1.2, label=data)
            ax.set_title(metric)
            ax.grid()
            _format_x_axis(ax, means[x], log)
        axes[0][0].legend(frameon=False, fontsize=7)
        _write_titles(figure, label or x, title)
    return figure


def _format_x_axis(ax: Axes, values: pd.Series, log: bool) -> None:
    if log:
        ax.set_xscale("log")
        ticks = sorted(values.unique())[::2]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    if not pd.api.types.is_numeric_dtype(values):
        ax.tick_params(axis="x", rotation=45)


def _split(data: str) -> str:
    return data.removeprefix("samples, ")


def _write_titles(figure: Figure, label: str, title: str) -> None:
    figure.supxlabel(label, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
