"""Figure 1, the method: from activation maps to a tube, and the tubes of single features."""

from __future__ import annotations

from functools import partial

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from ...clips.clip import Clip
from ...saliency.explanation import Explanation
from ...saliency.tubes import Tube
from ...views.overlays import heat
from .page import (
    COLORS,
    GAP,
    LABEL,
    STYLE,
    Page,
    colour_bar,
    flat_colour_bar,
    frame_size,
    heat_bar,
    picks,
    row_title,
    strip,
)
from .printed import enlarged

__all__ = ["method_figure"]

KEPT, LEFT_OUT = "#00798c", "#b0b7bf"  # features
ACTIVATION, EVIDENCE = "viridis", "RdBu_r"  # colour maps: from 0, and signed
MAP = 0.24  # inches, the side of a small map


def method_figure(
    ex: Explanation, tube: Tube, clip: Clip, features: int = 3, count: int = 8
) -> Figure:
    """Draw Fig. 1: from activation maps to a tube, step by step, and the tubes of single features.

    Args:
        ex: the explanation whose numbers are drawn.
        tube: of one of its classes, with the τ to show.
        clip: the same frames at the size to print, `print_view`; or `ex.clip`.
        features: how many of the kept features to follow, those that contribute most to the logit.
            One feature left out is shown too: the one that would have contributed most, for or
            against.
        count: frames across.
    """
    followed, left_out = _followed_features(ex, tube, features)
    shape = _shape(len(ex.clip), *ex.clip.size)
    chosen = picks(len(clip), count)
    _, high = frame_size(clip, count)
    maps_end = 1.72 + 0.27 * (len(followed) + len(left_out)) + 0.42  # where the small maps end
    with matplotlib.style.context(STYLE):
        page = Page(maps_end + 0.46 + 3 * high + len(followed) * (high + GAP))
        # (a) The clip goes through the network ...
        page.title(0.02, f"(a)  The tube of “{tube.label}”, step by step")
        strip(page, 0.36, clip.frames[chosen], f"clip\n{shape}", clip.times[chosen])
        page.arrow(LABEL + 0.9, 0.42 + high, "network, to its last convolution")
        # ... its activation maps are weighted ...
        _weighted_maps(page, 0.74 + high, ex, tube, followed=followed, left_out=left_out)
        y = maps_end + high - 0.5
        summing = f"sum over the {tube.kept} features kept (Eq. 2)"
        page.arrow(LABEL + 4.95, y - 0.02, summing, left=True)
        # ... summed, and interpolated to the clip's size.
        _summed_map(page, y + 0.24, tube, clip, count)
        y += 0.3 + high
        page.arrow(LABEL + 0.9, y, f"cubic spline, to {shape}, over the frames")
        strip(page, y + 0.26, heat(clip, enlarged(tube, clip))[chosen], f"tube\n{shape}")
        heat_bar(page, y + 0.26, high)
        # (b) The same without the sum: one feature at a time.
        y += 0.42 + high
        page.title(y, "(b)  Single features: each map by itself, interpolated the same way")
        for number, channel in enumerate(followed):
            own = heat(clip, enlarged(ex.feature_tube(channel), clip))
            place = y + 0.22 + number * (high + GAP)
            strip(page, place, own[chosen], f"feature\n$j$ = {channel}")
        if followed:
            heat_bar(page, y + 0.22, len(followed) * (high + GAP) - GAP)
    return page.figure


def _followed_features(ex: Explanation, tube: Tube, count: int) -> tuple[list[int], list[int]]:
    """Return the kept features that contribute most, and the largest left out (or none)."""
    table = ex.channels(tube.target, top=None)
    channels = table["channel"].to_numpy(dtype=int)
    contribution = np.abs(table["contribution"].to_numpy())
    kept = np.isin(channels, tube.channels)
    followed = channels[kept][:count].tolist()
    if kept.all():
        return followed, []
    return followed, [int(channels[~kept][contribution[~kept].argmax()])]


def _weighted_maps(
    page: Page, y: float, ex: Explanation, tube: Tube, *, followed: list[int], left_out: list[int]
) -> None:
    """Draw activation maps, class weights, and their product (Eq. 1), a row per feature."""
    shown = followed + left_out
    maps = ex.activations[shown].cpu().numpy()  # (K, T', H', W')
    weights = ex.class_weights(tube.target).cpu().numpy()
    weights = weights if weights.ndim == 1 else weights.mean((1, 2, 3))
    products = maps * weights[shown][:, None, None, None]
    for x, words in (
        (0.98, f"activation maps $a_j$\n{_shape(*ex.activations.shape)}"),
        (2.95, f"class weights $y_j$ of\n“{tube.label}”"),
        (4.95, "weighted maps\n$z_j = y_j \\, a_j$"),
    ):
        page.text(LABEL + x, y + 0.02, words, ha="center", va="top", linespacing=1.3)
    top, height = y + 0.36, MAP * len(maps) + GAP * (len(maps) - 1)
    spread = float(np.abs(products).max())
    positive, signed = Normalize(0, float(maps.max())), TwoSlopeNorm(0, -spread, spread)
    for number, channel in enumerate(shown):
        row, name = top + number * (MAP + GAP), f"$j$ = {channel}"
        _small_maps(page, LABEL, row, maps[number], norm=positive, cmap=ACTIVATION, name=name)
        _small_maps(
            page,
            LABEL + 3.97,
            row,
            products[number],
            norm=signed,
            cmap=EVIDENCE,
            crossed=channel in left_out,
        )
    bars = top + height + 0.06
    colors = ScalarMappable(positive, ACTIVATION)
    ticks = [0.0, float(maps.max())]
    flat_colour_bar(page, LABEL + 0.48, bars, colors, name="activation", ticks=ticks)
    colors = ScalarMappable(signed, EVIDENCE)
    ticks = [-spread, 0.0, spread]
    flat_colour_bar(page, LABEL + 4.45, bars, colors, name="evidence", ticks=ticks)
    for x, sign in ((2.1, "×"), (3.85, "=")):
        page.text(LABEL + x, top + height / 2, sign, ha="center", va="center", size=12)
    axes = page.axes(LABEL + 2.5, top, width=1.2, height=height)
    _weight_bars(axes, weights, tube, marked=shown)


def _small_maps(
    page: Page,
    x: float,
    y: float,
    maps: np.ndarray,
    *,
    norm: Normalize,
    cmap: str,
    name: str = "",
    crossed: bool = False,
) -> None:
    """Draw maps (T', H', W') side by side; pale and crossed out if the feature is left out."""
    chosen = picks(len(maps), 8)
    axes = page.axes(x, y, width=MAP * len(chosen), height=MAP)
    alpha = 0.25 if crossed else 1
    _draw_maps(axes, maps[chosen], norm=norm, cmap=cmap, share=0.92, alpha=alpha)
    axes.set(xlim=(0, len(chosen)))
    row_title(axes, name, pad=4)
    if crossed:
        axes.text(len(chosen) / 2, 0.5, "left out: $y_j$ < τ", ha="center", va="center")


def _weight_bars(axes: Axes, weights: np.ndarray, tube: Tube, *, marked: list[int]) -> None:
    """Draw class weights (C,) as bars, largest first, τ as a line, a dot on features `marked`."""
    order = np.argsort(-weights)
    kept, place = np.isin(order, tube.channels), np.arange(len(order))
    axes.bar(place[kept], weights[order][kept], 1.0, color=KEPT)
    axes.bar(place[~kept], weights[order][~kept], 1.0, color=LEFT_OUT)
    inside = partial(axes.text, transform=axes.transAxes, size=7)
    inside(1, 1, f"{kept.sum()} kept", ha="right", va="top", color=KEPT)
    if not kept.all():
        words = f"{(~kept).sum()} left\nout"
        inside(0.06, 0.03, words, ha="left", va="bottom", color="0.4")
    if tube.tau is not None:
        axes.axhline(tube.tau, color=COLORS[0], lw=0.9, ls="--")
        words = f"τ = {tube.tau:.2g}"
        axes.text(len(order), tube.tau, words, ha="right", va="bottom", color=COLORS[0], size=7)
    for channel in marked:
        rank = int(np.flatnonzero(order == channel)[0])
        axes.plot(rank, weights[channel], "o", ms=2.6, mfc="white", mec="black", mew=0.6)
    low, high = min(0.0, float(weights.min())), float(weights.max())
    spread = high - low
    axes.set(xlim=(-1, len(order)), ylim=(low - 0.02 * spread, high + 0.08 * spread))
    axes.set_xlabel("feature $j$, sorted")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(pad=1.5)


def _summed_map(page: Page, y: float, tube: Tube, clip: Clip, count: int) -> None:
    """Draw the sum of the weighted maps, (T', H', W'), each map as large as a frame of the clip."""
    width, height = frame_size(clip, count)
    maps = tube.map[picks(len(tube.map), count)]
    spread = max(float(np.abs(tube.map).max()), 1e-12)
    norm = TwoSlopeNorm(0, -spread, spread)
    axes = page.axes(LABEL, y, width=len(maps) * (width + GAP) - GAP, height=height)
    share = width / (width + GAP)
    _draw_maps(axes, maps, norm=norm, cmap=EVIDENCE, share=share)
    axes.set(xlim=(0, len(maps) - 1 + share))
    row_title(axes, f"$\\Sigma_j\\,z_j$\n{_shape(*tube.map.shape)}")
    colors = ScalarMappable(norm, EVIDENCE)
    colour_bar(page, y, colors, height=height, name="evidence", ticks=(-spread, 0, spread))


def _draw_maps(
    axes: Axes, maps: np.ndarray, *, norm: Normalize, cmap: str, share: float, alpha: float = 1
) -> None:
    """Draw maps (K, H', W') side by side, unsmoothed; map k covers k to k + `share` along x."""
    for number, values in enumerate(maps):
        axes.imshow(
            values,
            cmap,
            norm,
            extent=(number, number + share, 1, 0),
            aspect="auto",
            interpolation="nearest",
            alpha=alpha,
        )
    axes.set(ylim=(1, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _shape(*lengths: int) -> str:
    return "×".join(map(str, lengths))
