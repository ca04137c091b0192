"""Whether a network needs what a tube marks: replace it, or show nothing else, and ask the network again."""

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

GRID = (
    8,
    14,
    14,
)  # blocks along time, height and width: a map's cell in time, half of one in space
STEPS = 10
BLUR = 20 / 224  # the blur's σ as a share of the frame's height
Baseline = Literal["blur", "mean"]


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """A class's probability while a clip is deleted or inserted.

    Attributes:
        kind: "deletion" or "insertion".
        share: (S,) share of the voxels that are replaced (deletion) or shown (insertion), from 0 to 1.
        score: (S,) what the network says then.
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
    """Replace the voxels of a clip, the most salient first, and follow the score. A low AUC is good.

    After Petsiuk et al., "RISE" (BMVC 2018), on video as in STEP (Li et al.): all T·H·W voxels are ranked
    together, so that a tube is held to where *and* when. The area lies between 0 and 1 for a probability. It has
    no absolute scale: hold it against that of `random_order` on the same clips.

    Blocks are ranked by their mean, not voxels. The maps are far coarser than the clip, so that the order within a
    block is the spline's, not the network's; and single voxels strewn over a frame read as noise, or are filled in
    from their neighbours. Blocks whose means are equal are taken at random. A constant tube is therefore
    the random order itself, which is what others have to beat.

    Args:
        score: frames (N, T, H, W, 3) uint8 to scores (N,), the softmax probability of the class explained.
        clip: what the tube explains, as the network sees it (`ex.clip`).
        tube: a `Tube` or a volume (T, H, W) of the clip's size.
        steps: how many steps there are from 0 to 1, or the shares themselves, ascending from 0 to 1. A number makes
            the first steps small, (k / steps)²: an action fills a few percent of its clip, and there the curve bends.
        baseline: what voxels are replaced by, as `replacement` makes it, or the frames themselves.
        grid: how many blocks there are along time, height and width; at most one a frame, row or column.
        batch: how many clips are scored at once.
        seed: of the order of blocks with equal means.

    Raises:
        ValueError: a tube of another size than the clip or with NaN, steps, a baseline or a grid that make no
            sense, or a score of another shape than (N,), NaN included.
    """
    return _curve("deletion", score, clip, tube, steps, baseline, grid, batch, seed)


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
    """Show the voxels of a clip, the most salient first, in what it is replaced by. A high AUC is good.

    The reverse of `deletion`, which says what the arguments are, what is raised and where it is from. A constant
    tube is the random order here too.
    """
    return _curve("insertion", score, clip, tube, steps, baseline, grid, batch, seed)


def replacement(clip: Clip, baseline: Baseline = "blur") -> np.ndarray:
    """Return frames (T, H, W, 3) uint8 to put in the place of a clip's.

    "blur" is every frame by itself under a Gaussian of σ = 20 pixels of 224 (as a share of the height), which leaves
    the scene's colours and makes no edges; "mean" is the mean colour of the clip.

    Raises ValueError for another baseline.
    """
    if baseline == "blur":
        sigma = BLUR * clip.size[0]
        blurred = scipy.ndimage.gaussian_filter(
            clip.frames.astype(np.float32), (0, sigma, sigma, 0), truncate=3
        )
    elif baseline == "mean":
        blurred = np.broadcast_to(clip.frames.mean(axis=(0, 1, 2)), clip.frames.shape)
    else:
        raise ValueError(f"baseline: expected 'blur', 'mean' or frames, got {baseline!r}")
    return np.rint(blurred).astype(np.uint8)


def random_order(
    size: tuple[int, int, int], seed: int = 0, grid: tuple[int, int, int] = GRID
) -> np.ndarray:
    """Return (T, H, W) float32 in [0, 1): a volume whose blocks come in random order, a baseline.

    Within a block voxels vary, by less than from one block to the next, so that there is one largest voxel.
    """
    grid = _fitting(grid, size)
    rng = np.random.default_rng(seed)
    order = rng.permutation(int(np.prod(grid)))
    volume = order[_blocks(size, grid)] + 0.9 * rng.random(size)
    return (volume / order.size).astype(np.float32)


def _curve(
    kind: str,
    score: Score,
    clip: Clip,
    tube: TubeLike,
    steps: int | Sequence[float],
    baseline: Baseline | np.ndarray,
    grid: tuple[int, int, int],
    batch: int,
    seed: int,
) -> Curve:
    volume, frames = as_volume(tube), clip.frames
    if volume.shape != frames.shape[:3]:
        raise ValueError(
            f"the tube is {volume.shape} and the clip {frames.shape[:3]}: give the clip as the network saw it, ex.clip"
        )
    if batch < 1:
        raise ValueError(f"batch: expected at least one clip at once, got {batch}")
    other = replacement(clip, baseline) if isinstance(baseline, str) else np.asarray(baseline)
    if other.shape != frames.shape or other.dtype != np.uint8:
        raise ValueError(
            f"baseline: expected frames {frames.shape} uint8, got {other.shape} of {other.dtype}"
        )
    under, over = (frames, other) if kind == "deletion" else (other, frames)
    rank = _ranked(volume, grid, seed)
    counts = _counts(steps, int(rank.max()) + 1)
    scores = []
    for start in range(0, len(counts), batch):
        chosen = rank[None] < counts[start : start + batch, None, None, None]
        scores.append(scored(score, np.where(chosen[..., None], over, under)))
    share = (
        np.searchsorted(np.sort(rank, axis=None), counts) / rank.size
    )  # blocks may differ in size by a voxel
    return Curve(kind, share, np.concatenate(scores))


def _ranked(volume: np.ndarray, grid: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return (T, H, W) int64: the rank of every voxel's block, 0 the most salient, equal ones at random."""
    block = _blocks(volume.shape, _fitting(grid, volume.shape))
    # float64: blocks of one value then have exactly that mean, whatever their size.
    means = np.bincount(block.ravel(), weights=volume.ravel()) / np.bincount(block.ravel())
    luck = np.random.default_rng(seed).permutation(len(means))
    order = np.lexsort((luck, -levels(means, noise(volume))))
    rank = np.empty(len(means), dtype=np.int64)
    rank[order] = np.arange(len(means))
    return rank[block]


def _blocks(size: tuple[int, ...], grid: tuple[int, int, int]) -> np.ndarray:
    """Return (T, H, W) int64: in which block every voxel lies, numbered from 0, time first."""
    t, h, w = np.ix_(*(np.arange(n) * blocks // n for n, blocks in zip(size, grid)))
    return (t * grid[1] + h) * grid[2] + w


def _fitting(grid: tuple[int, int, int], size: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the grid with no more blocks along an axis than there are voxels."""
    if len(grid) != 3 or min(grid) < 1:
        raise ValueError(
            f"grid: expected how many blocks along time, height and width, each from 1; got {grid}"
        )
    time, height, width = (min(blocks, n) for blocks, n in zip(grid, size))
    return time, height, width


def _counts(steps: int | Sequence[float], blocks: int) -> np.ndarray:
    """Return how many blocks are replaced at each point of the curve, from none to all of them."""
    if isinstance(steps, int | np.integer):
        if steps < 1:
            raise ValueError(f"steps: expected at least one, got {steps}")
        shares = (np.arange(steps + 1) / steps) ** 2
    else:
        shares = np.asarray(steps, dtype=np.float64)
        if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or not (np.diff(shares) > 0).all():
            raise ValueError(f"steps: expected shares that ascend from 0 to 1, got {steps}")
    return np.unique(np.rint(shares * blocks).astype(np.int64))


def scored(score: Score, frames: np.ndarray) -> np.ndarray:
    """Return what a score function says of frames (N, T, H, W, 3), (N,); raises ValueError for anything else."""
    values = np.asarray(score(frames), dtype=np.float64)
    if values.shape != (len(frames),):
        raise ValueError(
            f"score: expected ({len(frames)},) for {len(frames)} clips, got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("score: the network's answer holds NaN or infinite values")
    return values
