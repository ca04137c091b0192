"""What a training returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..models.video_model import VideoModel

__all__ = ["COLUMNS", "Training"]

COLUMNS = ["epoch", "step", "rate", "loss", "accuracy", "validation loss", "validation accuracy"]


@dataclass(frozen=True, eq=False, repr=False)
class Training:
    """What `fine_tune` returns.

    Attributes:
        model: the trained network in eval mode, ready for `wb.explain`: from the epoch with the
            best validation accuracy, or from the last epoch if there was no validation.
        curve: DataFrame, a row per step: epoch and step (from 1), rate, loss and accuracy of the
            batch; at the end of an epoch also validation loss and accuracy, elsewhere NaN.
            Accuracies are top-1, in [0, 1].
        epoch: the epoch `model` is from.
        flip: whether clips were mirrored.
        output: folder of `latest.pt` and `best.pt`, or None.
    """

    model: VideoModel
    curve: pd.DataFrame
    epoch: int
    flip: bool
    output: Path | None = None

    @property
    def epochs(self) -> pd.DataFrame:
        """The curve by epoch: mean training loss and accuracy, and the final validation's."""
        how = {**dict.fromkeys(COLUMNS[3:5], "mean"), **dict.fromkeys(COLUMNS[5:], "last")}
        return self.curve.groupby("epoch").agg(how)

    def __repr__(self) -> str:
        last = self.epochs.loc[self.epoch].to_dict()
        validation = last["validation accuracy"]
        validated = "" if math.isnan(validation) else f", validation {validation:.1%}"
        return (
            f"<Training of {self.model.name}: {len(self.curve)} steps in {len(self.epochs)} "
            f"epochs; epoch {self.epoch}: loss {last['loss']:.3f}, "
            f"accuracy {last['accuracy']:.1%}{validated}>"
        )
