"""The scores of one volume against one actor. docs/scores.md defines them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...clips.clip import Action, Clip
from ...metrics.arrays import has_contrast, inside
from ...metrics.localisation import energy_inside, pointing_game, share_inside
from ...metrics.temporal import temporal_auc, temporal_iou
from .baseline_tubes import middle_voxel, size_of

__all__ = ["NEAR", "PEAK", "Truth", "scores_of"]

NEAR = " ±15 px"
PEAK = ("peak time", "peak x", "peak y")


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotated place and time of an actor in a clip.

    Attributes:
        interval: start and stop of the action in seconds.
        during: (T,) bool, the frames in the interval.
        region: (T, H, W) bool, the actor's voxels.
        seen: (T,) bool, the frames that place is judged in: annotated ones, and those outside the
            interval, where there is nothing to find.
    """

    interval: tuple[float, float]
    during: np.ndarray
    region: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, clip: Clip, action: Action) -> Truth | None:
        """Return the truth of an action; None if its actor is in no annotated frame of the clip.

        Masks go before boxes.
        """
        interval = (action.start, action.stop)
        during = clip.during(interval)
        annotated = np.ones(len(clip), dtype=bool)
        if action.masks is not None:
            region = action.masks & during[:, None, None]
            annotated = annotated if action.annotated is None else action.annotated
        elif action.boxes is not None:
            boxes = np.where(during[:, None], action.boxes, np.nan)
            region = inside(boxes[:, None], size_of(clip))
        else:
            return None
        if not region.any():
            return None
        return cls(interval, during, region, annotated | ~during)

    @property
    def centre_hits(self) -> bool:
        """Whether the centre of the clip's middle frame lies on the actor."""
        return pointing_game(middle_voxel(self.region.shape)[self.seen], self.region[self.seen])

    @property
    def fills_the_clip(self) -> bool:
        """Whether every frame is in the interval."""
        return bool(self.during.all())


def scores_of(
    volume: np.ndarray, truth: Truth, times: np.ndarray, tolerance: float
) -> dict[str, object]:
    """Return every score of a volume (T, H, W), by column name.

    Args:
        volume: of the clip's size.
        truth: what it is held against.
        times: (T,) seconds of the clip's frames.
        tolerance: of pointing, as a share of the frame's height and width.

    Raises:
        ValueError: NaN in the volume.
    """
    part, region = volume[truth.seen], truth.region[truth.seen]
    return {
        **_peak(part, times[truth.seen]),
        **_pointing(volume, truth, tolerance),
        "energy inside": energy_inside(part, region),
        "box share": share_inside(region, part.shape),
        **_timing(volume, truth, times),
        **_evidence(part, region),
    }


def _peak(part: np.ndarray, times: np.ndarray) -> dict[str, object]:
    """Return when and where the largest voxel is: seconds and pixels; NaN for a constant volume."""
    if not has_contrast(part):
        return dict.fromkeys(PEAK, np.nan)
    frame, row, column = np.unravel_index(part.argmax(), part.shape)
    return dict(zip(PEAK, (times[frame], column + 0.5, row + 0.5)))


def _pointing(volume: np.ndarray, truth: Truth, tolerance: float) -> dict[str, object]:
    part, region = volume[truth.seen], truth.region[truth.seen]
    scores: dict[str, object] = {}
    for suffix, grown in (("", 0.0), (NEAR, tolerance)):
        scores[f"points{suffix}"] = pointing_game(part, region, grown)
        scores[f"points in space{suffix}"] = pointing_game(part, region, grown, "space")
    whole_frames = np.broadcast_to(truth.during[:, None, None], volume.shape)
    scores["points in time"] = pointing_game(volume, whole_frames, axes="time")
    return scores


def _timing(volume: np.ndarray, truth: Truth, times: np.ndarray) -> dict[str, object]:
    auc = np.nan  # if every frame is in the interval, there is no other to tell it from
    if not truth.fills_the_clip:
        auc = temporal_auc(volume, truth.interval, times)
    return {"temporal IoU": temporal_iou(volume, truth.interval, times), "temporal AUC": auc}


def _evidence(part: np.ndarray, region: np.ndarray) -> dict[str, object]:
    """Return the mean on the actor and on the background, in units of the mean absolute value."""
    scale = float(np.abs(part).mean())
    on, off = part[region], part[~region]
    if scale == 0:
        actor = background = 0.0
    else:
        actor = float(on.mean()) / scale
        background = float(off.mean()) / scale if off.size else np.nan
    return {"evidence on the actor": actor, "evidence on the background": background}
