"""Metrics take masks as they take boxes: of the same square both give the same number."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.metrics import share_inside

SIZE = (4, 20, 40)
TOLERANCES = (0.0, 0.05, 15 / 224, 0.5 / 20, 1 / 40)


def same_square(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle that moves, in some frames, as boxes and as masks."""
    boxes = np.full((SIZE[0], 4), np.nan)
    masks = np.zeros(SIZE, dtype=bool)
    for frame in rng.choice(SIZE[0], rng.integers(1, 5), replace=False):
        x0, x1 = np.sort(rng.choice(SIZE[2] + 1, 2, replace=False))
        y0, y1 = np.sort(rng.choice(SIZE[1] + 1, 2, replace=False))
        boxes[frame] = x0, y0, x1, y1
        masks[frame, y0:y1, x0:x1] = True
    return boxes, masks


def test_masks_and_boxes_of_one_square_agree() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        boxes, masks = same_square(rng)
        volume = rng.normal(size=SIZE).round(1)
        assert wb.energy_inside(volume, boxes) == wb.energy_inside(volume, masks)
        assert share_inside(boxes, SIZE) == share_inside(masks, SIZE)
        for axes in ("space-time", "space", "time"):
            for tolerance in TOLERANCES:
                by_box, by_mask = (
                    wb.pointing_game(volume, truth, tolerance, axes) for truth in (boxes, masks)
                )
                assert by_box == by_mask


def slow_pointing(volume: np.ndarray, masks: np.ndarray, margin: tuple[int, int]) -> bool:
    """The pointing game in space and time by a plain loop; margins in whole pixels."""
    t, y, x = np.unravel_index(volume.argmax(), volume.shape)
    for row in range(SIZE[1]):
        for column in range(SIZE[2]):
            near = abs(row - y) <= margin[0] and abs(column - x) <= margin[1]
            if near and masks[t, row, column]:
                return True
    return False


def test_masks_agree_with_a_slow_loop() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        masks = rng.random(SIZE) < 0.01
        masks[0, 0, 0] = True
        volume = rng.random(SIZE)
        assert wb.pointing_game(volume, masks) == slow_pointing(volume, masks, (0, 0))
        assert wb.pointing_game(volume, masks, 0.05) == slow_pointing(volume, masks, (1, 2))
        energy = sum(volume[place] for place in zip(*np.nonzero(masks)))
        assert wb.energy_inside(volume, masks) == pytest.approx(energy / volume.sum())


def test_masks_that_say_nothing_are_refused() -> None:
    volume = np.random.default_rng(0).random(SIZE)
    with pytest.raises(ValueError, match="no mask in any frame"):
        wb.pointing_game(volume, np.zeros(SIZE, dtype=bool))
    with pytest.raises(ValueError, match=r"expected the tube's shape \(4, 20, 40\)"):
        wb.energy_inside(volume, np.ones((4, 10, 40), dtype=bool))
