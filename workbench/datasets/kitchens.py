"""A kitchen seen from the head: a worktop, things on it, and a hand that reaches in from below.

Everything is drawn here, from above. A thing is a picture of its own, a sprite, in units of its
radius: u to the right and v down, both from -`REACH` to `REACH`. A cook's side is down, so handles
point there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw

__all__ = ["GRIPS", "KITCHEN_THINGS", "REACH", "draw_arm", "sprite_alpha", "sprite_at", "worktop"]

REACH = 1.6
RESOLUTION = 80  # pixels of a sprite a unit
FINER = 4  # sprites are drawn so many times finer, and then shrunk
SKIN = (224, 172, 140)
SLEEVE = (52, 78, 116)
# The point at which a hand grips each object, in the object's own units.
GRIPS = {
    "spoon": (0.0, 1.0),
    "pan": (0.0, 1.35),
    "mallet": (0.0, 0.95),
    "cup": (0.62, 0.55),
    "lid": (0.1, 0.75),
    "box": (0.25, 0.85),
}
Colour = tuple[int, int, int] | tuple[int, int, int, int]


class _Canvas:
    """A transparent picture to draw on in a sprite's own units."""

    def __init__(self) -> None:
        self.scale = RESOLUTION * FINER
        side = int(2 * REACH * self.scale)
        self.picture = Image.new("RGBA", (side, side))
        self.draw = ImageDraw.Draw(self.picture, "RGBA")

    def disc(self, radius: float, fill: Colour, x: float = 0, y: float = 0) -> None:
        self.oval(x - radius, y - radius, x + radius, y + radius, fill)

    def oval(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.draw.ellipse([self._pixel(v) for v in (x0, y0, x1, y1)], fill=fill)

    def slab(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, corner: float = 0.1
    ) -> None:
        box = [self._pixel(v) for v in (x0, y0, x1, y1)]
        self.draw.rounded_rectangle(box, corner * self.scale, fill=fill)

    def stroke(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, w: float) -> None:
        ends = [self._pixel(v) for v in (x0, y0, x1, y1)]
        self.draw.line(ends, fill=fill, width=max(1, int(w * self.scale)))

    def _pixel(self, value: float) -> float:
        return (value + REACH) * self.scale


def _spoon(on: _Canvas) -> None:
    on.slab(-0.11, -0.5, 0.11, 1.35, (176, 122, 70), 0.1)
    on.oval(-0.34, -0.98, 0.34, -0.08, (192, 138, 84))
    on.oval(-0.22, -0.84, 0.22, -0.24, (158, 106, 60))


def _pot(on: _Canvas) -> None:
    for side in (-1, 1):
        on.slab(side * 1.18 - 0.16, -0.3, side * 1.18 + 0.16, 0.3, (36, 38, 42), 0.14)
    on.disc(1.12, (176, 180, 186))
    on.disc(1.0, (112, 116, 122))
    on.disc(0.94, (186, 84, 44))  # a tomato sauce
    rng = np.random.default_rng(5)
    for _ in range(26):
        radius, angle = 0.8 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        colour = ((214, 112, 60), (120, 146, 58), (164, 62, 34))[rng.integers(3)]
        on.disc(rng.uniform(0.05, 0.11), colour, x, y)


def _pan(on: _Canvas) -> None:
    on.slab(-0.13, 0.7, 0.13, 1.58, (30, 30, 32), 0.1)
    on.slab(-0.16, 0.72, 0.16, 0.95, (150, 152, 156), 0.05)
    on.disc(0.98, (70, 72, 76))
    on.disc(0.86, (34, 35, 38))
    on.oval(-0.52, -0.5, 0.34, 0.3, (246, 243, 232))  # a fried egg, off the centre
    on.disc(0.2, (246, 178, 38), -0.1, -0.12)
    on.disc(0.16, (206, 70, 52), 0.45, 0.42)
    on.disc(0.14, (206, 70, 52), 0.2, 0.6)


def _mallet(on: _Canvas) -> None:
    on.slab(-0.12, -0.4, 0.12, 1.4, (150, 98, 54), 0.1)
    on.slab(-0.72, -0.95, 0.72, -0.25, (188, 192, 198), 0.1)
    for place in np.linspace(-0.55, 0.55, 6):
        on.stroke(place, -0.85, place, -0.35, (128, 132, 140), 0.05)


def _board(on: _Canvas) -> None:
    on.slab(-1.45, -1.05, 1.45, 1.05, (206, 160, 106), 0.16)
    for y in np.linspace(-0.9, 0.9, 9):
        on.stroke(-1.4, y, 1.4, y + 0.03, (190, 142, 90), 0.025)
    on.oval(-0.85, -0.62, 0.8, 0.55, (168, 58, 54))  # a steak
    on.oval(-0.7, -0.5, 0.2, 0.1, (190, 84, 76))
    on.stroke(-0.5, 0.22, 0.45, -0.2, (230, 200, 186), 0.06)


def _cup(on: _Canvas) -> None:
    on.oval(0.45, -0.2, 1.2, 0.45, (222, 226, 228))
    on.oval(0.66, -0.02, 1.0, 0.27, (120, 96, 74))
    on.disc(0.8, (238, 240, 240))
    on.disc(0.66, (206, 210, 212))
    on.disc(0.62, (86, 50, 28))
    on.oval(-0.4, -0.44, 0.1, -0.14, (118, 74, 44))


def _lid(on: _Canvas) -> None:
    on.disc(0.92, (190, 40, 46))
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        x, y = np.cos(angle), np.sin(angle)
        on.stroke(0.78 * x, 0.78 * y, 0.92 * x, 0.92 * y, (128, 22, 28), 0.05)
    on.disc(0.7, (214, 62, 62))
    on.slab(-0.5, -0.2, 0.5, 0.16, (250, 240, 214), 0.06)
    on.oval(-0.12, -0.62, 0.3, -0.3, (92, 150, 66))
    on.stroke(-0.4, -0.02, 0.4, -0.02, (168, 58, 50), 0.09)


def _jar(on: _Canvas) -> None:
    on.disc(1.02, (206, 218, 214, 235))
    on.disc(0.95, (176, 52, 46, 240))


def _box(on: _Canvas) -> None:
    on.slab(-1.0, -0.85, 1.0, 0.85, (64, 138, 152), 0.16)
    on.slab(-0.88, -0.73, 0.88, 0.73, (86, 166, 178), 0.12)
    for side in (-1, 1):
        on.slab(side * 0.24 - 0.1, -0.2, side * 0.24 + 0.1, 0.2, (240, 240, 232), 0.06)
    on.stroke(0, -0.85, 0, 0.85, (30, 78, 90), 0.05)


def _plate(on: _Canvas) -> None:
    on.disc(1.0, (240, 240, 236))
    on.disc(0.72, (222, 222, 216))
    on.oval(-0.42, -0.34, 0.3, 0.22, (216, 178, 96))
    on.oval(-0.1, -0.1, 0.5, 0.42, (96, 140, 62))


def _knife(on: _Canvas) -> None:
    on.slab(-0.12, 0.15, 0.12, 1.25, (40, 36, 34), 0.08)
    on.slab(-0.14, -1.25, 0.12, 0.15, (200, 205, 210), 0.08)
    on.stroke(-0.11, -1.15, -0.11, 0.1, (232, 236, 240), 0.05)


def _onion(on: _Canvas) -> None:
    on.oval(-0.8, -0.75, 0.8, 0.75, (188, 122, 60))
    for width in (0.62, 0.42, 0.22):
        on.oval(-width, -0.72, width, 0.72, (204 - int(60 * width), 140, 76))
    on.disc(0.12, (120, 84, 44), 0, -0.68)


def _hand(on: _Canvas) -> None:
    """A closed right hand from above; the wrist is down."""
    on.oval(-0.62, -0.5, 0.6, 0.75, SKIN)
    on.slab(-0.4, 0.3, 0.38, 1.3, SKIN, 0.2)
    dark = (190, 134, 104)
    for number, x in enumerate((-0.45, -0.16, 0.13, 0.42)):
        top = -0.72 + 0.08 * abs(number - 1.5)
        on.slab(x - 0.155, top, x + 0.155, 0.08, SKIN, 0.15)
        on.stroke(x + 0.155, top + 0.12, x + 0.155, 0.0, dark, 0.035)
    on.slab(-0.86, -0.28, -0.5, 0.42, SKIN, 0.18)  # the thumb
    on.stroke(-0.5, -0.16, -0.46, 0.36, dark, 0.04)


KITCHEN_THINGS: dict[str, Callable[[_Canvas], None]] = {
    "spoon": _spoon,
    "pot": _pot,
    "pan": _pan,
    "mallet": _mallet,
    "board": _board,
    "cup": _cup,
    "lid": _lid,
    "jar": _jar,
    "box": _box,
    "plate": _plate,
    "knife": _knife,
    "onion": _onion,
    "hand": _hand,
}


@lru_cache(maxsize=64)
def _sprite(name: str, pixels: float) -> np.ndarray:
    """Return a thing (S, S, 4) float32: colours up to 255 and alpha, `pixels` a unit.

    Light comes from the upper left: edges are bright there and dark opposite.
    """
    canvas = _Canvas()
    KITCHEN_THINGS[name](canvas)
    side = int(2 * REACH * RESOLUTION)
    fine = np.asarray(canvas.picture.resize((side, side), Image.Resampling.LANCZOS))
    rgba = fine.astype(np.float32)
    round_edge = scipy.ndimage.gaussian_filter(rgba[..., 3] / 255, 0.05 * RESOLUTION)
    down, right = np.gradient(round_edge)
    light = 1 + np.clip(1.6 * (down + right) * 0.05 * RESOLUTION, -0.35, 0.3)
    lit = np.clip(rgba[..., :3] * light[..., None], 0, 255)
    shown = max(2, round(2 * REACH * pixels))
    planes = [*np.moveaxis(lit, 2, 0), rgba[..., 3]]
    # Shrunk to the size on the screen, so that no detail flickers.
    shrunk = [
        np.asarray(Image.fromarray(plane).resize((shown, shown), Image.Resampling.LANCZOS))
        for plane in planes
    ]
    shrunk[3] = np.clip(shrunk[3] / 255, 0, 1)
    return np.stack(shrunk, axis=2).astype(np.float32)


def sprite_at(
    name: str, u: np.ndarray, v: np.ndarray, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return colour (…, 3) and alpha (…) of a thing at points in its units.

    `pixel` is the size of a pixel in these units.
    """
    picture = _sprite(name, round(1 / pixel, 1))
    scale = len(picture) / (2 * REACH)
    rows, columns = (v + REACH) * scale - 0.5, (u + REACH) * scale - 0.5
    planes = [
        scipy.ndimage.map_coordinates(picture[..., plane], [rows, columns], order=1, cval=0.0)
        for plane in range(4)
    ]
    return np.stack(planes[:3], axis=-1), planes[3]


def sprite_alpha(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return how opaque a thing is at points in its units, 0 to 1."""
    return sprite_at(name, u, v, 1 / RESOLUTION)[1]


def draw_arm(
    frame: np.ndarray, hand: tuple[float, float], elbow: tuple[float, float], size: float
) -> None:
    """Paint a hand and its sleeve onto a frame (H, W, 3) float32; lengths are in pixels.

    `size` is the hand's radius. The hand points away from the elbow.
    """
    # Only what lies about the hand and below it is painted.
    left = int(np.clip(min(hand[0], elbow[0]) - 2.5 * size, 0, frame.shape[1]))
    right = int(np.clip(max(hand[0], elbow[0]) + 2.5 * size, left, frame.shape[1]))
    top = int(np.clip(hand[1] - 2.5 * size, 0, frame.shape[0]))
    frame = frame[top:, left:right]
    if not frame.size:
        return
    height, width, _ = frame.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    along_x, along_y = np.subtract(elbow, hand) / np.hypot(*np.subtract(elbow, hand))
    dx, dy = columns + left - hand[0], rows + top - hand[1]
    v = (dx * along_x + dy * along_y) / size  # down the arm
    u = (dx * along_y - dy * along_x) / size  # across it
    _darken(frame, u - 0.25, v - 0.2)
    near = max(0, min(height, int(hand[1] + 2.5 * size) - top))  # the hand, without its arm
    colour, alpha = sprite_at("hand", u[:near], v[:near], 1 / size)
    frame[:near] += alpha[..., None] * (colour - frame[:near])
    # The sleeve is a cylinder with a cuff: bright along its middle, and wider towards the elbow.
    across = np.abs(u) / (0.62 + 0.05 * np.maximum(v, 0))
    shade = np.sqrt(np.clip(1 - across**2, 0, 1)) * 0.6 + 0.45
    folds = 1 + 0.06 * np.sin(3.1 * v + 1.5 * u)
    cuff = 1 - 0.25 * (v < 1.45)
    cloth = np.asarray(SLEEVE, np.float32) * (shade * folds * cuff)[..., None]
    cover = np.clip((1 - across) * 0.62 * size, 0, 1) * np.clip((v - 1.15) * size, 0, 1)
    frame += cover[..., None] * (cloth - frame)


def _darken(frame: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    """Lay the soft shadow of an arm along +v over a frame."""
    beside = np.clip(1.35 - np.abs(u) / 0.62, 0, 1)
    frame *= (1 - 0.3 * beside * np.clip(v + 1.2, 0, 1))[..., None]


@lru_cache(maxsize=16)
def worktop(seed: int, height: int = 900) -> Image.Image:
    """Return a worktop from above, 4:3, with tiles at its back and a hob at one side."""
    rng = np.random.default_rng(seed)
    width = height * 4 // 3
    colour = ((186, 140, 92), (126, 88, 58), (196, 194, 188), (92, 94, 98))[rng.integers(4)]
    wooden = colour[0] - colour[2] > 40
    top = _wood(rng, height, width) if wooden else _stone(rng, height, width)
    picture = np.asarray(colour, np.float32) * top[..., None]
    edge = int(height * rng.uniform(0.1, 0.16))
    picture[:edge] = _tiles(rng, edge, width)
    shadow = np.linspace(0.55, 1, max(1, height // 20))
    picture[edge : edge + len(shadow)] *= shadow[:, None, None]
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    left = width * (0.04 if rng.random() < 0.5 else 0.6)
    box = (left, edge + height * 0.08, left + width * 0.36, height * 0.62)
    draw.rounded_rectangle(box, height * 0.02, fill=(22, 23, 26), outline=(120, 122, 126), width=4)
    for x, y, radius in (
        (0.3, 0.3, 0.1),
        (0.72, 0.7, 0.13),
        (0.72, 0.27, 0.08),
        (0.28, 0.72, 0.08),
    ):
        centre = (box[0] + x * (box[2] - box[0]), box[1] + y * (box[3] - box[1]))
        ring = radius * height
        around = [centre[0] - ring, centre[1] - ring, centre[0] + ring, centre[1] + ring]
        draw.ellipse(around, outline=(92, 88, 88), width=4)
        draw.ellipse(
            [v + (14 if i < 2 else -14) for i, v in enumerate(around)], outline=(52, 50, 52)
        )
    return image


def _wood(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return brightness (H, W) around 1: planks from left to right with their grain."""
    grain = scipy.ndimage.gaussian_filter(rng.standard_normal((height, width)), (1.2, 60))
    wide = scipy.ndimage.gaussian_filter(rng.standard_normal((height, width)), (9, 160))
    bright = 1 + 0.1 * grain / grain.std() * 0.6 + 0.06 * wide / wide.std()
    plank = height // 7
    for first in range(0, height, plank):
        bright[first : first + plank] *= rng.uniform(0.9, 1.08)
        bright[first : first + 3] *= 0.72
        joint = int(rng.integers(width))
        bright[first : first + plank, joint : joint + 3] *= 0.75
    return bright.astype(np.float32)


def _stone(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return brightness (H, W) around 1: granite, speckled at two scales."""
    fine = scipy.ndimage.gaussian_filter(rng.standard_normal((height, width)), 1.2)
    wide = scipy.ndimage.gaussian_filter(rng.standard_normal((height, width)), 14)
    return (1 + 0.07 * fine / fine.std() + 0.05 * wide / wide.std()).astype(np.float32)


def _tiles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return glazed tiles (H, W, 3) up to 255, with their grout."""
    colour = ((226, 228, 222), (150, 184, 190), (222, 206, 170))[rng.integers(3)]
    side = max(24, width // 16)
    rows, columns = np.mgrid[:height, :width]
    shade = rng.uniform(0.92, 1.04, (height // side + 2, width // side + 2))
    bright = shade[rows // side, columns // side]
    grout = ((rows % side) < 3) | ((columns % side) < 3)
    return np.asarray(colour, np.float32) * np.where(grout, 0.72, bright)[..., None]
