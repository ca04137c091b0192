"""What the study compares: tubes, controls of their class weights and training, and baselines."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from ..clips.clip import Clip
from ..datasets.samples import dataset
from ..models.video_model import VideoModel
from ..saliency.explaining import explain
from ..saliency.explanation import Explanation
from ..saliency.tubes import Tube, tau_for_share, upsample
from .evaluation import Method, baselines, seed_of
from .randomisation import reinitialised

__all__ = [
    "FRESH",
    "SEED",
    "SHARES",
    "TWINS",
    "centred",
    "controls",
    "explainer",
    "follows_height",
    "hard",
    "methods",
    "shares",
    "untrained",
]

SEED = 3  # of the study's clips; `evaluate` measures on those of seed 2
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1, 0.05, 0.02)  # of the features kept
# On the shipped network these are the same maps as others, after average pooling.
TWINS = {"MFNet, gradient weights": "MFNet tube", "MFNet, LayerCAM": "MFNet, τ = 0"}
FRESH = 3  # networks with fresh weights


def methods(mfnet: VideoModel, tsn: VideoModel, seed: int = 0) -> dict[str, Method]:
    """Return the methods compared: name to a function from clip and class name to a tube."""
    # Each keeps its last explanation: one pass serves several methods and all actions of a clip.
    by_mfnet, by_tsn = explainer(mfnet), explainer(tsn)
    by_gradient, by_layer = explainer(mfnet, "gradient"), explainer(mfnet, "layer")
    return {
        "MFNet tube": lambda clip, label: by_mfnet(clip).tube(label),
        "MFNet, τ = 0": lambda clip, label: by_mfnet(clip).tube(label, tau=0.0),
        "MFNet, a quarter of the features": _strongest_features(mfnet, 0.25),
        "MFNet, gradient weights": lambda clip, label: by_gradient(clip).tube(label),
        "MFNet, LayerCAM": lambda clip, label: by_layer(clip).tube(label),
        "TSN tube": lambda clip, label: by_tsn(clip).tube(label),
        **baselines(mfnet, seed),
    }


def shares(mfnet: VideoModel) -> dict[str, Method]:
    """Return the tubes of the features with the largest weights, by the share of them kept."""
    return {f"{share:g}": _strongest_features(mfnet, share) for share in SHARES}


def centred(mfnet: VideoModel) -> dict[str, Method]:
    """Return the tube that takes the cells of its map at their centres.

    The paper's tube puts the first and last cells on the ends of the clip.
    """
    by_mfnet = explainer(mfnet)
    return {"MFNet, cells centred": lambda clip, label: by_mfnet(clip).tube(label, centred=True)}


def controls(
    mfnet: VideoModel, explained: Callable[[Clip], Explanation] | None = None
) -> dict[str, Method]:
    """Return maps that a tube has to beat before its class weights can be credited.

    `class-blind` is the mean of all activation maps, so it is the same for every class. `absent
    class` is the tube of a class that the clip does not show, `other action` that of the clip's
    other action (in a clip of one action it is the action's own tube). `one feature` is the map of
    the feature that contributes most. `explained` is a clip's explanation; None: by the network.
    """
    by_mfnet = explained or explainer(mfnet)

    def class_blind(clip: Clip, label: str) -> np.ndarray:
        ex = by_mfnet(clip)
        return upsample(ex.activations.mean(0), (len(clip), *clip.size)).cpu().numpy()

    def absent_class(clip: Clip, label: str) -> Tube:
        shown = {action.label for action in clip.actions}
        others = [name for name in mfnet.classes or () if name not in shown]
        return by_mfnet(clip).tube(others[seed_of(clip, label) % len(others)])

    def other_action(clip: Clip, label: str) -> Tube:
        others = [action.label for action in clip.actions if action.label != label]
        return by_mfnet(clip).tube(others[0] if others else label)

    def one_feature(clip: Clip, label: str) -> Tube:
        ex = by_mfnet(clip)
        return ex.feature_tube(int(ex.channels(label, top=1)["channel"].iloc[0]))

    return {
        "class-blind": class_blind,
        "absent class": absent_class,
        "other action": other_action,
        "one feature": one_feature,
    }


def hard(mfnet: VideoModel) -> dict[str, Method]:
    """Return what is compared on `HARD_SPLITS`, which the network was not trained on."""
    by_mfnet = explainer(mfnet)
    known = controls(mfnet, by_mfnet) | baselines(mfnet)
    beside = ("class-blind", "absent class", "frame difference", "centre Gaussian")
    return {
        "MFNet tube": lambda clip, label: by_mfnet(clip).tube(label),
        **{name: known[name] for name in beside},
        **untrained(mfnet, 1),
    }


def untrained(mfnet: VideoModel, count: int = FRESH) -> dict[str, Method]:
    """Return the tubes of networks with fresh weights and calibrated batch norms."""
    clips = list(dataset("decorrelated", 8, seed=SEED + 1))
    explained = [explainer(reinitialised(mfnet, clips, seed=seed)) for seed in range(count)]
    return {f"fresh weights {seed}": _own_tube(by) for seed, by in enumerate(explained)}


def _own_tube(explained: Callable[[Clip], Explanation]) -> Method:
    return lambda clip, label: explained(clip).tube(label)


def follows_height(tube: Tube, clip: Clip) -> float:
    """Return the correlation over an action's frames of the tube's height with the object's.

    The tube's height in a frame is the centroid of its positive values; the object's is the middle
    of its box. NaN with fewer than three frames, or if either height does not change.
    """
    boxes = clip.action_boxes()
    frames = np.isfinite(boxes).all(1) & (tube.volume.max((1, 2)) > 0)
    if frames.sum() < 3:
        return float("nan")
    positive = tube.volume[frames].clip(min=0)
    rows = np.arange(positive.shape[1]) + 0.5
    centroid = (positive.sum(2) * rows).sum(1) / positive.sum((1, 2))
    middle = boxes[frames][:, [1, 3]].mean(1)
    if not (np.ptp(centroid) > 0 and np.ptp(middle) > 0):
        return float("nan")
    return float(np.corrcoef(centroid, middle)[0, 1])


def _strongest_features(model: VideoModel, share: float) -> Method:
    explained = explainer(model)

    def tube(clip: Clip, label: str) -> Tube:
        ex = explained(clip)
        return ex.tube(label, tau_for_share(ex.channel_weights(label), share))

    return tube


def explainer(model: VideoModel, weights: str | None = None) -> Callable[[Clip], Explanation]:
    """Return a function that explains a clip, and keeps its last answer for the next method."""
    return lru_cache(maxsize=1)(partial(explain, model, weights=weights))
