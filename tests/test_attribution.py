"""Other methods of attribution, on a network whose evidence is known: class "red" sees red pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.saliency.attribution import METHODS

SIZE = (8, 32, 32)
PASSES = {"rise": 300, "integrated-gradients": 10, "smoothgrad": 10, "extremal": 25}


class RedDetector(nn.Module):
    """Maps of how red and how blue each cell of 2×4×4 voxels is, their mean, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv3d(3, 2, (2, 4, 4), stride=(2, 4, 4))
        self.rectify = nn.ReLU()
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.colours.weight.zero_()
            self.colours.bias.fill_(-0.1)
            self.colours.weight[0, 0] = 1 / 32
            self.colours.weight[1, 2] = 1 / 32
            self.head.weight.copy_(200 * torch.eye(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rectify(self.colours(x)).mean((2, 3, 4)))


def red_and_blue() -> tuple[wb.Clip, np.ndarray, np.ndarray]:
    """A clip with a red square early on the left and a blue one late on the right, and masks."""
    red, blue = np.zeros(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)
    red[0:4, 8:20, 4:16] = True
    blue[4:8, 8:20, 16:28] = True
    frames = np.full((*SIZE, 3), 20, dtype=np.uint8)
    frames[red] = 230, 20, 20
    frames[blue] = 20, 20, 230
    return wb.Clip(frames, 8.0), red, blue


@pytest.fixture
def model() -> wb.VideoModel:
    return wb.wrap_model(RedDetector(), wb.InputSpec(frames=SIZE[0]), ["red", "blue"])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_colour_of_the_class(model: wb.VideoModel, method: str) -> None:
    clip, red, blue = red_and_blue()
    for label, mask in (("red", red), ("blue", blue)):
        tube = wb.attribute(model, clip, label, method, passes=PASSES.get(method))
        assert tube.volume.shape == SIZE
        assert tube.volume.dtype == np.float32
        assert (tube.label, tube.target) == (label, ["red", "blue"].index(label))
        assert wb.pointing_game(tube, mask, axes="space-time")
        share = mask.mean()
        assert wb.energy_inside(tube, mask) > share
        np.testing.assert_array_equal(tube.times, clip.times)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_the_network_as_it_was(model: wb.VideoModel, method: str) -> None:
    clip, _, _ = red_and_blue()
    model.module.train()
    before = [p.clone() for p in model.module.parameters()]
    state = torch.get_rng_state()
    with torch.inference_mode():
        first = wb.attribute(model, clip, "red", method, passes=PASSES.get(method) and 3, seed=4)
    again = wb.attribute(model, clip, "red", method, passes=PASSES.get(method) and 3, seed=4)
    np.testing.assert_array_equal(first.volume, again.volume)
    assert model.module.training
    assert torch.equal(state, torch.get_rng_state())
    for parameter, old in zip(model.module.parameters(), before):
        assert parameter.grad is None
        assert torch.equal(parameter, old)
    assert not model.module._forward_hooks


def test_gradient_methods_are_those_of_explain(model: wb.VideoModel) -> None:
    clip, _, _ = red_and_blue()
    tube = wb.attribute(model, clip, method="layercam")
    expected = wb.explain(model, clip, weights="layer").tube()
    np.testing.assert_array_equal(tube.volume, expected.volume)


def test_integrated_gradients_add_up_to_the_logit(model: wb.VideoModel) -> None:
    clip, _, _ = red_and_blue()
    tube = wb.attribute(model, clip, "red", "integrated-gradients", passes=200)
    _, x = model.prepare(clip)
    with torch.no_grad():
        grey = model.module(x.mean((2, 3, 4), keepdim=True).expand_as(x))[0, 0]
        gained = model.module(x)[0, 0] - grey
    assert tube.volume.sum() == pytest.approx(float(gained), rel=0.02)


def test_rise_does_not_depend_on_the_batch(model: wb.VideoModel) -> None:
    clip, _, _ = red_and_blue()
    one, other = (
        wb.attribute(model, clip, "red", "rise", passes=10, batch=batch) for batch in (1, 7)
    )
    np.testing.assert_allclose(one.volume, other.volume, rtol=1e-5)
    seeded = wb.attribute(model, clip, "red", "rise", passes=10, seed=1)
    assert not np.allclose(one.volume, seeded.volume)


def test_occlusion_is_the_fall_of_the_probability(model: wb.VideoModel) -> None:
    clip, red, _ = red_and_blue()
    tube = wb.attribute(model, clip, "red", "occlusion")
    assert tube.volume[red].mean() > 0
    assert abs(tube.volume[0:2, 26:, 26:]).max() < 0.1 * tube.volume.max()


def test_mistakes_are_named(model: wb.VideoModel) -> None:
    clip, _, _ = red_and_blue()
    with pytest.raises(KeyError, match="no method 'lime'; there are tube, grad-cam"):
        wb.attribute(model, clip, method="lime")
    with pytest.raises(KeyError, match="no class 'green'"):
        wb.attribute(model, clip, "green", "rise", passes=1)
    with pytest.raises(IndexError, match="class id 2"):
        wb.attribute(model, clip, 2, "occlusion")
    with pytest.raises(ValueError, match="occlusion does not take passes=3"):
        wb.attribute(model, clip, method="occlusion", passes=3)
