"""Predictions: which clips a network gets right, with a network that reads it off the clip."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.models.video_model import VideoModel

CLASSES = ["dark", "grey", "bright"]


class ByBrightness(nn.Module):
    """Logits (1, 3) that peak at the class of the mean brightness, 0 to 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -20 * (x.mean() - torch.tensor([0.0, 0.5, 1.0])).square()[None]


@pytest.fixture
def model() -> VideoModel:
    return wb.wrap_model(ByBrightness(), wb.InputSpec(frames=4), CLASSES, name="by brightness")


def made(brightness: list[float], labels: list[str], **columns: list[object]) -> wb.Dataset:
    index = pd.DataFrame({"class": labels, "level": brightness, **columns})
    index.index = pd.Index([f"clip {number}" for number in range(len(index))], name="name")

    def read(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
        if row["level"] < 0:
            raise wb.ClipError("x.avi: damaged")
        assert (frames, stride) == (4, None)
        return wb.Clip(
            torch.full((4, 8, 8, 3), round(255 * row["level"]), dtype=torch.uint8).numpy(), fps=4
        )

    return wb.Dataset(index, CLASSES, read, "patches")


def test_a_row_a_clip_right_or_wrong(model: VideoModel) -> None:
    rows = wb.predictions(model, made([0.0, 1.0, 1.0], ["dark", "dark", "bright"]), progress=False)
    assert rows["clip"].tolist() == ["clip 0", "clip 1", "clip 2"]
    assert rows["class"].tolist() == ["dark", "dark", "bright"]
    assert rows["predicted"].tolist() == ["dark", "bright", "bright"]
    assert rows["correct"].tolist() == [True, False, True]
    total = 1 + torch.tensor([-5.0, -20.0]).exp().sum()  # of e^0, e^-5, e^-20
    assert rows["probability"].tolist() == pytest.approx([float(1 / total)] * 3, rel=1e-5)
    wrong = float(torch.tensor(-20.0).exp() / total)
    assert rows["true probability"].tolist() == pytest.approx(
        [float(1 / total), wrong, float(1 / total)], rel=1e-5
    )


def test_no_clips_make_an_empty_table(model: VideoModel) -> None:
    data = made([0.0], ["dark"])
    rows = wb.predictions(model, data.subset(data.index["class"] == "grey"), progress=False)
    assert len(rows) == 0
    assert "correct" in rows


def test_a_clip_that_cannot_be_read_is_named(model: VideoModel) -> None:
    with pytest.raises(wb.ClipError, match=r"clip 'clip 1': x.avi: damaged"):
        wb.predictions(model, made([0.0, -1.0], ["dark", "dark"]), progress=False)


def test_a_clip_that_is_not_on_the_disk_is_named_before_the_work(model: VideoModel) -> None:
    data = made([-1.0, 0.0], ["dark", "dark"], present=[True, False])
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 clips .* the first 'clip 1': give data.present\(\)"
    ):
        wb.predictions(model, data, progress=False)


def test_a_class_that_the_network_lacks_is_named(model: VideoModel) -> None:
    with pytest.raises(
        ValueError, match=r"clip 'clip 0': class 'Dark' is not among the 3 of by brightness"
    ):
        wb.predictions(model, made([0.0], ["Dark"]), progress=False)


def test_training_flags_are_as_before(model: VideoModel) -> None:
    model.module.train()
    wb.predictions(model, made([0.0], ["dark"]), progress=False)
    assert model.module.training
