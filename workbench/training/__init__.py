"""Training: a network learns from a data set, or from clips that are drawn as they are needed.

`fine_tune` trains an existing network further; `sample_networks` holds the recipes of the shipped
networks. Explaining and measuring trained networks belongs to `saliency` and `studies`.
"""

from __future__ import annotations

from .fine_tuning import fine_tune
from .results import Training
from .sample_networks import (
    RECIPE,
    TSN_RECIPE,
    Stage,
    record,
    sample_batches,
    save_weights,
    small_mfnet,
    small_tsn,
    train_on_samples,
)

__all__ = [
    "RECIPE",
    "TSN_RECIPE",
    "Stage",
    "Training",
    "fine_tune",
    "record",
    "sample_batches",
    "save_weights",
    "small_mfnet",
    "small_tsn",
    "train_on_samples",
]
