"""Attribution: what other methods say about a clip, as `Tube`s.

Overlays, volumes and metrics work on them as on Saliency Tubes. captum computes the methods that it
has; it needs the extra `attribution` and is imported nowhere else. All methods ask for the
probability of the class, those that need its gradient for the logit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.ndimage
import torch
from torch.nn.functional import interpolate

from ..clips.clip import Clip
from ..metrics.perturbation import replacement
from ..models.outputs import as_logits
from ..models.video_model import VideoModel
from .attention_maps import LayerAttention, attention_map, legrad, rollout
from .explaining import explain
from .tubes import Tube, upsample

__all__ = ["METHODS", "attribute"]

BLUR = 0.02  # σ of the blur over gradients, as a share of the frame's height
NOISE = 0.15  # σ of SmoothGrad's noise, as a share of the input's range
KEPT = 0.5  # probability that a cell of RISE's grid is shown
RISE_GRID = (4, 7, 7)
AREAS = (0.02, 0.05, 0.1)  # shares of the clip that extremal perturbations show
EXTREMAL_GRID = (8, 14, 14)
PENALTY = 30.0  # of a mask that misses its area; more, and the first steps ignore the class
RATE = 0.3  # Adam's, on the logits of the mask


def attribute(
    model: VideoModel,
    clip: Clip | torch.Tensor,
    target: int | str | None = None,
    method: str = "tube",
    *,
    passes: int | None = None,
    batch: int = 8,
    seed: int = 0,
) -> Tube:
    """Return what a method of attribution says about a clip, as a `Tube` of its size.

    Methods, with their number of forward passes on a 16-frame clip where that is fixed or default:

    - "tube": the Saliency Tube (Stergiou et al., ICIP 2019), 1.
    - "grad-cam" (Selvaraju et al., ICCV 2017), "grad-cam++" (Chattopadhay et al., WACV 2018) and
      "layercam" (Jiang et al., TIP 2021) at the target layer, 1. `dataclasses.replace(model,
      layer=…)` gives them another. Grad-CAM is that of `explain`, which unlike captum's finds the
      order of axes; a test compares the two.
    - "relevance" (AttnLRP, Achtibat et al., ICML 2024; see `saliency.relevance`), "rollout"
      (gradient attention rollout, Chefer et al., ICCV 2021) and "legrad" (Bousselham et al., ICCV
      2025) are for transformers, 1; see `saliency.attention_maps`.
    - "score-cam" (Wang et al., CVPR workshops 2020): one a channel of the target layer.
    - "occlusion" (Zeiler and Fergus, ECCV 2014, by captum): a box of a quarter of the clip along
      every axis in the clip's mean colour, moved by a quarter in time and an eighth in space, 196.
    - "rise" (Petsiuk et al., BMVC 2018): 160 random masks, smooth in space and time.
    - "integrated-gradients" (Sundararajan et al., ICML 2017, by captum): from the mean colour, 20.
    - "smoothgrad" (Smilkov et al., 2017, by captum): mean |gradient| of 20 noisy clips.
    - "extremal" (Li et al., WACV 2021, after Fong et al., ICCV 2019): smooth masks of 2, 5
      and 10 % of the clip that keep the class most probable before a blurred clip, 30 steps each.

    Args:
        model: from `wb.load_model` or `wb.wrap_model`.
        clip: as for `wb.explain`.
        target: class name or 0-based id; None: the predicted class.
        method: one of the above.
        passes: how many masks, steps or noisy clips, for the methods that have a default.
        batch: how many clips go through the network at once.
        seed: of the random masks and the noise.

    Returns:
        A tube whose volume is signed if the method is. Methods without activation maps have no
        `channels`, and their `map` is the volume.

    Raises:
        KeyError, IndexError: no such method or class.
        ValueError: `passes` for a method that does not take it, or what `wb.explain` refuses.
        ImportError: captum is not installed.

    Deviations:
        The gradients of "integrated-gradients" and "smoothgrad" are summed over colours and
        blurred by 0.02 of the frame's height: single voxels are noise. "score-cam" keeps no ReLU:
        its weights are a softmax and never negative. "occlusion" is blurred by half of a step, so
        that a block has one largest voxel. "extremal" makes masks smooth by a coarse
        grid that is interpolated.
    """
    if method not in METHODS:
        raise KeyError(f"no method {method!r}; there are {', '.join(METHODS)}")
    default = PASSES.get(method)
    if passes is not None and (default is None or passes < 1):
        raise ValueError(f"passes: {method} does not take passes={passes}; {', '.join(PASSES)} do")
    if batch < 1:
        raise ValueError(f"batch: expected at least one clip at once, got {batch}")
    if method in WEIGHTS:
        return explain(model, clip, WEIGHTS[method]).tube(target)
    # A user's own inference mode would leave tensors that refuse to be differentiated.
    with torch.inference_mode(False), torch.autocast(model.device.type, enabled=False):
        task = _Task.of(model, clip, target, passes=passes or default or 1, batch=batch, seed=seed)
        result = _BY_TASK[method](task)
    if isinstance(result, Tube):
        return result
    volume = np.ascontiguousarray(result, dtype=np.float32)
    no_channels = np.zeros(0, dtype=np.int64)
    return Tube(
        volume, task.target, task.label, None, no_channels, 0, map=volume, times=task.clip.times
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """A clip, a class and a budget.

    Attributes:
        x: (1, 3, T, H, W), the network's input.
        grey: (1, 3, 1, 1, 1), the clip's mean colour.
        output: which of the network's outputs is meant.
    """

    model: VideoModel
    clip: Clip
    x: torch.Tensor
    grey: torch.Tensor
    output: str
    target: int
    label: str
    passes: int
    batch: int
    seed: int

    @classmethod
    def of(
        cls,
        model: VideoModel,
        clip: Clip | torch.Tensor,
        target: int | str | None,
        *,
        passes: int,
        batch: int,
        seed: int,
    ) -> _Task:
        """Prepare the clip, and find the class by one forward pass."""
        seen, x = model.prepare(clip)
        outputs = model.run(x).outputs
        output = model.main_output(outputs)
        logits = as_logits(outputs[output])[0]
        names = model.class_names(output, len(logits))
        if isinstance(target, str):
            if target not in names:
                raise KeyError(f"no class {target!r} among {len(names)}: {', '.join(names[:5])}, …")
            number = names.index(target)
        else:
            number = int(logits.argmax()) if target is None else int(target)
        if not 0 <= number < len(names):
            raise IndexError(f"class id {number}: the network has {len(names)}, counted from 0")
        grey = x.mean((2, 3, 4), keepdim=True)
        return cls(
            model, seen, x, grey, output, number, names[number], passes=passes, batch=batch,
            seed=seed,
        )  # fmt: skip

    @property
    def size(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        _, _, time, height, width = self.x.shape
        return time, height, width

    def probability(self, x: torch.Tensor) -> torch.Tensor:
        """Return the class's probability (N,) for inputs (N, 3, T, H, W)."""
        parts = [self.model.run(part).outputs[self.output] for part in x.split(self.batch)]
        return as_logits(torch.cat(parts)).softmax(1)[:, self.target]

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """Return the class's logit (N,) with gradients; within `_differentiable`."""
        outputs = self.model.run(x, training=True).outputs
        return as_logits(outputs[self.output])[:, self.target]

    def generator(self) -> torch.Generator:
        """Return a random state that depends on the seed alone."""
        return torch.Generator().manual_seed(self.seed)


@contextmanager
def _differentiable(model: VideoModel) -> Iterator[None]:
    """Record gradients through the network in eval mode; its flags are restored."""
    flags = [(part, part.training) for part in model.network.modules()]
    model.network.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for part, flag in flags:
            part.training = flag


def _occlusion(task: _Task) -> np.ndarray:
    """Return how much the probability falls when a box over the voxel is covered."""
    from captum.attr import Occlusion

    time, height, width = task.size
    window = (3, max(1, time // 4), max(1, height // 4), max(1, width // 4))
    strides = (3, window[1], max(1, window[2] // 2), max(1, window[3] // 2))
    with torch.no_grad():
        drop = Occlusion(task.probability).attribute(
            task.x,
            sliding_window_shapes=window,
            strides=strides,
            baselines=task.grey.expand_as(task.x),
            perturbations_per_eval=task.batch,
        )
    # Blocks of one stride share a value; blurred, the largest has one voxel at its centre.
    return scipy.ndimage.gaussian_filter(drop[0, 0].cpu().numpy(), np.array(strides[1:]) / 2)


def _rise(task: _Task) -> np.ndarray:
    """Return the mean of random masks, weighted by the probability that they leave."""
    generator = task.generator()
    total = torch.zeros(task.size)
    remaining = task.passes
    while remaining:
        count = min(task.batch, remaining)
        masks = torch.stack([_random_mask(task.size, generator) for _ in range(count)])
        shown = masks[:, None].to(task.x.device)
        scores = task.probability(shown * task.x + (1 - shown) * task.grey).cpu()
        total += (scores[:, None, None, None] * masks).sum(0)
        remaining -= count
    return (total / (task.passes * KEPT)).numpy()


def _random_mask(size: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Return (T, H, W) in [0, 1]: a random grid, interpolated and shifted by part of a cell."""
    grid = [min(parts, n) for parts, n in zip(RISE_GRID, size)]
    cells = [-(-n // parts) for n, parts in zip(size, grid)]
    coarse = torch.rand(1, 1, *(parts + 1 for parts in grid), generator=generator) < KEPT
    larger = [(parts + 1) * cell for parts, cell in zip(grid, cells)]
    smooth = interpolate(coarse.float(), larger, mode="trilinear", align_corners=False)[0, 0]
    t, y, x = (int(torch.randint(cell, (), generator=generator)) for cell in cells)
    return smooth[t : t + size[0], y : y + size[1], x : x + size[2]]


def _integrated_gradients(task: _Task) -> np.ndarray:
    from captum.attr import IntegratedGradients

    with _differentiable(task.model):
        gradients = IntegratedGradients(task.logit).attribute(
            task.x,
            baselines=task.grey.expand_as(task.x),
            n_steps=task.passes,
            internal_batch_size=task.batch,
        )
    return _blurred(gradients)


def _smoothgrad(task: _Task) -> np.ndarray:
    from captum.attr import NoiseTunnel, Saliency

    spread = float(task.x.max() - task.x.min())
    devices = [task.x.device] if task.x.is_cuda else []
    # captum draws its noise from the global random state.
    with torch.random.fork_rng(devices), _differentiable(task.model):
        torch.manual_seed(task.seed)
        gradients = NoiseTunnel(Saliency(task.logit)).attribute(
            task.x,
            nt_type="smoothgrad",
            nt_samples=task.passes,
            nt_samples_batch_size=min(task.batch, task.passes),
            stdevs=NOISE * spread,
        )
    return _blurred(gradients)


def _blurred(gradients: torch.Tensor) -> np.ndarray:
    """Return the sum over colours of (1, 3, T, H, W), blurred in space."""
    volume = gradients.detach()[0].sum(0).float().cpu().numpy()
    sigma = BLUR * volume.shape[1]
    return scipy.ndimage.gaussian_filter(volume, (0, sigma, sigma))


def _score_cam(task: _Task) -> Tube:
    """Weigh each activation map by the probability that it leaves when the clip is masked by it."""
    ex = explain(task.model, task.clip)
    maps = ex.activations
    scores = []
    for part in maps.split(task.batch):
        masks = torch.stack([upsample(each, task.size) for each in part])
        low, high = masks.amin((1, 2, 3), keepdim=True), masks.amax((1, 2, 3), keepdim=True)
        masks = ((masks - low) / (high - low).clamp(min=1e-12))[:, None]
        scores.append(task.probability(masks * task.x + (1 - masks) * task.grey))
    weights = torch.cat(scores).softmax(0)
    low_map = (weights @ maps.flatten(1)).view(maps.shape[1:])
    return Tube(
        upsample(low_map, task.size).cpu().numpy(),
        task.target,
        task.label,
        None,
        np.arange(len(maps)),
        len(maps),
        map=low_map.cpu().numpy(),
        times=task.clip.times,
    )


def _of_attention(task: _Task, combine: Callable[[list[LayerAttention]], torch.Tensor]) -> Tube:
    """Return what attention says of each token, as a tube on the tokens' grid."""
    low = attention_map(task.model, task.x, task.output, task.target, combine)
    return Tube(
        upsample(low, task.size).cpu().numpy(),
        task.target,
        task.label,
        None,
        np.zeros(0, dtype=np.int64),
        0,
        map=low.cpu().numpy(),
        times=task.clip.times,
    )


def _extremal(task: _Task) -> np.ndarray:
    """Return the sum of the masks of several areas that keep the class most probable."""
    blurred = task.model.input.normalise(
        torch.from_numpy(replacement(task.clip))[None].to(task.x.device)
    )
    grid = tuple(min(cells, n) for cells, n in zip(EXTREMAL_GRID, task.size))
    total = np.zeros(task.size, dtype=np.float32)
    with _differentiable(task.model):
        for area in AREAS:
            mask = _extremal_mask(task, blurred, grid, area)
            total += interpolate(mask, task.size, mode="trilinear")[0, 0].cpu().numpy()
    # A mask is nearly flat where it shows the clip: the blur puts its maximum in the middle.
    return scipy.ndimage.gaussian_filter(total, np.array(task.size) / grid)


def _extremal_mask(
    task: _Task, blurred: torch.Tensor, grid: tuple[int, ...], area: float
) -> torch.Tensor:
    """Return the mask (1, 1, T', H', W') in [0, 1] of one area.

    Maximises log p(class | mask) - λ Σ (sorted mask - r)² / V by Adam, r being ones on the area
    and zeros elsewhere. λ grows twentyfold over the steps, so the area is exact only at the end.
    """
    cells = int(np.prod(grid))
    reference = torch.zeros(cells, device=task.x.device)
    reference[cells - max(1, round(area * cells)) :] = 1
    hidden = torch.zeros(1, 1, *grid, device=task.x.device, requires_grad=True)
    optimiser = torch.optim.Adam([hidden], lr=RATE)
    for step in range(task.passes):
        coarse = hidden.sigmoid()
        mask = interpolate(coarse, task.size, mode="trilinear")
        outputs = task.model.run(mask * task.x + (1 - mask) * blurred, training=True).outputs
        kept = as_logits(outputs[task.output]).log_softmax(1)[0, task.target]
        missed = (coarse.flatten().sort().values - reference).square().mean()
        penalty = PENALTY * 20 ** (step / task.passes - 1)
        (hidden.grad,) = torch.autograd.grad(penalty * missed - kept, hidden)
        optimiser.step()
    return hidden.detach().sigmoid()


# Which weights of `explain` are a method of their own; None: those of the head.
WEIGHTS = {
    "tube": None,
    "grad-cam": "gradient",
    "grad-cam++": "gradient++",
    "layercam": "layer",
    "relevance": "relevance",
}
PASSES = {"rise": 160, "integrated-gradients": 20, "smoothgrad": 20, "extremal": 30}
_BY_TASK: dict[str, Callable[[_Task], np.ndarray | Tube]] = {
    "rollout": partial(_of_attention, combine=rollout),
    "legrad": partial(_of_attention, combine=legrad),
    "score-cam": _score_cam,
    "occlusion": _occlusion,
    "rise": _rise,
    "integrated-gradients": _integrated_gradients,
    "smoothgrad": _smoothgrad,
    "extremal": _extremal,
}
METHODS = (*WEIGHTS, *_BY_TASK)
