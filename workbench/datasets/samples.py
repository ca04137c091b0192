"""Sample clips with a known answer: the class is a motion, in a known place and interval.

Eight motions (`wb.samples.CLASSES`), two pairs of which are each other's time reversal, done by an
object of one of eight appearances before a photograph, among static and moving distractors of other
shapes, seen by an unsteady camera. What an explanation has to find is therefore known for every
clip.

Splits of `dataset`:
    iid: the object's appearance agrees with the class in 80 % of the clips, so a network may cheat.
    decorrelated: appearance says nothing about the class.
    edge: decorrelated; short actions at the very beginning or the very end.
    pair: two objects do two different actions, at different times and places; both are annotated.

Harder splits, which no shipped network was trained on (`HARD_SPLITS`):
    same: as pair, but both objects do the same action; a class has two places and two times.
    leave: decorrelated; after its action the object leaves the picture, faster than it acted.
    pan: decorrelated, seen by a camera that turns, so everything moves.
    kitchen: seen from a cook's head; a hand comes from below and does something to a thing.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..clips.clip import Action, Clip
from ..clips.reading import read_clip
from ..clips.sampling import frame_indices
from .hard_scenes import kitchen_scene, leaving
from .scenes import (
    ACTIONS,
    APPEARANCES,
    ASPECT,
    DISTRACTOR_SHAPES,
    GAP,
    PHOTOGRAPHS,
    Actor,
    Scene,
    boxes,
    render,
)
from .table import Dataset

__all__ = [
    "CLASSES",
    "DURATION",
    "FOLDER",
    "HARD_SPLITS",
    "SPLITS",
    "TRAINING_SEEDS",
    "dataset",
    "draw_scene",
    "make_clip",
    "shipped",
]

CLASSES = ACTIONS
FOLDER = Path(__file__).resolve().parents[2] / "data" / "samples"  # in a checkout
SPLITS = ("iid", "decorrelated", "edge", "pair")
HARD_SPLITS = ("same", "leave", "pan", "kitchen")
DURATION = 1.92  # seconds: 48 frames
SHORTEST = 1.4
FPS = 25.0
AGREEMENT = 0.8  # share of iid clips in which the appearance goes with the class
# The position of a split here is part of its clips' seeds.
_ALL_SPLITS = (*SPLITS, *HARD_SPLITS)
# Seeds from here on are for training; everything that is measured lies below.
TRAINING_SEEDS = 1 << 40


def make_clip(
    label: str,
    seed: int = 0,
    *,
    split: str = "decorrelated",
    size: tuple[int, int] = (240, 320),
    fps: float = FPS,
    duration: float = DURATION,
) -> Clip:
    """Draw a clip of one class; the same seed gives the same scene at any size and frame rate.

    Args:
        label: one of `CLASSES`; for the pair split the action of the earlier object.
        seed: any non-negative integer.
        split: one of `SPLITS` or `HARD_SPLITS`.
        size: height and width in pixels; another aspect than 4:3 squashes the picture.
        fps: frames per second.
        duration: seconds, at least `SHORTEST`: an action takes up to 1.2.

    Returns:
        A `Clip` with `.boxes` (T, 4) of the acting object, `.action` (start, stop) in seconds, and
        all actions in `.actions`: two, in order of time, for pair and same.

    Raises:
        KeyError: no such class or split.
        ValueError: a length, rate or size that makes no clip.
    """
    if not duration >= SHORTEST or not fps > 0:
        raise ValueError(
            f"expected at least {SHORTEST} s and a positive rate, got {duration} s at {fps} fps"
        )
    if min(size) < 16:
        raise ValueError(f"size: expected at least 16×16 pixels, got {size}")
    scene = draw_scene(label, seed, split, duration)
    clip = render(scene, np.arange(round(duration * fps)), fps, size)
    return replace(clip, name=f"{split}_{label}_{seed}")


def dataset(split: str = "decorrelated", size: int = 400, seed: int = 0) -> Dataset:
    """Return a `Dataset` of `size` procedural clips, classes in equal numbers, drawn when read.

    The index holds class, seed, interval (seconds) and appearance of each clip, without drawing it;
    for pair and same also the second object's. Raises KeyError for an unknown split, ValueError
    for size < 1.
    """
    _check_split(split)
    if size < 1:
        raise ValueError(f"size: expected at least one clip, got {size}")
    rows = []
    for number in range(size):
        label = CLASSES[number % len(CLASSES)]
        clip_seed = int(
            np.random.SeedSequence([seed, _ALL_SPLITS.index(split), number]).generate_state(1)[0]
        )
        acting = draw_scene(label, clip_seed, split).acting
        row = {
            "name": f"{split}_{number:05d}_{label}",
            "class": label,
            "class_id": CLASSES.index(label),
            "start": 0.0,
            "stop": DURATION,
            "duration": DURATION,
            "split": split,
            "seed": clip_seed,
        }
        for suffix, actor in zip(("", "_2"), acting):
            if suffix:
                row["class_2"] = actor.action
            row |= {f"action_start{suffix}": actor.start, f"action_stop{suffix}": actor.stop}
            row[f"appearance{suffix}"] = actor.shape
        rows.append(row)

    return Dataset(
        pd.DataFrame(rows).set_index("name"), list(CLASSES), _read, title=f"samples, {split}"
    )


def _read(row: pd.Series, frames: int | None, stride: int | None) -> Clip:
    scene = draw_scene(row["class"], int(row["seed"]), row["split"])
    count = round(DURATION * FPS)  # only the frames asked for are drawn
    indices = (
        np.arange(count)[::stride] if frames is None else frame_indices(0, count, frames, stride)
    )
    return replace(render(scene, indices, FPS), name=str(row.name))


def shipped(folder: str | Path = FOLDER, *, backend: str | None = None) -> Dataset:
    """Return the 24 shipped clips as a `Dataset`: three of each class, with boxes and intervals.

    `backend` is the decoder, as in `read_clip`.

    Raises FileNotFoundError if `folder` does not hold them: they come with the repository, not with
    the package.
    """
    folder = Path(folder)
    table = folder / "clips.csv"
    if not table.is_file():
        raise FileNotFoundError(
            f"no sample clips at {folder}: work in a checkout of the repository, or run "
            "`make samples`"
        )
    index = pd.read_csv(table, index_col="name")

    reader = partial(_read_file, folder, backend=backend)
    return Dataset(index, list(CLASSES), reader, title="shipped samples")


def draw_scene(
    label: str, seed: int = 0, split: str = "decorrelated", duration: float = DURATION
) -> Scene:
    """Return the scene of `make_clip`: every random choice, and no pixel yet."""
    if label not in CLASSES:
        raise KeyError(f"no class {label!r}; there are {', '.join(CLASSES)}")
    _check_split(split)
    rng = np.random.default_rng([seed, zlib.crc32(f"{label}/{split}".encode())])
    if split in ("pair", "same"):
        actors = _pair(rng, label, duration, same=split == "same")
    else:
        across = (0.32, 0.68) if split == "pan" else (0.2, 0.8)
        actors = [
            _actor(
                rng,
                label,
                *_interval(rng, split, duration),
                appearance=_appearance(rng, label, split),
                across=across,
            )
        ]
    if split == "leave":
        actors = [leaving(rng, actor) for actor in actors]
    if split == "kitchen":
        place = partial(_distractor, rng, actors)
        return kitchen_scene(rng, actors, place, duration=duration, seed=seed)
    still = [_distractor(rng, actors) for _ in range(rng.integers(1, 4))]
    moving = [_drifter(rng, duration) for _ in range(rng.integers(0, 3))]
    sway = [(rng.uniform(0.3, 2.5), *rng.uniform(0, 2 * np.pi, 2)) for _ in range(3)]
    scene = Scene(
        actors=(*still, *moving, *actors),
        duration=duration,
        photograph=str(rng.choice(PHOTOGRAPHS)),
        corner=(rng.random(), rng.random()),
        zoom=rng.uniform(0.55, 1.0),
        tint=tuple(rng.uniform(0.45, 0.95) * rng.uniform(0.9, 1.1, 3)),
        jitter=rng.uniform(0.0005, 0.005),
        flicker=rng.uniform(0, 0.06),
        grain=rng.uniform(2, 8),
        seed=seed,
        sway=tuple(sway),
    )
    if split == "pan":
        speed = np.array([rng.uniform(0.12, 0.25), rng.uniform(0, 0.06)])
        pan_x, pan_y = (speed * rng.choice([-1, 1], 2)).tolist()
        scene = replace(scene, pan=(pan_x, pan_y))
    return scene


def _check_split(split: str) -> None:
    if split not in _ALL_SPLITS:
        raise KeyError(f"no split {split!r}; there are {', '.join(_ALL_SPLITS)}")


def _annotated(clip: Clip, scene: Scene) -> Clip:
    """Return a clip with the actions and boxes of its scene."""
    actions = tuple(
        Action(str(a.action), a.start, a.stop, boxes(a, scene, clip.times, clip.size))
        for a in scene.acting
    )
    return replace(clip, actions=actions, label=actions[0].label, boxes=actions[0].boxes)


def _read_file(
    folder: Path, row: pd.Series, frames: int | None, stride: int | None, backend: str | None
) -> Clip:
    clip = read_clip(folder / row["path"], frames, stride, name=str(row.name), backend=backend)
    return _annotated(clip, draw_scene(row["class"], int(row["seed"]), row["split"]))


def _interval(rng: np.random.Generator, split: str, duration: float) -> tuple[float, float]:
    if split == "edge":
        span = rng.uniform(0.5, 0.75)
        return (0.0, span) if rng.random() < 0.5 else (duration - span, duration)
    if split == "leave":  # in time for the object to be gone for some of the clip
        start = rng.uniform(0.05, 0.2)
        return start, start + rng.uniform(0.6, 0.85)
    span = rng.uniform(0.7, 1.2)
    start = rng.uniform(0.05, duration - span - 0.05)
    return start, start + span


def _appearance(rng: np.random.Generator, label: str, split: str) -> int:
    if split == "iid" and rng.random() < AGREEMENT:
        return CLASSES.index(label)
    return int(rng.integers(len(APPEARANCES)))


def _pair(rng: np.random.Generator, label: str, duration: float, *, same: bool) -> list[Actor]:
    """Two actors, one left and one right, one after the other; the first does `label`."""
    other = str(rng.choice([name for name in CLASSES if name != label]))
    other = label if same else other
    middle = duration / 2 + rng.uniform(-0.08, 0.08)
    first = (rng.uniform(0.0, 0.15), middle - rng.uniform(0.02, 0.12))
    second = (middle + rng.uniform(0.02, 0.12), duration - rng.uniform(0.0, 0.15))
    left, right = (0.19, 0.34), (0.66, 0.81)
    sides = (left, right) if rng.random() < 0.5 else (right, left)
    looks = rng.choice(len(APPEARANCES), 2, replace=False)
    return [
        _actor(rng, name, *interval, appearance=int(look), across=side)
        for name, interval, look, side in zip((label, other), (first, second), looks, sides)
    ]


def _actor(
    rng: np.random.Generator,
    label: str,
    start: float,
    stop: float,
    *,
    appearance: int,
    across: tuple[float, float] = (0.2, 0.8),
) -> Actor:
    shape, colour, texture = APPEARANCES[appearance]
    size = rng.uniform(0.12, 0.165)
    span = stop - start
    swing = 0.0
    rate = 0.0
    y = rng.uniform(0.25, 0.75)
    if label == "stir":
        swing = rng.uniform(0.09, 0.12)
        rate = max(rng.uniform(1.4, 1.9), 1.0 / span) * rng.choice([-1, 1])
        y = rng.uniform(0.2, 0.58)
    elif label == "shake":
        swing = rng.uniform(0.085, 0.12)
        rate = rng.uniform(2.2, 2.9)
    elif label == "pound":
        swing = rng.uniform(0.14, 0.19)
        rate = max(rng.uniform(1.7, 2.3), 1.2 / span)
        y = rng.uniform(0.4, 0.8)
    elif label in ("lift", "lower"):
        swing = rng.uniform(0.3, 0.42)
        # Both cover the same heights, so that where the object stands in a frame says neither.
        y = rng.uniform(0.18 + swing, 0.82)
        y = y if label == "lift" else y - swing
    elif label == "rotate":
        rate = max(rng.uniform(0.8, 1.3), 0.6 / span) * rng.choice([-1, 1])
    opened = 0.0 if rng.random() < 0.5 else 1.0
    # The order of the draws is part of a seed's scene.
    return Actor(
        shape,
        _vary(rng, colour),
        texture,
        x=rng.uniform(*across) * ASPECT,
        y=y,
        size=size,
        angle=rng.uniform(-np.pi, np.pi),
        opened=opened,
        action=label,
        start=start,
        stop=stop,
        swing=swing,
        rate=float(rate),
    )


def _distractor(rng: np.random.Generator, actors: list[Actor]) -> Actor:
    """Return a still object of another shape, if possible out of the way of those that act."""
    size = rng.uniform(0.06, 0.13)
    for _ in range(20):
        x, y = rng.uniform(0.08, 0.92) * ASPECT, rng.uniform(0.1, 0.9)
        if all(np.hypot(x - a.x, y - a.y) > size + a.size * (1 + GAP) + a.swing for a in actors):
            break
    red, green, blue = rng.integers(40, 230, 3)
    colour = (int(red), int(green), int(blue))
    shape = str(rng.choice(DISTRACTOR_SHAPES))
    angle = rng.uniform(-np.pi, np.pi)
    return Actor(shape, colour, "plain", x=x, y=y, size=size, angle=angle)


def _drifter(rng: np.random.Generator, duration: float) -> Actor:
    """Return an object of another shape that crosses the picture at constant velocity."""
    still = _distractor(rng, [])
    direction = rng.uniform(-0.6, 0.6) + (np.pi if rng.random() < 0.5 else 0)
    speed = rng.uniform(0.15, 0.45)
    drift = (speed * np.cos(direction), speed * np.sin(direction))
    x = still.x - drift[0] * duration / 2
    y = still.y - drift[1] * duration / 2
    return replace(still, x=x, y=y, drift=drift)


def _vary(rng: np.random.Generator, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = np.clip(
        np.array(colour) * rng.uniform(0.85, 1.1) + rng.uniform(-14, 14, 3), 0, 255
    )
    return int(red), int(green), int(blue)
