"""Other methods of attribution, on a network whose evidence is known: class "red" sees red pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.saliency.attention_maps import LayerAttention, legrad, rollout
from workbench.saliency.attribution import METHODS

SIZE = (8, 32, 32)
OF_ATTENTION = ("rollout", "legrad")
OF_ANY_NETWORK = [method for method in METHODS if method not in OF_ATTENTION]
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


@pytest.mark.parametrize("method", OF_ANY_NETWORK)
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


@pytest.mark.parametrize("method", OF_ANY_NETWORK)
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


# Attention


class RedAttention(nn.Module):
    """Two layers of attention by hand, one head, on a class token and the 4×4×4 cells of a clip.

    Scores and values are linear in the tokens, so that rollout and LeGrad can be worked out in the
    test from the weights and their gradients.
    """

    def __init__(self, written_out: bool = True, pool: str = "class token") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.patches = nn.Conv3d(3, 6, (2, 8, 8), stride=(2, 8, 8))
        self.extra = nn.Parameter(torch.randn(1, 1, 6))
        self.embedded = nn.Identity()
        self.keys = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(2))
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(2))
        self.head = nn.Linear(6, 2)
        self.written_out, self.pool = written_out, pool
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.embedded(torch.cat([self.extra.expand(len(x), -1, -1), tokens], 1))
        self.seen = []
        for key, block in zip(self.keys, self.blocks):
            query, keys, values = tokens[:, None], key(tokens)[:, None], tokens[:, None]
            if self.written_out:
                weights = (query @ keys.transpose(-2, -1) / 6**0.5).softmax(-1)
                self.seen.append(weights)
                mixed = weights @ values
            else:
                mixed = nn.functional.scaled_dot_product_attention(query, keys, values)
            tokens = block(tokens + mixed[:, 0])
        return self.head(tokens[:, 0] if self.pool == "class token" else tokens.mean(1))


def by_hand(network: RedAttention, x: torch.Tensor, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rollout and LeGrad of every token, in plain loops over the formulas."""
    logit = network(x)[0, target]
    gradients = torch.autograd.grad(logit, network.seen)
    pairs = [(a[0, 0].detach().numpy(), g[0, 0].numpy()) for a, g in zip(network.seen, gradients)]
    tokens = len(pairs[0][0])
    relevance = np.eye(tokens)
    scores = np.zeros(tokens)
    for weights, gradient in pairs:
        positive = np.maximum(gradient * weights, 0)
        relevance = relevance + positive @ relevance
        for key in range(tokens):
            scores[key] += np.maximum(gradient[:, key], 0).mean() / len(pairs)
    relevance -= np.eye(tokens)
    read = relevance[0] if network.pool == "class token" else relevance.mean(0)
    return read, scores


@pytest.mark.parametrize("written_out", [True, False], ids=["softmax", "one operation"])
@pytest.mark.parametrize("pool", ["class token", "mean"])
def test_rollout_and_legrad_are_their_formulas(written_out: bool, pool: str) -> None:
    network = RedAttention(written_out, pool).eval()
    spec = wb.InputSpec(frames=SIZE[0])
    model = wb.wrap_model(network, spec, ["red", "blue"])
    clip, _, _ = red_and_blue()
    _, x = model.prepare(clip)
    known = RedAttention(True, pool).eval()
    known.load_state_dict(network.state_dict())
    for target in (0, 1):
        expected = by_hand(known, x, target)
        for method, values in zip(OF_ATTENTION, expected):
            tube = wb.attribute(model, clip, target, method)
            assert tube.volume.shape == SIZE
            np.testing.assert_allclose(tube.map, values[1:].reshape(4, 4, 4), rtol=1e-4, atol=1e-7)
            assert np.ptp(tube.map) > 0


def test_rollout_on_numbers_worked_out_on_paper() -> None:
    # One layer, one head, two tokens; the head reads the first: only its row has a gradient.
    weights = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
    gradient = torch.tensor([[[[-1.0, 2.0], [0.0, 0.0]]]])
    layer = LayerAttention(weights, gradient)
    torch.testing.assert_close(rollout([layer]), torch.tensor([[0.0, 1.5]]))
    torch.testing.assert_close(legrad([layer]), torch.tensor([[0.0, 1.0]]))
    # A second layer whose class token looks at both tokens with gradient 1: 0.5 of each row.
    second = LayerAttention(
        torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]]), torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    )
    # R = [[1, 1.5], [0, 1]], then row 0 gains 0.5·[1, 1.5] + 0.5·[0, 1]; less the identity.
    torch.testing.assert_close(rollout([layer, second]), torch.tensor([[0.5, 2.75]]))
    # Attentive pooling reads both tokens: 0.5·[1, 1.5] + 0.25·[0, 1].
    pooling = LayerAttention(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.5]]]]))
    torch.testing.assert_close(rollout([layer, pooling]), torch.tensor([[0.5, 1.0]]))


@pytest.mark.parametrize("method", OF_ATTENTION)
def test_networks_without_attention_are_refused(model: wb.VideoModel, method: str) -> None:
    clip, _, _ = red_and_blue()
    with pytest.raises(ValueError, match=r"attention among all .* got none"):
        wb.attribute(model, clip, "red", method)
