"""Procedural scenes: objects that act, in a known place and interval, before a photograph.

A `Scene` is a description in continuous space and time, so that one seed gives the same scene at
any resolution and frame rate. Lengths are in units of the picture's height: x runs from 0 to
`ASPECT`, y from 0 (top) to 1. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image

from ..clips.clip import Action, Clip
from .kitchens import GRIPS, KITCHEN_THINGS, REACH, draw_arm, sprite_alpha, sprite_at, worktop

__all__ = ["ACTIONS", "APPEARANCES", "ASPECT", "Actor", "Scene", "render"]

ACTIONS = ("stir", "shake", "pound", "lift", "lower", "rotate", "open", "close")
ASPECT = 4 / 3

# Eight appearances: shape, colour and texture of an object that can act.
APPEARANCES = (
    ("disc", (214, 64, 52), "stripes"),
    ("square", (58, 122, 214), "dots"),
    ("triangle", (72, 176, 92), "plain"),
    ("hexagon", (236, 176, 44), "stripes"),
    ("star", (168, 84, 196), "plain"),
    ("cross", (40, 186, 190), "dots"),
    ("diamond", (238, 120, 176), "stripes"),
    ("pill", (232, 226, 210), "dots"),
)
DISTRACTOR_SHAPES = ("ring", "bar", "clover", "corner")
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "camera",
    "rocket",
)
WORKTOP = "worktop "
REACHING = 0.35  # seconds that a hand takes to come, and to go
GAP = 0.55  # how far each half of an opened object stands off, in radii


@dataclass(frozen=True)
class Actor:
    """An object: what it looks like, where it rests, and what it does when.

    `action` is None for a distractor. `drift` moves it at constant velocity (x, y per second)
    throughout, `exit` from `stop` on. `size` is the radius; `swing` the reach of the motion; `rate`
    cycles or turns per second, signed. `shape` may be a thing of `kitchens`; if `held`, a hand
    reaches in from below while it acts.
    """

    shape: str
    colour: tuple[int, int, int]
    texture: str
    x: float
    y: float
    size: float
    angle: float = 0.0
    opened: float = 0.0
    action: str | None = None
    start: float = 0.0
    stop: float = 0.0
    swing: float = 0.0
    rate: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    exit: tuple[float, float] = (0.0, 0.0)
    held: bool = False


@dataclass(frozen=True)
class Scene:
    """Actors before a photograph, seen by an unsteady camera. `actors` are drawn in order.

    `photograph` names one of scikit-image's, or "worktop" and a seed a drawn kitchen.
    `pan` is the velocity (x, y per second) at which all of it passes by; it is centred halfway.
    """

    actors: tuple[Actor, ...]
    duration: float
    photograph: str
    corner: tuple[float, float]
    zoom: float
    tint: tuple[float, float, float]
    jitter: float = 0.0
    flicker: float = 0.0
    grain: float = 0.0
    seed: int = 0
    sway: tuple[tuple[float, float, float], ...] = field(default=())
    pan: tuple[float, float] = (0.0, 0.0)

    @property
    def acting(self) -> tuple[Actor, ...]:
        """The actors that do something, in order of time."""
        return tuple(sorted((a for a in self.actors if a.action), key=lambda a: a.start))


def pose(actor: Actor, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return where an actor is: x, y, angle in radians and opening in [0, 1], each (T,)."""
    span = max(actor.stop - actor.start, 1e-6)
    inside = np.clip(times - actor.start, 0, span)  # seconds of action behind us
    progress = inside / span
    smooth = progress * progress * (3 - 2 * progress)
    cycle = 2 * np.pi * actor.rate * inside
    gone = np.maximum(times - actor.stop, 0)  # seconds since the action
    x = actor.x + actor.drift[0] * times + actor.exit[0] * gone
    y = actor.y + actor.drift[1] * times + actor.exit[1] * gone
    angle = np.full_like(times, actor.angle)
    opened = np.full_like(times, actor.opened)
    if actor.action == "stir":
        x, y = x + actor.swing * np.sin(cycle), y + actor.swing * (1 - np.cos(cycle))
    elif actor.action == "shake":
        x = x + actor.swing * np.sin(cycle)
    elif actor.action == "pound":  # rises slowly, falls fast
        beat = (actor.rate * inside) % 1
        y = y - actor.swing * np.where(beat < 0.7, np.sin(np.pi / 2 * beat / 0.7), (1 - beat) / 0.3)
    elif actor.action in ("lift", "lower"):
        y = y + actor.swing * smooth * (-1 if actor.action == "lift" else 1)
    elif actor.action == "rotate":
        angle = angle + cycle
    elif actor.action in ("open", "close"):
        opened = smooth if actor.action == "open" else 1 - smooth
    return x, y, angle, opened


def boxes(actor: Actor, scene: Scene, times: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (T, 4) float32 boxes (x0, y0, x1, y1) around an actor, in pixels of `size`.

    They are NaN in frames that the actor is out of.
    """
    x, y, angle, opened = pose(actor, times)
    sway_x, sway_y = _camera(scene, times)
    u, v = _outline(actor.shape)
    u = u + np.sign(u) * GAP * opened[:, None]
    turned_x = (u * np.cos(angle)[:, None] - v * np.sin(angle)[:, None]) * actor.size + (
        x + sway_x
    )[:, None]
    turned_y = (u * np.sin(angle)[:, None] + v * np.cos(angle)[:, None]) * actor.size + (
        y + sway_y
    )[:, None]
    height, width = size
    edges = np.stack([turned_x.min(1), turned_y.min(1), turned_x.max(1), turned_y.max(1)], axis=1)
    pixels = edges * np.array([width / ASPECT, height] * 2)
    within = np.clip(pixels, 0, np.array([width, height] * 2)).astype(np.float32)
    within[(within[:, 0] >= within[:, 2]) | (within[:, 1] >= within[:, 3])] = np.nan
    return within


def render(
    scene: Scene, indices: np.ndarray, fps: float = 25.0, size: tuple[int, int] = (240, 320)
) -> Clip:
    """Draw frames (T,) of a scene, counted from 0 at `fps` a second, with its actions and boxes.

    A frame looks the same whichever others are drawn with it. `size` is (height, width) in pixels;
    another aspect than 4:3 squashes the picture.
    """
    indices = np.asarray(indices, dtype=np.int64)
    times = indices / fps
    canvas = _background(scene, times, size)
    for actor in scene.actors:
        _draw(canvas, actor, scene, times)
        if actor.held:
            _draw_hand(canvas, actor, scene, times)
    # The grain is that of a 240-line sensor: a coarser picture averages it.
    sigma = np.float32(scene.grain * min(1.0, size[0] / 240))
    for frame, number in zip(canvas, indices):
        rng = np.random.default_rng([scene.seed, int(number)])
        frame += sigma * rng.standard_normal(frame.shape, dtype=np.float32)
    light = 1 + scene.flicker * np.sin(2 * np.pi * (0.7 * times + scene.seed % 97 / 97))
    frames = np.clip(canvas * light[:, None, None, None].astype(np.float32), 0, 255).astype(
        np.uint8
    )
    actions = tuple(
        Action(str(a.action), a.start, a.stop, boxes(a, scene, times, size)) for a in scene.acting
    )
    return Clip(frames, fps, indices=indices, actions=actions)


def _camera(scene: Scene, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the camera's offset in x and y, each (T,): its pan, and incommensurable sines."""
    before = times - scene.duration / 2
    x, y = scene.pan[0] * before, scene.pan[1] * before
    for rate, phase_x, phase_y in scene.sway:
        x = x + scene.jitter * np.sin(2 * np.pi * rate * times + phase_x)
        y = y + scene.jitter * np.sin(2 * np.pi * rate * times + phase_y)
    return x, y


@lru_cache(maxsize=32)
def _photograph(name: str) -> Image.Image:
    if name.startswith(WORKTOP):
        return worktop(int(name.removeprefix(WORKTOP)))
    import skimage.data

    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def _background(scene: Scene, times: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (T, H, W, 3) float32: the cut-out of the photograph that the camera sees."""
    height, width = size
    picture = _photograph(scene.photograph)
    margin = 3 * scene.jitter * len(scene.sway) + 0.01
    margin += max(map(abs, scene.pan)) * scene.duration / 2
    pad_y = int(np.ceil(margin * height)) + 1
    pad_x = int(np.ceil(margin * width / ASPECT)) + 1
    tall = scene.zoom * min(picture.height, picture.width / ASPECT)
    left = scene.corner[0] * (picture.width - tall * ASPECT)
    top = scene.corner[1] * (picture.height - tall)
    seen = picture.resize(
        (width + 2 * pad_x, height + 2 * pad_y),
        Image.Resampling.BILINEAR,
        box=(left, top, left + tall * ASPECT, top + tall),
    )
    photo = np.asarray(seen, dtype=np.float32) * np.asarray(scene.tint, dtype=np.float32)
    sway_x, sway_y = _camera(scene, times)
    canvas = np.empty((len(times), height, width, 3), dtype=np.float32)
    for frame, (dx, dy) in enumerate(zip(sway_x * width / ASPECT, sway_y * height)):
        # Bilinear: the camera moves in steps smaller than a pixel.
        row = pad_y - dy
        column = pad_x - dx
        top_row = int(np.floor(row))
        left_column = int(np.floor(column))
        down = np.float32(row - top_row)
        right = np.float32(column - left_column)
        cut = photo[top_row : top_row + height + 1, left_column : left_column + width + 1]
        across = (1 - right) * cut[:, :-1] + right * cut[:, 1:]
        canvas[frame] = (1 - down) * across[:-1] + down * across[1:]
    return canvas


def _draw(canvas: np.ndarray, actor: Actor, scene: Scene, times: np.ndarray) -> None:
    """Paint an actor onto the canvas (T, H, W, 3), antialiased, in a patch around it."""
    _, height, width, _ = canvas.shape
    scale_y, scale_x = height, width / ASPECT
    x, y, angle, opened = pose(actor, times)
    sway_x, sway_y = _camera(scene, times)
    centre_x, centre_y = (x + sway_x) * scale_x, (y + sway_y) * scale_y
    radius = REACH if actor.shape in KITCHEN_THINGS else 1.15
    reach = actor.size * (radius + GAP * float(opened.max()))
    half_y, half_x = int(reach * scale_y) + 2, int(reach * scale_x) + 2
    corner_y, corner_x = (
        np.floor(centre_y).astype(int) - half_y,
        np.floor(centre_x).astype(int) - half_x,
    )
    rows = corner_y[:, None] + np.arange(2 * half_y + 1) + 0.5 - centre_y[:, None]
    columns = corner_x[:, None] + np.arange(2 * half_x + 1) + 0.5 - centre_x[:, None]
    dy = (rows / scale_y / actor.size).astype(np.float32)[:, :, None]
    dx = (columns / scale_x / actor.size).astype(np.float32)[:, None, :]
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    pixel = np.float32(1 / min(scale_x, scale_y) / actor.size)
    paint, cover = _paint(
        actor, dx * cos + dy * sin, dy * cos - dx * sin, opened.astype(np.float32), pixel
    )
    for frame in range(len(times)):
        top, left = corner_y[frame], corner_x[frame]
        r0, r1 = max(top, 0), min(top + cover.shape[1], height)
        c0, c1 = max(left, 0), min(left + cover.shape[2], width)
        if r0 >= r1 or c0 >= c1:
            continue
        alpha = cover[frame, r0 - top : r1 - top, c0 - left : c1 - left, None]
        colour = paint[frame, r0 - top : r1 - top, c0 - left : c1 - left]
        view = canvas[frame, r0:r1, c0:c1]
        view += alpha * (colour - view)


def _draw_hand(canvas: np.ndarray, actor: Actor, scene: Scene, times: np.ndarray) -> None:
    """Paint the hand that holds an actor: it comes from below before the action, and goes after."""
    _, height, width, _ = canvas.shape
    scale = np.array([width / ASPECT, height])
    x, y, angle, _ = pose(actor, times)
    grip_u, grip_v = np.multiply(GRIPS[actor.shape], actor.size)
    # A wrist turns a lid to and fro; everything else is held firmly.
    turn = angle if actor.action != "rotate" else actor.angle + 0.5 * np.sin(angle - actor.angle)
    hand_x = x + grip_u * np.cos(turn) - grip_v * np.sin(turn)
    hand_y = y + grip_u * np.sin(turn) + grip_v * np.cos(turn)
    elbow_x = actor.x + 0.25 * (ASPECT / 2 - actor.x) + 0.1
    sway_x, sway_y = _camera(scene, times)
    away = np.maximum(actor.start - times, times - actor.stop) / REACHING
    back = np.clip(away, 0, 1) ** 2 * (3 - 2 * np.clip(away, 0, 1))
    for number, frame in enumerate(canvas):
        if back[number] == 1:
            continue
        hand = np.array([hand_x[number] + sway_x[number], hand_y[number] + sway_y[number]])
        elbow = np.array([elbow_x, 1.6])
        drawn_back = (elbow - hand) / np.hypot(*(elbow - hand)) * 1.3 * back[number]
        draw_arm(
            frame,
            tuple((hand + drawn_back) * scale),
            tuple((elbow + drawn_back) * scale),
            0.085 * scale[1],
        )


def _paint(
    actor: Actor, u: np.ndarray, v: np.ndarray, opened: np.ndarray, pixel: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Return colour (T, P, P, 3) and coverage (T, P, P) of an object in its own coordinates."""
    gap = GAP * opened[:, None, None]
    if actor.shape in KITCHEN_THINGS:
        return _paint_thing(actor.shape, u, v, gap, float(pixel))
    body = np.maximum(_distance(actor.shape, np.abs(u) - gap, v), gap - np.abs(u))
    # Between the halves of an opened object one sees its dark inside.
    inside = np.maximum(np.abs(u) - gap, np.abs(v) - 0.55)
    cover_body = np.clip(0.5 - body / pixel, 0, 1)
    cover_inside = np.clip(0.5 - inside / pixel, 0, 1) * (gap > 0.02)
    shade = _texture(actor.texture, u - np.sign(u) * gap, v)
    rim = np.clip(1 + (body + 0.13) / np.maximum(pixel, 0.04), 0, 1)
    shade = shade * (1 - 0.6 * rim)
    colour = np.asarray(actor.colour, dtype=np.float32)
    paint = np.where(cover_body[..., None] > 0, shade[..., None] * colour, np.float32(24))
    return paint, np.maximum(cover_body, cover_inside)


def _paint_thing(
    name: str, u: np.ndarray, v: np.ndarray, gap: np.ndarray, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and coverage of a thing of the kitchen, with the shadow that it casts."""
    colour, cover = sprite_at(name, u - np.sign(u) * gap, v, pixel)
    cover = cover * (np.abs(u) >= gap)
    inside = (np.abs(u) < gap) & (np.abs(v) < 0.75)
    shadow = 0.35 * sprite_at(name, u - np.sign(u) * gap - 0.1, v - 0.12, 0.08)[1]
    total = np.where(inside, 1, cover + (1 - cover) * shadow).astype(np.float32)
    part = np.where(inside, 0, cover / np.maximum(total, 1e-6))[..., None]
    return part * colour + (1 - part) * np.float32(16), total


def _texture(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if name == "stripes":
        return 0.8 + 0.2 * np.sign(np.sin(9 * v + 0.6))
    if name == "dots":
        return 1 - 0.45 * (np.hypot((u + 0.38) % 0.55 - 0.27, (v + 0.1) % 0.55 - 0.27) < 0.14)
    return 1 - 0.35 * (np.hypot(u - 0.3, v + 0.25) < 0.2)  # plain, with a mark off its centre


def _distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return roughly the signed distance to a shape of radius one, negative inside."""
    if shape == "disc":
        return np.hypot(u, v) - 0.95
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.82
    if shape == "diamond":
        return (np.abs(u) + np.abs(v)) * 0.7071 - 0.68
    if shape == "pill":
        return np.hypot(np.maximum(np.abs(u) - 0.5, 0), v) - 0.5
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 0.95, b - 0.38), np.maximum(a - 0.38, b - 0.95))
    if shape == "bar":
        return np.maximum(np.abs(u) - 1.0, np.abs(v) - 0.22)
    if shape == "corner":
        return np.minimum(
            np.maximum(np.abs(u) - 0.85, np.abs(v - 0.6) - 0.25),
            np.maximum(np.abs(u + 0.6) - 0.25, np.abs(v) - 0.85),
        )
    radius, direction = np.hypot(u, v), np.arctan2(v, u)
    if shape == "ring":
        return np.abs(radius - 0.7) - 0.22
    if shape == "clover":
        return radius - (0.68 + 0.27 * np.cos(3 * direction))
    if shape == "star":
        return 0.8 * (radius - (0.74 + 0.24 * np.cos(5 * direction)))
    sides = {"triangle": 3, "hexagon": 6}[shape]
    sector = 2 * np.pi / sides
    folded = (direction + np.pi / 2) % sector - sector / 2
    return radius * np.cos(folded) - (0.52 if sides == 3 else 0.85)


@lru_cache(maxsize=32)
def _outline(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (K,), (K,) of a fine grid that lie within a shape."""
    axis = np.linspace(-1.2, 1.2, 91)
    if shape in KITCHEN_THINGS:
        axis = axis * REACH / 1.2
    u, v = (grid.ravel() for grid in np.meshgrid(axis, axis))
    if shape in KITCHEN_THINGS:
        within = sprite_alpha(shape, u, v) > 0.5
    else:
        within = _distance(shape, np.abs(u), v) < 0
    return u[within], v[within]
