"""Does the network need what a tube marks? Replace it, or show nothing else, and score again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.integrate
import scipy.ndimage

from ..clips.clip import Clip
from .arrays import TubeLike, as_volume, levels, noise

__all__ = ["Curve", "Score", "deletion", "insertion", "random_order", "replacement"]

Score = Callable[[np.ndarray], np.ndarray]

GRID = (8, 14, 14)  # blocks along time, height, width: a map's cell in time, half a cell in space
STEPS = 10
BLUR = 20 / 224  # the blur's σ as a share of the frame's height
Baseline = Literal["blur", "mean"]


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """A class's probability while a clip is deleted or inserted.

    Attributes:
        kind: "deletion" or "insertion".
        share: (S,) share of the voxels that are replaced (deletion) or shown (insertion), from 0 to
            1.
        score: (S,) the class's score at each share.
    """

    kind: str
    share: np.ndarray
    score: np.ndarray

    @property
    def auc(self) -> float:
        """The area under the curve by the trapezoid rule: the mean score over the shares."""
        return float(scipy.integrate.trapezoid(self.score, self.share))

    def __repr__(self) -> str:
        return (
            f"<Curve of {self.kind}: AUC {self.auc:.3f}, {len(self.share)} points, "
            f"score {self.score[0]:.3f} to {self.score[-1]:.3f}>"
        )


def deletion(
    score: Score,
    clip: Clip,
    tube: TubeLike,
    *,
    steps: int | Sequence[float] = STEPS,
    baseline: Baseline | np.ndarray = "blur",
    grid: tuple[int, int, int] = GRID,
    batch: int = 8,
    seed: int = 0,
) -> Curve:
    """Replace the voxels of a clip, most salient first, and record the score. A low AUC is good.

    After Petsiuk et al., "RISE" (BMVC 2018), on video as in STEP (Li et al.): all T·H·W voxels are
    ranked together, so a tube is tested on where *and* when. For a probability the area lies
    between 0 and 1. It has no absolute scale: compare it with that of `random_order` on the same
    clips.

    Blocks are ranked by their mean, not single voxels: the maps are far coarser than the clip, so
    the order within a block is the spline's, not the network's. Single voxels would also read as
    noise, or be inferred from their neighbours. Blocks with equal means are taken in random order,
    so a constant tube is the random baseline itself.

    Args:
        score: frames (N, T, H, W, 3) uint8 to scores (N,): the probability of the class explained.
        clip: what the tube explains, as the network sees it (`ex.clip`).
        tube: a `Tube` or a volume (T, H, W) of the clip's size.
        steps: the number of steps from 0 to 1, or the shares themselves, rising from 0 to 1. A
            number gives shares (k / steps)²: an action fills a few percent of its clip, so the
            curve bends early.
        baseline: what replaces voxels: the name of a `replacement`, or frames like the clip's,
            uint8.
        grid: how many blocks along time, height and width; at most one per frame, row or column.
        batch: how many clips are scored at once.
        seed: of the order of blocks with equal means.

    Raises:
        ValueError: a tube of another size than the clip or with NaN, invalid steps, baseline, grid
            or batch, or scores that are not (N,) finite numbers.
    """
    rank = _block_ranks(_volume_of(tube, clip), grid, seed)
    replaced = _replaced(clip, baseline)
    share, scores = _exchange(score, clip.frames, replaced, rank, steps=steps, batch=batch)
    return Curve("deletion", share, scores)


def insertion(
    score: Score,
    clip: Clip,
    tube: TubeLike,
    *,
    steps: int | Sequence[float] = STEPS,
    baseline: Baseline | np.ndarray = "blur",
    grid: tuple[int, int, int] = GRID,
    batch: int = 8,
    seed: int = 0,
) -> Curve:
    """Reveal the voxels of a clip in the baseline, most salient first. A high AUC is good.

    The reverse of `deletion`: same arguments, range, errors and source. A constant tube is the
    random baseline here too.
    """
    rank = _block_ranks(_volume_of(tube, clip), grid, seed)
    replaced = _replaced(clip, baseline)
    share, scores = _exchange(score, replaced, clip.frames, rank, steps=steps, batch=batch)
    return Curve("insertion", share, scores)


def replacement(clip: Clip, baseline: Baseline = "blur") -> np.ndarray:
    """Return frames (T, H, W, 3) uint8 that take the place of a clip's.

    "blur": every frame under a Gaussian of σ = 20/224 of its height, which keeps the scene's
    colours and adds no edges. "mean": the mean colour of the clip.

    Raises ValueError for another baseline.
    """
    if baseline == "blur":
        sigma = BLUR * clip.size[0]
        frames = clip.frames.astype(np.float32)
        replaced = scipy.ndimage.gaussian_filter(frames, (0, sigma, sigma, 0), truncate=3)
    elif baseline == "mean":
        replaced = np.broadcast_to(clip.frames.mean(axis=(0, 1, 2)), clip.frames.shape)
    else:
        raise ValueError(f"baseline: expected 'blur', 'mean' or frames, got {baseline!r}")
    return np.rint(replaced).astype(np.uint8)


def random_order(
    size: tuple[int, int, int], seed: int = 0, grid: tuple[int, int, int] = GRID
) -> np.ndarray:
    """Return (T, H, W) float32 in [0, 1): a baseline whose blocks rank in random order.

    Voxels of a block vary by less than blocks differ, so there is a single largest voxel.
    """
    grid = _clamp_grid(grid, size)
    rng = np.random.default_rng(seed)
    order = rng.permutation(int(np.prod(grid)))
    volume = order[_block_numbers(size, grid)] + 0.9 * rng.random(size)
    return (volume / order.size).astype(np.float32)


def _volume_of(tube: TubeLike, clip: Clip) -> np.ndarray:
    """Return the tube's volume; raises ValueError unless it is of the clip's size."""
    volume = as_volume(tube)
    if volume.shape != clip.frames.shape[:3]:
        raise ValueError(
            f"the tube is {volume.shape} and the clip {clip.frames.shape[:3]}: "
            "give the clip as the network saw it, ex.clip"
        )
    return volume


def _replaced(clip: Clip, baseline: Baseline | np.ndarray) -> np.ndarray:
    """Return the frames of a baseline, by its name or as given; they are like the clip's."""
    frames = replacement(clip, baseline) if isinstance(baseline, str) else np.asarray(baseline)
    if frames.shape != clip.frames.shape or frames.dtype != np.uint8:
        raise ValueError(
            f"baseline: expected frames {clip.frames.shape} uint8, got {frames.shape} of "
            f"{frames.dtype}"
        )
    return frames


def _exchange(
    score: Score,
    before: np.ndarray,
    after: np.ndarray,
    rank: np.ndarray,
    *,
    steps: int | Sequence[float],
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Put the voxels of `after` into `before`, block by block in the order of their rank (T, H, W).

    Returns the share of voxels that are exchanged (S,), and the score at each share (S,).
    """
    if batch < 1:
        raise ValueError(f"batch: expected at least one clip at once, got {batch}")
    counts = _block_counts(steps, int(rank.max()) + 1)
    scores = []
    for start in range(0, len(counts), batch):
        exchanged = rank[None] < counts[start : start + batch, None, None, None]
        scores.append(check_scores(score, np.where(exchanged[..., None], after, before)))
    # Shares are of voxels, not of blocks: blocks may differ in size by a voxel along each axis.
    share = np.searchsorted(np.sort(rank, axis=None), counts) / rank.size
    return share, np.concatenate(scores)


def _block_ranks(volume: np.ndarray, grid: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return (T, H, W) int64: the rank of each voxel's block, 0 the most salient, ties random."""
    block = _block_numbers(volume.shape, _clamp_grid(grid, volume.shape))
    # bincount sums in float64: a block of one value then has exactly that mean, whatever its size.
    means = np.bincount(block.ravel(), weights=volume.ravel()) / np.bincount(block.ravel())
    tie_break = np.random.default_rng(seed).permutation(len(means))
    order = np.lexsort((tie_break, -levels(means, noise(volume))))
    rank = np.empty(len(means), dtype=np.int64)
    rank[order] = np.arange(len(means))
    return rank[block]


def _block_numbers(size: tuple[int, ...], grid: tuple[int, int, int]) -> np.ndarray:
    """Return (T, H, W) int64: the block of each voxel, numbered along time, height, width."""
    t, h, w = np.ix_(*(np.arange(n) * blocks // n for n, blocks in zip(size, grid)))
    return (t * grid[1] + h) * grid[2] + w


def _clamp_grid(grid: tuple[int, int, int], size: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the grid with at most one block per voxel along each axis."""
    if len(grid) != 3 or min(grid) < 1:
        raise ValueError(
            f"grid: expected blocks along time, height and width, 1 or more; got {grid}"
        )
    time, height, width = (min(blocks, n) for blocks, n in zip(grid, size))
    return time, height, width


def _block_counts(steps: int | Sequence[float], blocks: int) -> np.ndarray:
    """Return how many blocks are changed at each point of the curve, from 0 to all."""
    if isinstance(steps, int | np.integer):
        if steps < 1:
            raise ValueError(f"steps: expected at least one, got {steps}")
        shares = (np.arange(steps + 1) / steps) ** 2
    else:
        shares = np.asarray(steps, dtype=np.float64)
        if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or not (np.diff(shares) > 0).all():
            raise ValueError(f"steps: expected shares rising from 0 to 1, got {steps}")
    return np.unique(np.rint(shares * blocks).astype(np.int64))


def check_scores(score: Score, frames: np.ndarray) -> np.ndarray:
    """Score frames (N, T, H, W, 3); raises ValueError for anything but (N,) finite numbers."""
    values = np.asarray(score(frames), dtype=np.float64)
    count = len(frames)
    if values.shape != (count,):
        raise ValueError(f"score: expected ({count},) for {count} clips, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("score: the network's answer holds NaN or infinite values")
    return values
