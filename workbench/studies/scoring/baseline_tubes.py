"""The baselines of scores: what a tube has to beat, most of which know nothing of the network."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from skimage.registration import optical_flow_ilk
from torch.nn.functional import interpolate

from ...clips.clip import Clip
from ...metrics.baseline_volumes import centre_gaussian, frame_difference
from ...models.video_model import VideoModel
from ...saliency.explaining import explain
from ...saliency.tubes import Tube
from ..evaluation import Method, seed_of
from ..randomisation import calibrate, randomised, reinitialised

__all__ = ["BASELINES", "middle_voxel", "optical_flow", "score_baselines", "size_of"]

WARPS = 4  # iterations of the optical flow
FLOW_HEIGHT = 112  # pixels
BASELINES = (
    "frame centre",
    "centre of the middle frame",
    "centre Gaussian",
    "frame difference",
    "optical flow",
    "random voxel",
    "random weights",
    "fresh weights",
)


def score_baselines(model: VideoModel, seed: int = 0) -> dict[str, Method]:
    """Return the `BASELINES` as functions of clip and class name.

    Args:
        model: the network; two copies without what it learnt are among the baselines.
        seed: of the random weights and the random voxel.
    """
    shuffled = randomised(model, seed)
    functions: tuple[Method, ...] = (
        lambda clip, label: _centre_column(size_of(clip)),
        lambda clip, label: middle_voxel(size_of(clip)),
        lambda clip, label: centre_gaussian(size_of(clip)),
        lambda clip, label: frame_difference(clip),
        lambda clip, label: optical_flow(clip),
        lambda clip, label: _random_voxel(size_of(clip), seed_of(clip, seed)),
        lambda clip, label: explain(shuffled, clip).tube(label),
        _fresh_tube(model, seed),
    )
    return dict(zip(BASELINES, functions))


def _fresh_tube(model: VideoModel, seed: int) -> Method:
    """Return the tube of an untrained network, its batch norms calibrated on the clip itself.

    On other clips, it would depend on which of them are in the data set.
    """
    fresh: VideoModel | None = None

    def tube(clip: Clip, label: str) -> Tube:
        nonlocal fresh
        if fresh is None:
            fresh = reinitialised(model, [clip], seed)
        else:
            calibrate(fresh, [clip])
        return explain(fresh, clip).tube(label)

    return tube


def optical_flow(clip: Clip) -> np.ndarray:
    """Return (T, H, W) float32: how fast each pixel moves to the next frame, in pixels a frame.

    By iterative Lucas-Kanade (scikit-image) on pictures of at most `FLOW_HEIGHT` rows. The last
    frame takes the flow of the one before.

    Raises:
        ValueError: a clip of one frame.
    """
    if len(clip) < 2:
        raise ValueError("a clip of one frame has no flow between frames")
    height, width = clip.size
    scale = max(1.0, height / FLOW_HEIGHT)
    small = clip.resize(round(height / scale), round(width / scale))
    grey = small.frames.astype(np.float32).mean(-1) / 255
    steps = [optical_flow_ilk(one, other, num_warp=WARPS) for one, other in pairwise(grey)]
    speeds = [scale * np.hypot(down, across) for down, across in steps]
    stack = torch.from_numpy(np.stack([*speeds, speeds[-1]], dtype=np.float32))
    return interpolate(stack[None], clip.size, mode="bilinear")[0].numpy()


def size_of(clip: Clip) -> tuple[int, int, int]:
    """Return a clip's (T, H, W)."""
    return (len(clip), *clip.size)


def _centre_column(size: tuple[int, int, int]) -> np.ndarray:
    """Return zeros, and one at the centre of every frame; of two middle pixels the first."""
    volume = np.zeros(size, dtype=np.float32)
    volume[:, (size[1] - 1) // 2, (size[2] - 1) // 2] = 1
    return volume


def middle_voxel(size: tuple[int, int, int]) -> np.ndarray:
    """Return zeros, and one at the centre of the middle frame."""
    volume = np.zeros(size, dtype=np.float32)
    volume[tuple((n - 1) // 2 for n in size)] = 1
    return volume


def _random_voxel(size: tuple[int, int, int], seed: int) -> np.ndarray:
    volume = np.zeros(size, dtype=np.float32)
    volume.flat[np.random.default_rng(seed).integers(volume.size)] = 1
    return volume
