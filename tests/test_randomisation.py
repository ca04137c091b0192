"""The randomisation checks: what is randomised when, and results with a known answer."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.metrics.agreement import rank_correlation, structural_similarity
from workbench.saliency.tubes import upsample
from workbench.studies.randomisation import (
    cascading_randomisation,
    randomised,
    reinitialised,
)

STAGES = ["classifier", "tail", "conv5", "conv4", "conv3", "conv2", "conv1"]


@pytest.fixture(scope="module")
def model():
    return wb.load_model("samples/mfnet", device="cpu")


@pytest.fixture(scope="module")
def clip():
    return wb.samples.dataset("edge", 1, seed=11).read(0, frames=16)


def test_the_trained_network_is_randomised_from_the_head_down(model, clip):
    before = copy.deepcopy(model.module.state_dict())
    rows = cascading_randomisation(model, clip, seed=2)
    assert rows["layer"].tolist() == STAGES
    sizes = [sum(p.numel() for p in getattr(model.module, name).parameters()) for name in STAGES]
    np.testing.assert_allclose(rows["share"], np.cumsum(sizes) / sum(sizes))
    np.testing.assert_allclose(rows["|rank correlation|"], rows["rank correlation"].abs())
    assert rows["|rank correlation|"].iloc[-1] < 0.5  # one clip; many are in the notebook
    assert rows["SSIM"].iloc[-1] < 0.7
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    again, other = (
        cascading_randomisation(model, clip, stages=STAGES[:2], seed=seed) for seed in (2, 3)
    )
    pd.testing.assert_frame_equal(rows[:2], again, atol=1e-3)
    assert (other["rank correlation"] - again["rank correlation"]).abs().min() > 1e-3


def test_the_first_stage_is_the_tube_of_a_shuffled_head(model, clip):
    rows = cascading_randomisation(model, clip, "lift", tau=0.0, stages=["classifier"], seed=4)
    ex = wb.explain(model, clip)
    weight = model.module.classifier.weight.detach().flatten()
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(4))
    shuffled = weight[order].view(len(ex.classes), -1)[ex.class_id("lift")]
    low = torch.einsum("c,cthw->thw", shuffled.clamp(min=0), ex.activations)
    tube = upsample(low, (16, 112, 112)).numpy()
    original = ex.tube("lift", tau=0.0)
    assert rows["rank correlation"].item() == pytest.approx(
        rank_correlation(original, tube), abs=1e-3
    )
    assert rows["SSIM"].item() == pytest.approx(structural_similarity(original, tube), abs=1e-3)


def test_shuffling_reaches_the_statistics_of_batch_norms(model):
    shuffled = randomised(model, seed=3).module.state_dict()
    statistics = [
        (name, value) for name, value in model.module.state_dict().items() if "running_" in name
    ]
    assert len(statistics) > 20
    for name, value in statistics:
        assert not torch.equal(shuffled[name], value), name
        torch.testing.assert_close(shuffled[name].sort().values, value.sort().values)


class Normed(nn.Module):
    """Three channels, normalised and added up; only the variances of the batch norm differ."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm3d(3)
        self.norm.running_var.copy_(torch.tensor([1e-6, 1.0, 1.0]))  # the first channel counts
        self.pooled = nn.AdaptiveAvgPool3d(1)
        self.head = nn.Linear(3, 2)
        nn.init.constant_(self.head.weight, 1.0)

    def forward(self, x):
        return self.head(self.pooled(self.norm(x)).flatten(1))


def test_a_stage_shuffles_the_statistics_of_its_batch_norms():
    model = wb.wrap_model(Normed().eval(), wb.InputSpec(frames=8), layer="norm")
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    clip = wb.Clip(frames, 25.0)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        # Weight and bias of the norm are drawn first; all their entries are alike.
        order = [torch.randperm(3, generator=generator) for _ in range(4)][3]
        counts = int(torch.tensor([1e-6, 1.0, 1.0])[order].argmin())
        first, other = frames[..., 0], frames[..., counts]
        (rows,) = cascading_randomisation(model, clip, 0, stages=["norm"], seed=seed).itertuples()
        expected = rank_correlation(first.astype(float), other.astype(float))
        assert rows[3] == pytest.approx(expected, abs=0.02)
        assert (rows[3] > 0.9) == (counts == 0)


def test_fresh_weights_are_initialised_and_their_batch_norms_fit_the_clips(model):
    clips = [wb.samples.make_clip(label, seed=8).sample(16) for label in ("lift", "stir")]
    before = copy.deepcopy(model.module.state_dict())
    state = torch.random.get_rng_state()
    fresh = reinitialised(model, clips, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name

    # What enters each batch norm on those clips has the mean and variance that the norm expects.
    off = []

    def compare(norm, inputs):
        (x,) = inputs
        variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        scale = variance.clamp(min=norm.eps).sqrt()
        off.append(float(((mean - norm.running_mean) / scale).abs().max()))
        off.append(float((variance / norm.running_var.clamp(min=norm.eps)).log().abs().max()))

    norms = [part for part in fresh.module.modules() if isinstance(part, nn.BatchNorm3d)]
    frames = np.stack([model.input.view(clip).frames for clip in clips])
    fresh.score(0)(frames)  # on a first clip the faster memory format is measured, too
    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    fresh.score(0)(frames)
    for hook in hooks:
        hook.remove()
    assert len(off) >= 2 * len(norms) > 40
    assert max(off) < 1e-2

    weight = fresh.module.classifier.weight
    bound = weight.shape[1] ** -0.5  # of nn.Linear's uniform initialisation
    assert 0.9 * bound < weight.abs().max() <= bound
    again, other = (reinitialised(model, clips, seed=seed) for seed in (1, 2))
    assert torch.equal(again.module.classifier.weight, weight)
    assert not torch.equal(other.module.classifier.weight, weight)
    assert np.isfinite(wb.explain(fresh, clips[0]).tube("lift").volume).all()
    with pytest.raises(ValueError, match="at least one"):
        reinitialised(model, [])


class Brightness(nn.Module):
    """One map: values above `level`, for two classes of equal weight. Shuffling changes nothing."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor([0.1]))
        self.pool = nn.AvgPool3d(4)
        self.pooled = nn.AdaptiveAvgPool3d(1)
        self.head = nn.Linear(1, 2)
        nn.init.constant_(self.head.weight, 2.0)

    def forward(self, x):
        return self.head(self.pooled(self.pool(x[:, :1] - self.level)).flatten(1))


def test_what_learnt_nothing_stays_alike_and_parameters_outside_all_parts_come_last():
    frames = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    model = wb.wrap_model(Brightness(), wb.InputSpec(frames=16), layer="pool")
    rows = cascading_randomisation(model, wb.Clip(frames, 25.0))
    assert rows["layer"].tolist() == [
        "head",
        "(own parameters)",
    ]  # pooling has nothing to randomise
    assert rows["share"].tolist() == pytest.approx([4 / 5, 1])
    assert rows["rank correlation"].tolist() == pytest.approx([1, 1])
    assert rows["SSIM"].tolist() == pytest.approx([1, 1])

    # A tube without contrast is no proof that the check was passed.
    rows = cascading_randomisation(model, wb.Clip(np.full_like(frames, 100), 25.0))
    assert rows[["rank correlation", "|rank correlation|", "SSIM"]].isna().all(axis=None)


def test_parts_that_cannot_be_stages_are_refused(model, clip):
    with pytest.raises(KeyError, match="conv5"):
        cascading_randomisation(model, clip, stages=["conv6"])
    with pytest.raises(ValueError, match=r"conv5\.B01"):
        cascading_randomisation(model, clip, stages=["conv5", "conv5.B01"])
    with pytest.raises(ValueError, match="no part"):
        cascading_randomisation(model, clip, stages=["maxpool"])
    finer = cascading_randomisation(model, clip, stages=["conv5.B02", "conv5.B01"])
    assert finer["share"].is_monotonic_increasing
    assert finer["share"].iloc[-1] < 1
