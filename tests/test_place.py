"""The proof of place: time, height and width lie as the maps say, or the explanation says otherwise."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import clip_for
from placed_networks import HAND, PLACED, VIDEO, made, wrong_layouts
from torch import nn

import workbench as wb
from workbench.models import video_model
from workbench.models.hooks import Call
from workbench.saliency.layouts import Layout, fits
from workbench.saliency.place import (
    PROVED,
    Response,
    disturbed,
    place_score,
    proved_score,
    respond,
)
from workbench.saliency.relevance import HeldLinear

SPEC = wb.InputSpec(frames=16, resize=(32, 48))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def x():
    return torch.rand(1, 3, 16, 32, 48)


class Stem(nn.Module):
    """Maps (N, 16, 8, 4, 6), and a linear head for whoever pools them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8))
        self.fc = nn.Linear(16, 5)


def explained(network, x, **options):
    return wb.explain(wb.wrap_model(network.eval(), SPEC), x, **options)


# The score


def responses(network, x, layer):
    """A layer's output, and that for each disturbed half."""
    model = wb.wrap_model(network.eval(), SPEC)
    call = Call(layer)
    halves = [[], [], []]
    for axis, _, changed in disturbed(x):
        halves[axis].append(model.run(changed, [call]).taken[call][0])
    plain = model.run(x, [call]).taken[call][0]
    return Response(plain, tuple((first, last) for first, last in halves))


class Pooled(Stem):
    def forward(self, x):
        return self.fc(self.stem(x).mean((2, 3, 4)))


def test_the_right_order_scores_one_and_every_other_order_about_chance(x):
    response = responses(Pooled(), x, "stem")
    grid = {"t": 8, "h": 4, "w": 6}
    for order in itertools.permutations("thw"):
        # The output has its axes in the order t, h, w; name them in another one.
        sizes = dict(zip(order, grid.values()))
        layout = Layout(f"n c {' '.join(order)}", (sizes["t"], sizes["h"], sizes["w"]))
        score = place_score(response, layout)
        assert score == 1 if order == ("t", "h", "w") else score < PROVED


def test_a_map_that_does_not_change_proves_nothing(x):
    response = responses(Pooled(), x, "stem")
    still = replace(response, halves=tuple((response.plain, response.plain) for _ in range(3)))
    assert np.isnan(place_score(still, Layout("n c t h w", (8, 4, 6))))


def test_an_axis_that_runs_backwards_scores_zero(x):
    response = responses(Pooled(), x, "stem")
    halves = tuple((first.flip(2), last.flip(2)) for first, last in response.halves)
    backwards = Response(response.plain.flip(2), halves)
    assert place_score(backwards, Layout("n c t h w", (8, 4, 6))) == 0


# Silent failures that are found now


class FramesThenTime(nn.Module):
    """S1: a CNN for each frame, then a transformer over time."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Conv2d(3, 32, 8, 8)
        self.enc = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        features = self.cnn(x.transpose(1, 2).flatten(0, 1)).relu().mean((2, 3))
        return self.fc(self.enc(features.unflatten(0, (len(x), -1))).mean(1))


def test_frames_in_a_row_are_not_laid_out_as_a_picture(x):
    ex = explained(FramesThenTime(), x[..., :32])
    assert (ex.layer, tuple(ex.activations.shape)) == ("cnn", (32, 16, 4, 4))
    assert not ex.exact
    assert ex.place >= PROVED
    assert ex.how == "gradient weights, place proved"


class Tokens(Stem):
    """Three transformer blocks on tokens, with a class token before them."""

    def __init__(self, lead=1):
        super().__init__()
        self.lead = lead
        self.extra = nn.Parameter(torch.randn(1, lead, 16))
        self.place = nn.Parameter(0.02 * torch.randn(1, 192, 16))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True, norm_first=True)
                for _ in range(3)
            )
        )
        self.norm = nn.LayerNorm(16)

    def tokens(self, x):
        return self.stem(x).flatten(2).transpose(1, 2) + self.place


class ClassToken(Tokens):
    """S2: the head reads the class token alone."""

    def forward(self, x):
        tokens = torch.cat([self.extra, self.tokens(x)], 1)
        return self.fc(self.norm(self.blocks(tokens))[:, 0])


def test_a_layer_with_a_gradient_at_one_voxel_is_passed_over(x):
    ex = explained(ClassToken(), x, weights="gradient")
    assert ex.layer == "blocks.2.norm1"
    assert tuple(ex.activations.shape) == (16, 8, 4, 6)
    weights = explained(ClassToken(), x, weights="layer").class_weights(1)
    assert float((weights != 0).any(0).float().mean()) > 0.5
    assert ex.place >= PROVED


def test_the_relevance_of_tokens_is_what_explains_a_class_token(x):
    """S9: the last layer with a map says little about place if attention mixes all tokens."""
    network = ClassToken()
    ex = explained(network, x)
    assert (ex.layer, ex.how) == ("stem", "relevance weights, place proved")
    with torch.no_grad():
        torch.testing.assert_close(ex.activations, network.stem(x)[0])
    last = explained(network, x, weights="gradient")
    assert 'attention mixes its voxels: weights="relevance" points better' in last.how
    asked = explained(network, x, weights="relevance")
    np.testing.assert_allclose(ex.tube(2).map, asked.tube(2).map, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "around", "mixed"),
    [
        ("blocks.1.norm2", True, True),  # the residual connection goes around it
        ("blocks.1", False, True),
        ("blocks.0.norm1", True, False),  # before any attention
        ("stem", False, False),
    ],
)
def test_relevance_stays_at_the_layer_that_was_named(x, layer, around, mixed):
    network = ClassToken().eval()
    ex = wb.explain(wb.wrap_model(network, SPEC, layer=layer), x, weights="relevance")
    assert ex.layer == layer
    assert ex.place >= PROVED
    assert ("part of the logit goes around this layer" in ex.how) is around
    assert ("attention mixes its voxels" in ex.how) is mixed
    # Gradient × token of that very layer, by hand, with LayerNorm and attention held.
    taken = []
    handle = dict(network.named_modules())[layer].register_forward_hook(
        lambda _module, _inputs, output: taken.append(output) or output.retain_grad()
    )
    with HeldLinear():
        network(x)[0, 3].backward()
    handle.remove()
    product = (taken[0] * taken[0].grad)[0].detach()
    tokens = product if layer == "stem" else product[1:].T.unflatten(1, (8, 4, 6))
    np.testing.assert_allclose(ex.tube(3).map, 192 * tokens.sum(0).numpy(), rtol=1e-3, atol=1e-4)


class Repeated(Stem):
    """S3: the same layers see stretches of time, or the clip and its mirror image."""

    def __init__(self, views):
        super().__init__()
        self.net = nn.Sequential(self.stem, nn.ReLU())
        self.views = views

    def forward(self, x):
        logits = [self.fc(self.net(view).mean((2, 3, 4))) for view in self.views(x)]
        return torch.stack(logits).mean(0)


def test_stretches_of_time_are_joined(x):
    network = Repeated(lambda x: x.chunk(4, 2))
    ex = explained(network, x)
    assert ex.exact
    assert ex.place >= PROVED
    with torch.no_grad():
        whole = network.net(x)[0]  # a kernel of two frames sees no seam
    torch.testing.assert_close(ex.activations, whole)
    by_gradient = explained(network, x, weights="gradient")
    for number in range(5):
        a, b = ex.tube(number).map, by_gradient.tube(number).map
        np.testing.assert_allclose(a, b, atol=1e-4 * np.ptp(a))


def test_mirror_images_are_not_joined_and_one_call_is_named(x):
    network = Repeated(lambda x: [x, x.flip(-1)])
    with pytest.warns(UserWarning, match="'net' is called 2 times"):
        ex = explained(network, x)
    assert not ex.exact
    assert ex.place >= PROVED
    with torch.no_grad():
        torch.testing.assert_close(ex.activations, network.net(x)[0])  # not that of the mirror


class Sigmoids(Stem):
    """S4: independent classes."""

    def forward(self, x):
        return torch.sigmoid(4 * self.fc(self.stem(x).relu().mean((2, 3, 4))))


def test_sigmoids_keep_their_probabilities_and_have_a_tube(x):
    class Layer(Sigmoids):
        def __init__(self):
            super().__init__()
            self.last = nn.Sigmoid()

        def forward(self, x):
            return self.last(self.fc(self.stem(x).relu().mean((2, 3, 4))))

    network = Layer()
    nn.init.normal_(network.fc.bias, 0, 3)
    ex = explained(network, x)
    assert ex.exact
    with torch.no_grad():
        torch.testing.assert_close(ex.probabilities, network(x)[0])
    assert np.ptp(ex.tube(int(ex.probabilities.argmax())).map) > 0


class OneLogit(Stem):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 1)

    def forward(self, x):
        return self.fc(self.stem(x).relu().mean((2, 3, 4)))


def test_one_logit_is_that_of_a_sigmoid(x):
    network = OneLogit()
    ex = explained(network, x)
    assert (ex.exact, len(ex.classes)) == (True, 1)
    with torch.no_grad():
        torch.testing.assert_close(ex.probabilities, network(x)[0].sigmoid())


class AttentionPooling(Stem):
    """S5: tokens are averaged by a softmax over scores, and the head is not linear."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(16, 1)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        mean = (self.score(tokens).softmax(1) * tokens).sum(1)
        return self.fc(torch.tanh(mean))


def test_attention_scores_are_not_explained(x):
    ex = explained(AttentionPooling(), x)
    assert (ex.layer, len(ex.activations)) == ("stem", 16)


class TextEmbeddings(Stem):
    """S6: logits are products of the clip's features with embeddings of 24 class texts."""

    def __init__(self):
        super().__init__()
        self.text = nn.Embedding(24, 16)
        self.mix = nn.LayerNorm(16)

    def forward(self, x):
        features = torch.tanh(self.stem(x).mean((2, 3, 4)))
        texts = self.mix(self.text(torch.arange(24))[None])
        return (texts * features[:, None]).sum(-1)


def test_class_texts_are_not_taken_for_the_picture(x):
    ex = explained(TextEmbeddings(), x)
    assert (ex.layer, tuple(ex.activations.shape)) == ("stem", (16, 8, 4, 6))


class SpaceFirst(Tokens):
    """S7: tokens with space before time, as TimeSformer lists them."""

    def forward(self, x):
        return self.fc(self.norm(self.stem(x).permute(0, 3, 4, 2, 1).flatten(1, 3)).mean(1))


class TailTokens(Tokens):
    """S7: the class tokens at the end."""

    def forward(self, x):
        tokens = self.norm(torch.cat([self.tokens(x), self.extra], 1))
        return self.fc(torch.tanh(tokens.mean(1)))


class TimeLast(Stem):
    """S7: (N, C, H, W, T) inside."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 16, (4, 8, 8), (4, 8, 8))
        self.act = nn.ReLU()

    def forward(self, x):
        return self.fc(self.act(self.stem(x).permute(0, 1, 3, 4, 2)).mean((2, 3, 4)))


@pytest.mark.parametrize("build", [SpaceFirst, TailTokens, TimeLast])
def test_orders_that_the_shape_does_not_reveal_are_found(build):
    x = torch.rand(1, 3, 16, 32, 32)
    spec = wb.InputSpec(frames=16, resize=(32, 32))
    network = build()
    if build is not TimeLast:
        network.stem = nn.Conv3d(3, 16, (4, 8, 8), (4, 8, 8))
        network.place = nn.Parameter(torch.zeros(1, 64, 16))
    ex = wb.explain(wb.wrap_model(network.eval(), spec), x)
    assert ex.place >= PROVED
    with torch.no_grad():
        maps = network.stem(x)
    # Where a voxel of the stem is disturbed, the explained map changes at that voxel.
    for t, h, w in ((0, 1, 3), (2, 3, 0)):
        changed = x.clone()
        changed[:, :, 4 * t : 4 * t + 4, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8] = 5
        other = wb.explain(wb.wrap_model(network, spec, layer=ex.layer), changed)
        moved = (other.activations - ex.activations).abs().sum(0)
        assert moved.shape == maps.shape[2:]
        assert np.unravel_index(int(moved.argmax()), moved.shape) == (t, h, w)


def test_half_precision_does_not_accept_a_wrong_layer(x):
    """S8: a layer whose means are 2 % off is not the one before the head."""

    class TwoPercent(Stem):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.fc(1.02 * self.act(self.stem(x)).mean((2, 3, 4)))

    network = TwoPercent().bfloat16()
    nn.init.zeros_(network.fc.bias)
    assert not explained(network, x).exact


class TwoStreams(nn.Module):
    """S10: RGB and frame differences; their logits, or their probabilities, are joined."""

    def __init__(self, join):
        super().__init__()
        self.rgb = nn.Sequential(nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), nn.ReLU())
        self.diff = nn.Sequential(nn.Conv3d(3, 12, (3, 8, 8), (3, 8, 8)), nn.ReLU())
        self.fc, self.fc_diff = nn.Linear(16, 5), nn.Linear(12, 5)
        self.join = join

    def streams(self, x):
        return self.rgb(x), self.diff(x[:, :, 1:] - x[:, :, :-1])

    def forward(self, x):
        rgb, diff = (maps.mean((2, 3, 4)) for maps in self.streams(x))
        return self.join(self.fc(rgb), self.fc_diff(diff))


@pytest.mark.parametrize("share", [1, 0.5], ids=["added", "averaged"])
def test_two_streams_are_explained_together_and_add_up(x, share):
    network = TwoStreams(lambda one, other: share * (one + other))
    ex = explained(network, x)
    assert ex.exact
    assert ex.residual < 1e-5
    assert ex.place >= PROVED
    assert ex.pathways == ("rgb", "diff")
    with torch.no_grad():
        for maps, own in zip(ex.maps, network.streams(x)):
            torch.testing.assert_close(maps, own[0])
    for number in range(5):
        own = [ex.tube(number, pathway=name).map.mean() for name in ex.pathways]
        total = sum(own) + float(ex.bias[number])
        assert total == pytest.approx(float(ex.logits[number]), abs=1e-5)
        # 5 voxels in time and 8 have no common grid, and yet the sum keeps its mean.
        assert ex.tube(number).map.shape == (8, 4, 6)
        assert ex.tube(number).map.mean() == pytest.approx(sum(own), abs=1e-5)
        assert min(ex.tube(number, pathway=name).map.std() for name in ex.pathways) > 0


def test_two_streams_that_do_not_add_up_are_both_explained_by_gradients(x):
    network = TwoStreams(lambda one, other: (one.softmax(1) + other.softmax(1)) / 2)
    ex = explained(network, x)
    assert (ex.exact, ex.pathways) == (False, ("rgb", "diff"))
    assert ex.place >= PROVED
    # What a class gains when a feature of either stream is raised.
    maps = [each.detach().requires_grad_() for each in network.streams(x)]
    rows = [maps[0].mean((2, 3, 4)), maps[1].mean((2, 3, 4))]
    joined = network.join(network.fc(rows[0]), network.fc_diff(rows[1]))
    gradients = torch.autograd.grad(joined.log()[0, 3], maps)
    by_hand = torch.cat([each.sum((0, 2, 3, 4)) for each in gradients])
    torch.testing.assert_close(ex.class_weights(3), by_hand, rtol=1e-4, atol=1e-6)
    alone = wb.explain(wb.wrap_model(network.eval(), SPEC, layer="diff"), x)
    assert alone.pathways == ("diff",)


def test_two_streams_through_the_same_layers_are_both_explained(x):
    def views(x):
        still = x[:, :, :1].expand_as(x)
        return [x, x - still]

    network = Repeated(views)
    ex = explained(network, x)
    assert (ex.exact, ex.layer) == (True, "net + net")
    assert ex.place >= PROVED
    with torch.no_grad():
        for maps, view in zip(ex.maps, views(x)):
            torch.testing.assert_close(maps, network.net(view)[0])


def test_positions_and_branches_of_a_block_are_no_streams(x):
    class Branches(Stem):
        """Positions beside the clip, and two branches of one stem."""

        def __init__(self):
            super().__init__()
            self.positions = nn.Embedding(192, 16)
            self.left, self.right = nn.Conv3d(16, 16, 1), nn.Conv3d(16, 16, 1)

        def forward(self, x):
            positions = self.positions(torch.arange(192)[None]).mT.unflatten(2, (8, 4, 6))
            maps = self.stem(x) + positions
            both = torch.tanh(self.left(maps)) + torch.tanh(self.right(maps))
            return self.fc(torch.tanh(both.mean((2, 3, 4))))

    assert len(explained(Branches(), x).maps) == 1


# The cost, and what stays as it was


def test_place_is_proved_once_and_can_be_left_out(x, monkeypatch):
    # Measured on the second clip, by two to four passes.
    monkeypatch.setattr(video_model, "faster_channels_last", lambda *_: False)
    network = Pooled().eval()
    model = wb.wrap_model(network, SPEC)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    without = wb.explain(model, x, place=False)
    few = len(calls)
    assert without.place is None
    assert without.how.endswith("place unknown")
    assert wb.explain(model, x).place == 1
    assert len(calls) - few <= few + 8  # six halves, the clip itself, and a search
    count = len(calls)
    assert wb.explain(model, x).place == 1
    assert len(calls) == count + 1


FAMILIES = {
    **{name: HAND[name] for name in ("conv", "tokens", "tokens, class token", "volume, time last")},
    **VIDEO,
    **{name: PLACED[name] for name in ("swin3d", "mvit_v2", "x3d", "resnet18", "hf/SegFormer")},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_first_explanation_costs_four_passes_besides_the_proof_of_place(name):
    placed = FAMILIES[name]
    pytest.importorskip("pytorchvideo" if name == "x3d" else "transformers")
    clip = clip_for(placed.input, seed=1)
    counts = []
    for place in (False, True):
        module = made(placed)
        calls = []
        module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        wb.explain(wb.wrap_model(module, placed.input), clip, place=place)
        counts.append(len(calls))
    without, proved = counts
    assert without <= 4
    # Seven for each layer, or four layers, whose place is tried, and six if patches are tried too.
    # One of them may take the place of the pass that sees whether the answer is repeated.
    assert proved - without in (6, 7, 12, 13, 14)


def test_a_layer_norm_before_the_head_is_held_fixed(x):
    class MeanThenNorm(Tokens):
        def forward(self, x):
            return self.fc(self.norm(self.blocks(self.tokens(x)).mean(1)))

    network = MeanThenNorm()
    nn.init.normal_(network.norm.weight, 1, 0.5)
    nn.init.normal_(network.norm.bias)
    ex = explained(network, x)
    assert ex.exact
    assert ex.residual < 1e-5
    assert "LayerNorm held fixed" in ex.how
    assert "attention mixes" in ex.how
    assert "attention mixes" not in explained(Pooled(), x).how
    for number in range(5):
        rebuilt = ex.tube(number).map.mean() + float(ex.bias[number])
        assert rebuilt == pytest.approx(float(ex.logits[number]), abs=1e-4)
    # The weights are the gradient by the mean with σ held, checked by hand.
    mean = ex.activations.mean((1, 2, 3))
    sigma = (mean.var(unbiased=False) + network.norm.eps).sqrt()
    free = mean.clone().requires_grad_()
    held = (free - free.mean()) / sigma * network.norm.weight + network.norm.bias
    (gradient,) = torch.autograd.grad(network.fc(held)[2], free)
    torch.testing.assert_close(ex.class_weights(2), gradient, rtol=1e-4, atol=1e-5)


class Counting(Stem):
    """S11: writes a buffer in its forward pass, and drops features in eval mode too."""

    def __init__(self, share=0.0):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(16))
        self.share = share

    def forward(self, x):
        self.count += 1
        features = self.stem(x).relu().mean((2, 3, 4))
        self.mean = 0.9 * self.mean + 0.1 * features.detach()[0]
        return self.fc(nn.functional.dropout(features, self.share))


def test_buffers_that_a_network_writes_are_given_back(x):
    network = Counting()
    own = network.mean
    explained(network, x).tube(1)
    assert network.count == 0
    assert network.mean is own
    assert not network.mean.any()


def test_dropout_in_eval_mode_is_mentioned(x):
    with pytest.warns(UserWarning, match="another answer for the same clip"):
        explained(Counting(0.5), x)


class Conserving(Tokens):
    """Blocks without biases, then a mean, a norm and a head without a bias."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Identity()
        self.fc = nn.Linear(16, 5, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        for parameter in self.blocks.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4)
        for block in self.blocks:
            block.activation = nn.GELU()
            block.activation_relu_or_gelu = 0

    def forward(self, x):
        return self.fc(self.norm(self.blocks(self.embed(self.tokens(x))).mean(1)))


def test_relevance_adds_up_to_the_logit(x):
    network = Conserving()
    ex = explained(network, x, weights="relevance")
    assert ex.layer == "embed"
    assert tuple(ex.activations.shape) == (16, 8, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(ex.logits, network(x)[0], rtol=1e-3, atol=1e-4)
    for number in range(5):
        assert ex.weighting.conserved(number) == pytest.approx(1, abs=1e-3)
        mean = float(ex.tube(number).map.mean())
        assert mean == pytest.approx(float(ex.logits[number]), abs=1e-3)
    plain = explained(network, x, weights="gradient")
    assert plain.layer != "embed"


class QuickGELU(nn.Module):
    """As in CLIP, written out."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


@pytest.mark.parametrize(
    "gate", [QuickGELU(), nn.GELU("tanh"), nn.SiLU(inplace=True), nn.Mish(), nn.Hardswish()]
)
def test_every_gate_is_held(x, gate):
    network = Conserving()
    for block in network.blocks:
        block.activation = gate
    ex = explained(network, x, weights="relevance")
    assert ex.layer == "embed"
    assert ex.weighting.conserved(2) == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(ex.logits, network(x)[0], rtol=1e-3, atol=1e-4)
    assert not any(module._forward_hooks for module in network.modules())


CLASSES = nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    "head",
    [
        lambda tokens: 9 * nn.functional.normalize(tokens, dim=-1) @ CLASSES.T,
        lambda tokens: 9 * (tokens / tokens.norm(dim=-1, keepdim=True)) @ CLASSES.T,
        lambda tokens: 9 * tokens / torch.linalg.vector_norm(tokens, dim=-1)[:, None] @ CLASSES.T,
        lambda tokens: 9 * nn.functional.cosine_similarity(tokens[:, None], CLASSES[None], dim=2),
        lambda tokens: nn.functional.rms_norm(tokens, [16]) @ CLASSES.T,
    ],
    ids=["normalize", "norm", "vector_norm", "cosine_similarity", "rms_norm"],
)
def test_relevance_of_a_cosine_adds_up_to_the_logit(x, head):
    """The length of a vector that is normalised is held, as X-CLIP's head needs."""

    class Cosine(Conserving):
        def forward(self, x):
            return head(self.blocks(self.embed(self.tokens(x))).mean(1))

    ex = explained(Cosine(), x, weights="relevance")
    for number in range(5):
        assert ex.weighting.conserved(number) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "first"), [("swin3d", "patch_embed.proj"), ("mvit_v2", "conv_proj")]
)
def test_relevance_begins_where_windows_of_attention_have_mixed_nothing_yet(name, first):
    """Their last layers are volumes, not sequences, and attention has mixed them all the same."""
    placed = PLACED[name]
    module, clip = made(placed), clip_for(placed.input, seed=1)
    model = wb.wrap_model(module, placed.input)
    assert (
        'attention mixes its voxels: weights="relevance" points better'
        in wb.explain(model, clip).how
    )
    ex = wb.explain(model, clip, weights="relevance")
    assert ex.layer == first
    assert ex.how == "relevance weights, place proved"


def test_a_softmax_over_branches_or_classes_is_no_attention(x):
    class Branches(Pooled):
        def forward(self, x):
            shares = torch.stack([x, -x], 1).mean((-1, -2), keepdim=True).softmax(1)
            return super().forward((x[:, None] * shares).sum(1)).softmax(-1)

    assert "attention" not in explained(Branches(), x).how


def test_relevance_of_an_exact_network_is_its_tube(x):
    network = Pooled()
    exact, relevant = explained(network, x), explained(network, x, weights="relevance")
    for number in range(5):
        a, b = exact.tube(number).map, relevant.tube(number).map
        np.testing.assert_allclose(a, b, atol=1e-4 * np.ptp(a))


def test_frames_in_a_row_during_a_movement_are_not_proved_to_be_pictures():
    """The share of the upper half falls from frame to frame, as when something drops."""
    frames = torch.arange(16.0)
    upper, left, early = 16 - frames, 16 - frames, 16 * (frames < 8) + 1
    plain = torch.zeros(1, 16, 1)
    halves = tuple(
        (first.view(1, 16, 1), (17 - first).view(1, 16, 1)) for first in (early, upper, left)
    )
    response = Response(plain, halves)
    assert place_score(response, Layout("n (t h w) c", (4, 2, 2))) == 1
    assert proved_score(response, Layout("n (t h w) c", (4, 2, 2))) is None


def test_tokens_shifted_by_one_are_not_proved_on_a_wide_grid(x):
    """A class token in front of 2×16×24 tokens: read without it, a shift by one scores over .85."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv3d(3, 16, (8, 2, 2), (8, 2, 2))
            self.norm = nn.LayerNorm(16)

        def forward(self, x):
            tokens = self.stem(x).flatten(2).transpose(1, 2)
            return self.norm(torch.cat([torch.zeros_like(tokens[:, :1]), tokens], 1))[:, 0, :5]

    response = responses(Wide(), x, "norm")
    right = Layout("n (t h w) c", (2, 16, 24), lead=1)
    shifted = Layout("n (t h w) c", (2, 16, 24), tail=1)
    assert place_score(response, shifted) > PROVED
    assert proved_score(response, shifted) is None
    assert proved_score(response, right) == 1


def test_a_grid_of_a_few_voxels_proves_nothing(x):
    share = torch.tensor([0.9, 0.8, 0.3, 0.2]).view(1, 4, 1)  # upper row, then lower row
    left = torch.tensor([0.9, 0.2, 0.8, 0.3]).view(1, 4, 1)
    halves = ((share, share), (share, 1 - share), (left, 1 - left))
    response = Response(torch.zeros(1, 4, 1), halves)
    assert place_score(response, Layout("n (t h w) c", (1, 2, 2))) == 1
    assert proved_score(response, Layout("n (t h w) c", (1, 2, 2))) is None


@pytest.mark.parametrize("name", [*HAND, *VIDEO])
def test_no_wrong_layout_is_called_proved(name):
    """A part of `python -m benchmarks place`, which prints all networks."""
    placed = {**HAND, **VIDEO}[name]
    module = made(placed)
    model = wb.wrap_model(module, placed.input)
    clip = clip_for(placed.input, seed=1)

    def take(x):
        return {placed.site: model.run(x, [placed.site]).taken[placed.site][0]}

    response = respond(take, clip)[placed.site]
    wrong = wrong_layouts(placed.right, tuple(response.plain.shape))
    # The search considers no other grids than those of the clip's aspect.
    for layout in (each for each in wrong if fits(each.grid, tuple(clip.shape[2:]))):
        assert proved_score(response, layout) is None
