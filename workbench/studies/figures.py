"""The paper's figures, for print: the method (Fig. 1), heat and focus (Fig. 2), a 2-D against a 3-D network (Fig. 3).

matplotlib, the width of a page (7 in), text of 7 points and more, fonts embedded. Every figure takes explanations and
tubes that are there already; no network is run.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from ..clips.clip import Action, Clip
from ..clips.packets import video_info
from ..clips.writing import save_video
from ..datasets.epic import epic_kitchens
from ..datasets.places import find_data
from ..datasets.samples import shipped
from ..datasets.table import Dataset
from ..datasets.ucf import ucf101
from ..metrics.temporal import temporal_auc
from ..models.input_spec import InputSpec
from ..models.video_model import VideoModel
from ..models.zoo import load_model
from ..saliency.explanations import Explanation
from ..saliency.tubes import Tube
from ..views.overlays import focus, heat
from ..views.pictures import filmstrip

__all__ = [
    "Panel", "comparison_figure", "enlarged", "film", "labelled", "method_figure", "network", "overlay_figure",
    "preview", "print_view", "save", "surrounded",
]  # fmt: skip

WIDTH = 7.0  # inches, both columns of a page
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "pdf.fonttype": 42,  # TrueType, embedded: journals refuse matplotlib's usual Type 3
    "savefig.dpi": 300,
}
KEPT, LEFT_OUT, ACTION = "#00798c", "#b0b7bf", "#edae49"
COLORS = ("#d1495b", "#00798c", "#66a182", "#2e4057")
_DIMMED = LinearSegmentedColormap.from_list(
    "dimmed", [(20 / 255,) * 3, (1.0,) * 3]
)  # white, by `focus`
LABEL, BAR, GAP = (
    0.86,
    0.56,
    0.03,
)  # inches: row titles at the left, colour bar at the right, between frames


@dataclass(frozen=True)
class Panel:
    """A tube to be drawn over a clip: what it is called, the clip at the size to print, and the tube of its frames."""

    title: str
    clip: Clip
    tube: Tube

    @property
    def heat(self) -> np.ndarray:
        """(T, H, W, 3) uint8: the heat tube at the clip's size."""
        return heat(self.clip, enlarged(self.tube, self.clip))

    @property
    def focus(self) -> np.ndarray:
        """(T, H, W, 3) uint8: the focus tube at the clip's size."""
        return focus(self.clip, enlarged(self.tube, self.clip))


def labelled(source: str) -> Dataset:
    """Return the clips to choose from: of "samples", "ucf101" or "epic" (the verbs of release 55, which has boxes).

    The two data sets are where `wb.find_data` finds them: the real ones, or samples in their layout. Only clips that
    are on the disk. Raises KeyError for another name.
    """
    if source == "samples":
        return shipped()
    if source == "ucf101":
        place = find_data(source)
        return ucf101(place, split=1, subset="test" if place.real else "train").present()
    if source == "epic":
        return epic_kitchens(
            find_data("epic-kitchens"), release=55, subset="train", task="verb"
        ).present()
    raise KeyError(f"no data set {source!r}; there are samples, ucf101 and epic")


def network(
    name: str, data: Dataset, checkpoint: str | Path | None = None, output: str | None = None
) -> VideoModel:
    """Load a network for the classes of a data set: a shipped one, or one from a checkpoint.

    A network of several outputs, a TSN for verbs and nouns, has the data set's classes at `output`. Raises what
    `wb.load_model` raises.
    """
    if name.startswith("samples/"):
        model = load_model(name)
        spelt = {
            each.lower(): each for each in data.classes
        }  # Stir in UCF-101's layout, stir in the network
        model.classes = [spelt.get(each.lower(), each) for each in model.classes or []]
        return model
    if output is None:
        return load_model(name, checkpoint=checkpoint, classes=data.classes)
    return load_model(name, checkpoint=checkpoint, classes={output: data.classes}, output=output)


def surrounded(
    data: Dataset, name: str, seconds: float, frames: int | None = None, stride: int | None = None
) -> Clip:
    """Read a segment with the seconds before and after it, so that there is a when to be found.

    The segment is the clip's action: `clip.action` is its start and stop, and `clip.action_boxes()` has the first box
    of each frame where the data set has boxes. A clip whose action is known to be a part of
    it (`wb.samples`) is read as it is. At the ends of the video there is less around a segment.

    Raises what `Dataset.read` raises, and ValueError for a clip that is a whole video.
    """
    row = data.index.loc[name].copy()
    start, stop = (float(str(row[end])) for end in ("start", "stop"))
    clip = data.read(name, frames, stride)
    if clip.action is not None and clip.action != (start, stop):
        return clip
    if not np.isfinite([start, stop]).all():
        raise ValueError(f"{name} is a whole video, not a segment of one: nothing surrounds it")
    video = clip.path is not None and clip.path.suffix.lower() in (".mp4", ".avi")
    end = video_info(clip.path).duration if clip.path is not None and video else np.inf
    row["start"], row["stop"] = max(0.0, start - seconds), min(end, stop + seconds)
    clip = data.reader(row, frames=frames, stride=stride)
    boxes = clip.boxes[:, 0] if clip.boxes is not None and clip.boxes.ndim == 3 else clip.boxes
    return replace(clip, actions=(Action(str(row["class"]), start, stop, boxes),))


def print_view(clip: Clip, spec: InputSpec) -> Clip:
    """Return the part of a clip that a network sees, in the pixels and the aspect of the file.

    A network squashes and shrinks its pictures; in print they are easier to read as they were. Frames are sampled
    as `spec.view` does, and the same part is cut out.
    """
    clip = clip if len(clip) == spec.frames else clip.sample(spec.frames, spec.stride)
    if spec.crop is None:
        return clip
    height, width = replace(spec, crop=None).view(clip).size
    tall, wide = spec.view(clip).size
    rows, columns = round(clip.size[0] * tall / height), round(clip.size[1] * wide / width)
    return clip.crop((clip.size[0] - rows) // 2, (clip.size[1] - columns) // 2, rows, columns)


def enlarged(tube: Tube, clip: Clip) -> Tube:
    """Return the tube with pictures of the clip's size, (T, H, W): linear between its pixels, frames as they are."""
    volume = torch.nn.functional.interpolate(
        torch.from_numpy(tube.volume)[None], size=clip.size, mode="bilinear"
    )
    return replace(tube, volume=volume[0].numpy())


def method_figure(
    ex: Explanation, tube: Tube, clip: Clip, features: int = 3, count: int = 8
) -> Figure:
    """Draw Fig. 1: from activation maps to a tube, step by step, and the tubes of single features.

    Args:
        ex: the explanation; its own numbers are drawn, no others.
        tube: of one of its classes, with the τ that is to be shown.
        clip: the same frames at the size to print, `print_view`; or `ex.clip`.
        features: how many of the kept features to follow, those that contribute most to the logit; of those left out
            the one is shown that would have contributed most, for or against.
        count: frames across.
    """
    with matplotlib.rc_context(STYLE):
        ordered = (
            ex.channels(tube.target, top=None)
            .astype({"channel": int})
            .set_index("channel")["contribution"]
        )
        kept = ordered.index.isin(tube.channels)
        followed, rest = ordered.index[kept][:features].tolist(), ordered[~kept].abs()
        left_out = [] if rest.empty else [rest.index[int(rest.argmax())]]
        rows = len(followed) + len(left_out)
        _, high = _frame_size(clip, count)
        steps = 1.72 + 0.27 * rows + 0.42  # from the top to the end of the middle part
        page = _Page(steps + 0.46 + 3 * high + len(followed) * (high + GAP))
        shape = "×".join(map(str, (len(ex.clip), *ex.clip.size)))
        picks, times = _picks(len(clip), count), clip.times
        page.title(0.02, f"(a)  The tube of “{tube.label}”, step by step")
        _strip(page, 0.36, clip.frames[picks], f"clip\n{shape}", times[picks])
        page.arrow(LABEL + 0.9, 0.42 + high, 0.2, "network, to its last convolution")
        _middle(page, 0.74 + high, ex, tube, followed, left_out)
        y = steps + high - 0.5
        page.arrow(
            LABEL + 4.95,
            y - 0.02,
            0.2,
            f"sum over the {tube.kept} features kept (Eq. 2)",
            left=True,
        )
        _map_strip(page, y + 0.24, tube, clip, count)
        y += 0.3 + high
        page.arrow(LABEL + 0.9, y, 0.2, f"cubic spline, to {shape}, over the frames")
        _strip(page, y + 0.26, heat(clip, enlarged(tube, clip))[picks], f"tube\n{shape}")
        _heat_bar(page, y + 0.26, high)
        y += 0.42 + high
        page.title(y, "(b)  Single features: each map by itself, interpolated the same way")
        for number, channel in enumerate(followed):
            own = enlarged(ex.feature_tube(channel), clip)
            place = y + 0.22 + number * (high + GAP)
            _strip(page, place, heat(clip, own)[picks], f"feature\n$j$ = {channel}")
        _heat_bar(page, y + 0.22, features * (high + GAP) - GAP)
    return page.figure


def overlay_figure(panels: Sequence[Panel], count: int = 7) -> Figure:
    """Draw Fig. 2: for each clip its frames with their times, its heat tube and its focus tube."""
    with matplotlib.rc_context(STYLE):
        heights = [_frame_size(panel.clip, count)[1] for panel in panels]
        page = _Page(sum(3 * height + 2 * GAP + 0.5 for height in heights) - 0.08)
        y = 0.02
        for panel, height in zip(panels, heights):
            picks = _picks(len(panel.clip), count)
            page.title(y, panel.title)
            y += 0.36
            drawn = (
                ("original", panel.clip.frames),
                ("heat tube", panel.heat),
                ("focus tube", panel.focus),
            )
            for number, (name, frames) in enumerate(drawn):
                times = panel.clip.times[picks] if number == 0 else None
                _strip(page, y + number * (height + GAP), frames[picks], name, times)
            _heat_bar(page, y + height + GAP, height)
            _bar(
                page,
                y + 2 * (height + GAP),
                height,
                ScalarMappable(Normalize(0, 1), _DIMMED),
                "saliency",
            )
            y += 3 * height + 2 * GAP + 0.14
    return page.figure


def comparison_figure(
    clip: Clip, panels: Sequence[Panel], title: str = "", count: int = 8
) -> Figure:
    """Draw Fig. 3: a clip with its annotated action, the tubes of several networks, and below when each speaks.

    Args:
        clip: at the size to print, with an annotated action; its boxes are drawn where there are any, in the frames
            of its interval.
        panels: for each network its name, the clip as it sees it, and the tube. One of other frames than the
            clip's, the segments of a TSN, is shown by its frame nearest in time.
        title: over the figure.
        count: frames across, evenly spaced; the time axis below is aligned with them.

    Raises:
        ValueError: no annotated action, or a tube that does not know its times.
    """
    if clip.action is None:
        raise ValueError(
            "expected a clip with an annotated action: `surrounded` reads a data set's segment so"
        )
    with matplotlib.rc_context(STYLE):
        highs = [
            _frame_size(each, count)[1] + GAP for each in (clip, *(panel.clip for panel in panels))
        ]
        page = _Page(0.36 + sum(highs) + 1.68)
        picks = _picks(len(clip), count)
        page.title(0.02, title)
        axes = _strip(page, 0.36, clip.frames[picks], "frames, box\nannotated", clip.times[picks])
        if clip.actions[0].boxes is not None:
            _boxes(axes, clip, picks)
        for number, panel in enumerate(panels, start=1):
            near = _nearest(_times(panel.tube), clip.times[picks])
            _strip(page, 0.36 + sum(highs[:number]), panel.heat[near], panel.title)
        _heat_bar(page, 0.36 + highs[0], sum(highs[1:]) - GAP)
        _over_time(
            page, 0.46 + sum(highs), clip, {panel.title: panel.tube for panel in panels}, picks
        )
    return page.figure


def film(rows: Mapping[str, np.ndarray], times: np.ndarray, height: int = 200) -> np.ndarray:
    """Lay several sets of frames below each other, with names and times: frames (T, H, W, 3) for `wb.save_video`.

    Of a set (T, H, W, 3) with fewer frames than there are times, the one at the same share of the clip is shown.
    """
    shown = []
    for number, time in enumerate(times):
        parts: list[np.ndarray] = []
        for name, frames in rows.items():
            at = round(number * (len(frames) - 1) / max(len(times) - 1, 1))
            over = np.array([time]) if not parts else None
            parts.append(
                filmstrip(frames[at : at + 1], 1, times=over, labels=[name], height=height)
            )
        wide = max(part.shape[1] for part in parts)
        blank = [((0, 4), (0, wide - part.shape[1]), (0, 0)) for part in parts]
        shown.append(
            np.concatenate(
                [np.pad(part, pad, constant_values=255) for part, pad in zip(parts, blank)]
            )
        )
    return np.stack(shown)


def save(
    figure: Figure,
    folder: str | Path,
    name: str,
    films: Mapping[str, np.ndarray] | None = None,
    fps: float = 8,
) -> list[Path]:
    """Write a figure as PNG (300 dpi) and PDF, and films as MP4; return the paths.

    A film goes by the figure's name and its own: `{"egocentric": frames}` becomes `<name>_egocentric.mp4`, and
    `{"": frames}` becomes `<name>.mp4`. The folder is made.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    with matplotlib.rc_context(STYLE):
        figure.savefig(paths[0])
        figure.savefig(
            paths[1], metadata={"CreationDate": None}
        )  # the same figure is the same file
    for own, frames in (films or {}).items():
        paths.append(save_video(folder / f"{name}{'_' if own else ''}{own}.mp4", frames, fps))
    return paths


def preview(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as a JPEG, small enough for a notebook."""
    written = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(written, format="jpeg", dpi=dpi, pil_kwargs={"quality": 80})
    return written.getvalue()


class _Page:
    """A figure whose parts are placed in inches from the upper left corner."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height))

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Return axes whose upper left corner is at (x, y)."""
        place = (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(place)

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Write words at (x, y)."""
        self.figure.text(x / WIDTH, 1 - y / self.height, words, **how)

    def title(self, y: float, words: str) -> None:
        """Write the bold line over a part of the figure; its top is at y."""
        self.text(0.04, y, words, va="top", weight="bold", size=8)

    def arrow(self, x: float, y: float, length: float, words: str, left: bool = False) -> None:
        """Draw an arrow down from (x, y), and beside it what is done there."""
        ends = [(x / WIDTH, 1 - end / self.height) for end in (y, y + length)]
        style = "simple,head_length=4,head_width=6,tail_width=2"
        self.figure.add_artist(
            FancyArrowPatch(*ends, arrowstyle=style, color="0.35", lw=0, shrinkA=0, shrinkB=0)
        )
        side = -0.09 if left else 0.09
        self.text(
            x + side,
            y + length / 2,
            words,
            va="center",
            ha="right" if left else "left",
            color="0.25",
        )


def _picks(frames: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced positions about the middle of `frames`."""
    count = min(count, frames)
    step = (frames - 1) // max(count - 1, 1)
    return (frames - 1 - step * (count - 1)) // 2 + step * np.arange(count)


def _times(tube: Tube) -> np.ndarray:
    if tube.times is None:
        raise ValueError(f"expected a tube that knows its times, got {tube!r}")
    return tube.times


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return for each of the wanted times the position of the nearest of `times`."""
    return np.abs(times[None] - wanted[:, None]).argmin(1)


def _frame_size(clip: Clip, count: int) -> tuple[float, float]:
    """Return width and height in inches of one of `count` frames across the page."""
    count = min(count, len(clip))
    width = (WIDTH - LABEL - BAR - (count - 1) * GAP) / count
    return width, width * clip.size[0] / clip.size[1]


def _strip(
    page: _Page, y: float, frames: np.ndarray, name: str, times: np.ndarray | None = None
) -> Axes:
    """Draw frames (K, H, W, 3) side by side over the page's width, each a unit of the x axis wide, and return its axes.

    A frame k covers k to k + 1 less the gap, and 0 to 1 down.
    """
    full = WIDTH - LABEL - BAR
    width = (full - (len(frames) - 1) * GAP) / len(frames)
    axes = page.axes(LABEL, y, full, width * frames.shape[1] / frames.shape[2])
    share = width / (width + GAP)
    for number, frame in enumerate(frames):
        axes.imshow(
            frame, extent=(number, number + share, 1, 0), interpolation="lanczos", aspect="auto"
        )
    axes.set(xlim=(0, len(frames) - 1 + share), ylim=(1, 0), yticks=[], xticks=[])
    axes.spines[:].set_visible(False)
    if times is not None:
        axes.set_xticks(np.arange(len(frames)) + share / 2, [f"{time:.2f} s" for time in times])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=2)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=5, linespacing=1.25)
    return axes


def _boxes(axes: Axes, clip: Clip, picks: np.ndarray) -> None:
    """Draw the boxes of the clip's first action over a strip of the frames `picks`."""
    height, width = clip.size
    share = axes.get_xlim()[1] - len(picks) + 1
    for number, box in enumerate(clip.action_boxes()[picks]):
        if np.isfinite(box).all():
            x0, y0, x1, y1 = box / (width, height, width, height)
            corner, size = (number + x0 * share, y0), ((x1 - x0) * share, y1 - y0)
            for color, weight in (("black", 2.0), ("white", 1.0)):
                axes.add_patch(
                    Rectangle(corner, *size, fill=False, ec=color, lw=weight, joinstyle="miter")
                )


def _bar(
    page: _Page,
    y: float,
    height: float,
    colors: ScalarMappable,
    name: str,
    ticks: Sequence[float] = (0, 1),
) -> None:
    """Draw a colour bar at the right of the strip at y."""
    axes = page.axes(
        WIDTH - BAR + 0.06, y + 0.05, 0.08, height - 0.1
    )  # its numbers are as high as that
    bar = page.figure.colorbar(colors, cax=axes, ticks=ticks)
    bar.outline.set_linewidth(0.4)
    bar.ax.set_yticklabels([_number(tick) for tick in ticks])
    axes.tick_params(pad=1.5)
    axes.set_ylabel(name, labelpad=1)


def _number(value: float) -> str:
    """Return a number in the two digits that there is room for."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _heat_bar(page: _Page, y: float, height: float) -> None:
    _bar(page, y, height, ScalarMappable(Normalize(0, 1), "jet"), "saliency")


def _middle(
    page: _Page, y: float, ex: Explanation, tube: Tube, followed: list[int], left_out: list[int]
) -> None:
    """Draw the middle of Fig. 1 (a): activation maps, class weights, and their product; y is the top."""
    maps = ex.activations[followed + left_out].cpu().numpy()  # (K, T', H', W')
    weights = ex.class_weights(tube.target).cpu().numpy()
    weights = weights if weights.ndim == 1 else weights.mean((1, 2, 3))
    products = maps * weights[followed + left_out][:, None, None, None]
    size = "×".join(map(str, ex.activations.shape))
    page.text(
        LABEL + 0.98,
        y + 0.02,
        f"activation maps $a_j$\n{size}",
        ha="center",
        va="top",
        linespacing=1.3,
    )
    page.text(
        LABEL + 2.95,
        y + 0.02,
        f"class weights $y_j$ of\n“{tube.label}”",
        ha="center",
        va="top",
        linespacing=1.3,
    )
    page.text(
        LABEL + 4.95,
        y + 0.02,
        "weighted maps\n$z_j = y_j \\, a_j$",
        ha="center",
        va="top",
        linespacing=1.3,
    )
    top, high = y + 0.36, 0.24 * len(maps) + GAP * (len(maps) - 1)
    spread = float(np.abs(products).max())
    plain, signed = Normalize(0, float(maps.max())), TwoSlopeNorm(0, -spread, spread)
    for number, channel in enumerate(followed + left_out):
        here, out = top + number * (0.24 + GAP), channel in left_out
        _small_maps(page, LABEL, here, maps[number], "viridis", plain, f"$j$ = {channel}")
        _small_maps(page, LABEL + 3.97, here, products[number], "RdBu_r", signed, "", crossed=out)
    _flat_bar(
        page,
        LABEL + 0.48,
        top + high + 0.06,
        ScalarMappable(plain, "viridis"),
        "activation",
        (0, plain.vmax),
    )
    ends = (-spread, 0, spread)
    _flat_bar(
        page, LABEL + 4.45, top + high + 0.06, ScalarMappable(signed, "RdBu_r"), "evidence", ends
    )
    page.text(LABEL + 2.1, top + high / 2, "×", ha="center", va="center", size=12)
    page.text(LABEL + 3.85, top + high / 2, "=", ha="center", va="center", size=12)
    axes = page.axes(LABEL + 2.5, top, 1.2, high)
    _weights(axes, weights, tube, followed + left_out)


def _weights(axes: Axes, weights: np.ndarray, tube: Tube, marked: list[int]) -> None:
    """Draw class weights (C,) as bars, largest first, with τ as a line and a dot on the features `marked`."""
    order = np.argsort(-weights)
    kept, place = np.isin(order, tube.channels), np.arange(len(order))
    axes.bar(place[kept], weights[order][kept], 1.0, color=KEPT)
    axes.bar(place[~kept], weights[order][~kept], 1.0, color=LEFT_OUT)
    axes.text(
        1,
        1,
        f"{kept.sum()} kept",
        transform=axes.transAxes,
        ha="right",
        va="top",
        color=KEPT,
        size=7,
    )
    if not kept.all():
        left_out = f"{(~kept).sum()} left\nout"
        axes.text(
            0.06,
            0.03,
            left_out,
            transform=axes.transAxes,
            ha="left",
            va="bottom",
            color="0.4",
            size=7,
        )
    if tube.tau is not None:
        axes.axhline(tube.tau, color=COLORS[0], lw=0.9, ls="--")
        axes.text(
            len(order),
            tube.tau,
            f"τ = {tube.tau:.2g}",
            ha="right",
            va="bottom",
            color=COLORS[0],
            size=7,
        )
    for channel in marked:
        where = int(np.flatnonzero(order == channel)[0])
        axes.plot(where, weights[channel], "o", ms=2.6, mfc="white", mec="black", mew=0.6)
    low, high = min(0.0, float(weights.min())), float(weights.max())
    axes.set(xlim=(-1, len(order)), ylim=(low - 0.02 * (high - low), high + 0.08 * (high - low)))
    axes.set_xlabel("feature $j$, sorted")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(pad=1.5)


def _small_maps(
    page: _Page,
    x: float,
    y: float,
    maps: np.ndarray,
    colors: str,
    norm: Normalize,
    name: str,
    crossed: bool = False,
) -> None:
    """Draw maps (T', H', W') side by side, 0.24 in each; crossed out where the feature is left out."""
    picks = _picks(len(maps), 8)
    axes = page.axes(x, y, 0.24 * len(picks), 0.24)
    for number, each in enumerate(maps[picks]):
        axes.imshow(each, colors, norm, extent=(number, number + 0.92, 1, 0), aspect="auto", interpolation="nearest",
                    alpha=0.25 if crossed else 1)  # fmt: skip
    axes.set(xlim=(0, len(picks)), ylim=(1, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=4)
    if crossed:
        axes.text(len(picks) / 2, 0.5, "left out: $y_j$ < τ", ha="center", va="center")


def _flat_bar(
    page: _Page, x: float, y: float, colors: ScalarMappable, name: str, ends: Sequence[float | None]
) -> None:
    axes = page.axes(x, y, 0.98, 0.06)
    ticks = [float(end or 0) for end in ends]
    bar = page.figure.colorbar(colors, cax=axes, orientation="horizontal", ticks=ticks)
    bar.outline.set_linewidth(0.4)
    bar.ax.set_xticklabels([_number(tick) for tick in ticks])
    axes.tick_params(pad=1)
    axes.set_xlabel(name, labelpad=0)


def _map_strip(page: _Page, y: float, tube: Tube, clip: Clip, count: int) -> None:
    """Draw the sum of the weighted maps, (T', H', W'), each as wide and high as a frame of the clip."""
    wide, high = _frame_size(clip, count)
    low = tube.map[_picks(len(tube.map), count)]
    spread = max(float(np.abs(tube.map).max()), 1e-12)
    norm = TwoSlopeNorm(0, -spread, spread)
    axes = page.axes(LABEL, y, len(low) * (wide + GAP) - GAP, high)
    share = wide / (wide + GAP)
    for number, each in enumerate(low):
        axes.imshow(each, "RdBu_r", norm, extent=(number, number + share, 1, 0), aspect="auto",
                    interpolation="nearest")  # fmt: skip
    axes.set(xlim=(0, len(low) - 1 + share), ylim=(1, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    shape = "×".join(map(str, tube.map.shape))
    axes.set_ylabel(
        f"$\\Sigma_j\\,z_j$\n{shape}",
        rotation=0,
        ha="right",
        va="center",
        labelpad=5,
        linespacing=1.25,
    )
    _bar(page, y, high, ScalarMappable(norm, "RdBu_r"), "evidence", (-spread, 0, spread))


def _over_time(
    page: _Page, y: float, clip: Clip, tubes: Mapping[str, Tube], picks: np.ndarray
) -> None:
    """Plot each frame's maximum of the tubes over time, aligned with the strip of the frames `picks` above it."""
    wide, _ = _frame_size(clip, len(picks))
    begin, end = clip.times[picks[[0, -1]]]
    pace = (end - begin) / ((len(picks) - 1) * (wide + GAP))  # seconds an inch
    latest = max(
        [end + pace * wide / 2, *(_times(tube)[-1] + pace * 0.05 for tube in tubes.values())]
    )
    first = begin - pace * wide / 2
    length = min((latest - first) / pace, WIDTH - LABEL - 0.05)
    axes = page.axes(LABEL, y, length, 1.02)
    if clip.action is not None:
        axes.axvspan(
            *clip.action,
            color=ACTION,
            alpha=0.35,
            lw=0,
            label=f"annotated: {clip.actions[0].label}",
        )
    for color, (name, tube) in zip(COLORS, tubes.items()):
        told = " ".join(name.split())
        if clip.action is not None:
            told += f": temporal AUC {temporal_auc(tube, clip.action):.2f}"
        axes.plot(
            _times(tube), tube.normalized.max((1, 2)), "o-", color=color, ms=2.5, lw=1.1, label=told
        )
    axes.set(
        xlim=(first, first + pace * length), ylim=(0, 1.05), yticks=(0, 0.5, 1), xlabel="time (s)"
    )
    axes.set_ylabel("maximum\nof each frame", labelpad=4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.32),
        ncols=1 + len(tubes),
        frameon=False,
        handlelength=1.4,
    )
