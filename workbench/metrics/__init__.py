"""Metrics: how well a tube points at a known answer, and how much the network needs what it marks.

They take volumes (T, H, W), boxes, intervals and score functions, never a network. A constant tube,
or one whose largest voxels tie, never counts as a success; each docstring says what it scores
instead.
"""

from .agreement import rank_correlation, structural_similarity
from .baseline_volumes import centre_gaussian, frame_difference
from .confidence import Interval, bootstrap, difference, proportion
from .localisation import energy_inside, highest_peaks, pointing_game, share_inside
from .perturbation import Curve, Score, deletion, insertion, random_order, replacement
from .temporal import temporal_auc, temporal_iou, temporal_variation

__all__ = [
    "Curve",
    "Interval",
    "Score",
    "bootstrap",
    "centre_gaussian",
    "deletion",
    "difference",
    "energy_inside",
    "frame_difference",
    "highest_peaks",
    "insertion",
    "pointing_game",
    "proportion",
    "random_order",
    "rank_correlation",
    "replacement",
    "share_inside",
    "structural_similarity",
    "temporal_auc",
    "temporal_iou",
    "temporal_variation",
]
