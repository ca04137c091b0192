"""The completeness identity, the layer search, and that the user's network is left alone."""

from __future__ import annotations

import gc
import shutil
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.models.networks.mfnet import MFNet3d
from workbench.saliency import layer_search
from workbench.saliency.explaining import explain_batch

SPEC = wb.InputSpec(frames=8, resize=(32, 32))


def randomised(module, seed=0):
    """Give batch norms statistics that differ by channel, as trained ones do."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(2, 4)
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias, 0, 0.3)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0, 0.3)
            nn.init.normal_(part.bias, 0, 1)
    return module


def mfnet(classes=6):
    torch.manual_seed(1)
    return randomised(
        MFNet3d(classes, widths=(8, 16, 16, 16, 32), units=(1, 1, 1, 1), groups=4, last_stride=1)
    )


@pytest.fixture
def clip():
    rng = np.random.default_rng(0)
    return wb.Clip(rng.integers(0, 256, (8, 48, 64, 3), dtype=np.uint8), 25.0)


class ChannelsLast(nn.Module):
    """Maps (N, T, H, W, C), a norm over C, mean and a linear head: the shape of video Swin."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 12, 4, 4)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.norm(self.stem(x).permute(0, 2, 3, 4, 1)).mean((1, 2, 3)))


class FlattenHead(nn.Module):
    """No pooled linear head: maps are flattened into a multi-layer perceptron."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 8, 8)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 10), nn.Tanh(), nn.Linear(10, 4))

    def forward(self, x):
        return self.head(self.act(self.stem(x)))


def test_mean_of_the_map_plus_bias_is_every_logit(clip):
    model = wb.wrap_model(mfnet(), SPEC)
    ex = wb.explain(model, clip)
    assert ex.exact
    assert ex.layer == "tail"
    assert ex.residual < 1e-5
    assert ex.logits.abs().max() > 1  # an identity between zeros would prove nothing
    for number in range(6):
        tube = ex.tube(number)
        assert tube.map.mean() + float(ex.bias[number]) == pytest.approx(
            float(ex.logits[number]), abs=1e-4
        )


def test_contributions_of_all_channels_add_up_to_the_logit(clip):
    ex = wb.explain(wb.wrap_model(mfnet(), SPEC), clip)
    table = ex.channels(2, top=None)
    assert table["contribution"].sum() + float(ex.bias[2]) == pytest.approx(
        float(ex.logits[2]), abs=1e-4
    )
    assert table["contribution"].is_monotonic_decreasing
    assert list(ex.channels(2, top=3).columns) == [
        "channel",
        "weight",
        "mean activation",
        "contribution",
    ]


def test_activations_are_those_the_head_saw_despite_in_place_relu(clip):
    module = mfnet()
    exact = wb.explain(wb.wrap_model(module, SPEC), clip)
    assert float(exact.activations.min()) >= 0
    # The layer before the in-place ReLU gives signed maps: only what is positive of them gives the logits.
    before = wb.explain(wb.wrap_model(module, SPEC, layer="tail.bn"), clip)
    assert before.exact
    torch.testing.assert_close(before.activations, exact.activations)
    signed = wb.explain(wb.wrap_model(module, SPEC, layer="tail.bn"), clip, weights="gradient")
    torch.testing.assert_close(signed.activations.relu(), exact.activations)
    assert float(signed.activations.min()) < 0


def test_channels_last_maps_come_back_with_the_right_axes(clip):
    torch.manual_seed(0)
    module = ChannelsLast().eval()
    model = wb.wrap_model(module, SPEC, classes=list("abcde"))
    ex = wb.explain(model, clip)
    assert (ex.exact, ex.layer) == (True, "norm")
    _, x = model.prepare(clip)
    with torch.no_grad():
        maps = module.norm(module.stem(x).permute(0, 2, 3, 4, 1))[0].permute(3, 0, 1, 2)
    torch.testing.assert_close(ex.activations, maps)


def test_other_heads_get_gradient_weights_and_say_so(clip):
    torch.manual_seed(0)
    module = FlattenHead()
    model = wb.wrap_model(module, SPEC)
    ex = wb.explain(model, clip)
    assert (ex.exact, ex.layer) == (False, "act")
    assert ex.weights is None
    _, x = model.prepare(clip)
    maps = module.act(module.stem(x)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(module.head(maps)[0, 3], maps)
    torch.testing.assert_close(ex.class_weights(3), gradient[0].sum((1, 2, 3)))
    torch.testing.assert_close(ex.logits, module.head(maps)[0].detach())
    ex.tube(3)
    for number in range(4):
        ex.class_weights(number)
    assert ex.weights.shape == (4, 6)


def test_gradient_weights_of_a_pooled_linear_head_are_its_weights(clip):
    module = mfnet()
    exact = wb.explain(wb.wrap_model(module, SPEC), clip)
    # On the layer after which only pooling and the head come, Grad-CAM is CAM.
    by_gradient = wb.explain(wb.wrap_model(module, SPEC), clip, weights="gradient")
    assert not by_gradient.exact
    for number in range(6):
        torch.testing.assert_close(
            by_gradient.class_weights(number), exact.class_weights(number), rtol=1e-4, atol=1e-5
        )


def test_tubes_need_no_second_forward_pass(clip):
    module = mfnet()
    model = wb.wrap_model(module, SPEC)
    for _ in range(2):  # the first searches for the layer, the second measures the memory format
        wb.explain(model, clip)
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    ex = wb.explain(model, clip)
    for number in range(6):
        ex.tube(number, tau=0.1)
        ex.feature_tube(number)
    assert len(calls) == 1


def test_tube_has_the_clip_s_size_and_times(clip):
    ex = wb.explain(wb.wrap_model(mfnet(), SPEC, classes=list("abcdef")), clip)
    tube = ex.tube("c", tau=0.0)
    assert tube.volume.shape == (8, 32, 32)
    assert tube.volume.dtype == np.float32
    assert (tube.target, tube.label, tube.tau) == (2, "c", 0.0)
    assert tube.kept == int((ex.weights[2] >= 0).sum())
    np.testing.assert_array_equal(tube.times, clip.times)
    assert ex.tube().target == int(ex.logits.argmax())


def test_feature_tube_is_one_map(clip):
    ex = wb.explain(wb.wrap_model(mfnet(), SPEC), clip)
    tube = ex.feature_tube(5)
    np.testing.assert_array_equal(tube.map, ex.activations[5].numpy())
    with pytest.raises(IndexError, match="32 channels"):
        ex.feature_tube(32)


def test_a_ready_tensor_is_taken_as_it_is(clip):
    model = wb.wrap_model(mfnet(), SPEC)
    seen, x = model.prepare(clip)
    torch.testing.assert_close(wb.explain(model, x).logits, wb.explain(model, clip).logits)
    np.testing.assert_array_equal(wb.explain(model, x).clip.frames, seen.frames)
    with pytest.raises(ValueError, match=r"\(1, 3, T, H, W\)"):
        wb.explain(model, torch.zeros(3, 8, 32, 32))
    with pytest.raises(TypeError, match="read_clip"):
        wb.explain(model, "video.mp4")


def test_the_network_is_given_back_as_it_came(clip):
    module = mfnet()
    module.train()
    module.conv3.eval()
    flags = [part.training for part in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    frames = clip.frames.copy()
    for layer in (None, "conv5"):
        wb.explain(wb.wrap_model(module, SPEC, layer=layer), clip).class_weights(0)
    assert [part.training for part in module.modules()] == flags
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    np.testing.assert_array_equal(clip.frames, frames)
    assert torch.is_grad_enabled()


def test_the_network_is_given_back_also_after_an_error(clip):
    module = mfnet()
    module.train()
    model = wb.wrap_model(module, SPEC)
    wb.explain(model, clip)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    handle = module.globalpool.register_forward_hook(stop)
    for remembered in (True, False):
        if not remembered:
            layer_search._REMEMBERED.pop(model)
        with pytest.raises(Stop):
            wb.explain(model, clip)
    handle.remove()
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks for part in module.modules())
    assert torch.is_grad_enabled()


def test_new_weights_in_the_same_network_are_explained_afresh(clip):
    module = mfnet()
    model = wb.wrap_model(module, SPEC)
    wb.explain(model, clip)
    with torch.no_grad():
        module.classifier.weight.mul_(-2)
    ex = wb.explain(model, clip)
    assert ex.exact
    torch.testing.assert_close(ex.weights, module.classifier.weight.detach())


def test_a_proof_is_made_on_every_clip_anew(clip):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mfnet()
            self.body.classifier = nn.Identity()
            self.head = nn.Linear(self.body(torch.zeros(1, 3, 8, 32, 32)).shape[1], 4)
            self.squashed = False

        def forward(self, x):
            pooled = self.body(x)
            return self.head(pooled.tanh() if self.squashed else pooled)

    module = Changing().eval()
    model = wb.wrap_model(module, SPEC)
    assert wb.explain(model, clip).exact
    module.squashed = True
    assert not wb.explain(model, clip).exact


def test_class_names_and_ids(clip):
    model = wb.wrap_model(
        mfnet(), SPEC, classes=["open", "close", "stir", "lift", "lower", "shake"]
    )
    ex = wb.explain(model, clip)
    assert ex.class_id("stir") == 2
    with pytest.raises(KeyError, match="near: stir"):
        ex.tube("stirr")
    with pytest.raises(IndexError, match="6 classes"):
        ex.tube(6)
    assert ex.top(2)["probability"].is_monotonic_decreasing
    assert float(ex.probabilities.sum()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="6 logits and there are 2"):
        wb.explain(wb.wrap_model(mfnet(), SPEC, classes=["a", "b"]), clip)


def test_nan_is_refused_with_the_place(clip):
    module = mfnet()
    with torch.no_grad():
        module.conv4.B01.conv_m1.conv.weight[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"conv4\.B01\.conv_m1\.conv\.weight"):
        wb.explain(wb.wrap_model(module, SPEC), clip)


def test_a_network_without_a_map_is_refused(clip):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 32 * 32, 4))
    with pytest.raises(ValueError, match="map"):
        wb.explain(wb.wrap_model(flat, SPEC), clip)
    with pytest.raises(ValueError, match="logits"):
        wb.explain(wb.wrap_model(nn.Conv3d(3, 4, 1), SPEC), clip)


def test_a_head_that_does_not_fit_is_refused(clip):
    with pytest.raises(ValueError, match="classifier"):
        wb.explain(wb.wrap_model(mfnet(), SPEC, layer="conv3", head="classifier"), clip)
    with pytest.raises(ValueError, match="no linear layer"):
        wb.explain(wb.wrap_model(mfnet(), SPEC, head="tail"), clip)


def test_a_1x1x1_convolution_is_a_head(clip):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv3d(3, 7, 4, 4), nn.ReLU(), nn.Conv3d(7, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    )
    ex = wb.explain(wb.wrap_model(module, SPEC), clip)
    assert ex.exact
    torch.testing.assert_close(ex.weights, module[2].weight.flatten(1).detach())


class ReluInForward(nn.Module):
    """The last ReLU is a function, as in torchvision's DenseNet: no layer gives the maps that are pooled."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 4, 4)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu_(self.stem(x)).mean((2, 3, 4)))


def test_a_relu_that_is_no_layer_is_found(clip):
    torch.manual_seed(0)
    module = ReluInForward()
    ex = wb.explain(wb.wrap_model(module, SPEC), clip)
    assert (ex.exact, ex.layer) == (True, "stem")
    assert float(ex.activations.min()) == 0
    torch.testing.assert_close(ex.weights, module.head.weight.detach())
    by_gradient = wb.explain(wb.wrap_model(module, SPEC), clip, weights="gradient")
    assert float(by_gradient.activations.min()) < 0  # the gradient is by the layer's own output


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU: install g++"
)
def test_a_compiled_model_says_the_same(clip):
    plain = wb.explain(wb.wrap_model(mfnet(), SPEC), clip)
    wrapped = wb.explain(wb.wrap_model(torch.compile(mfnet()), SPEC), clip)
    assert (wrapped.layer, wrapped.exact) == ("tail", True)
    torch.testing.assert_close(wrapped.activations, plain.activations, rtol=1e-4, atol=1e-5)


class TwoHeads(nn.Module):
    """Verb and noun from one stem: the noun's head is linear, the verb's is not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 6, 8, 8), nn.ReLU())
        self.verb = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 10), nn.Tanh(), nn.Linear(10, 3))
        self.noun = nn.Linear(6, 5)

    def forward(self, x):
        maps = self.stem(x)
        return {"verb": self.verb(maps), "noun": self.noun(maps.mean((2, 3, 4)))}


@pytest.mark.parametrize("build", [mfnet, ChannelsLast, FlattenHead, TwoHeads, "tokens", "frames"])
def test_a_batch_is_explained_as_clip_by_clip(build):
    torch.manual_seed(0)
    if build == "tokens":
        build = Tokens
    elif build == "frames":
        build = lambda: FrameByFrame(recurrent=True)  # noqa: E731
    model = wb.wrap_model(build().eval(), SPEC)
    rng = np.random.default_rng(3)
    clips = [wb.Clip(rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), 25.0) for _ in range(3)]
    for batched, clip in zip(explain_batch(model, clips), clips):
        for output in batched.outputs:
            one, other = batched.select(output), wb.explain(model, clip).select(output)
            assert (one.layer, one.exact) == (other.layer, other.exact)
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.activations, other.activations, rtol=1e-4, atol=1e-5)
            for target in range(len(one.classes)):
                volume = other.tube(target).volume
                np.testing.assert_allclose(
                    one.tube(target).volume, volume, atol=1e-4 * np.ptp(volume)
                )


# What an acceptance check found


class Changes(nn.Module):
    """Writes into its input, as a network that normalises for itself may."""

    def __init__(self):
        super().__init__()
        self.net = mfnet()

    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.2))


def test_an_input_that_the_network_writes_into_stays_the_user_s():
    module, x = Changes().eval(), torch.rand(1, 3, 8, 32, 32)
    before = x.clone()
    ex = wb.explain(wb.wrap_model(module, SPEC), x)
    assert torch.equal(x, before)
    torch.testing.assert_close(ex.logits, module(before.clone())[0].detach())


class FrameByFrame(nn.Module):
    """A 2-D network called once for each frame, and a mean or an LSTM over what it says."""

    def __init__(self, recurrent):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU())
        self.lstm = nn.LSTM(6, 6, batch_first=True) if recurrent else None
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        said = torch.stack([self.cnn(frame).mean((2, 3)) for frame in x.unbind(2)], 1)
        return self.head(said.mean(1) if self.lstm is None else self.lstm(said)[0][:, -1])


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_network_called_frame_by_frame_is_explained_on_all_frames(clip, recurrent):
    module = FrameByFrame(recurrent).eval()
    model = wb.wrap_model(module, SPEC)
    ex = wb.explain(model, clip)
    assert (ex.layer, ex.exact) == ("cnn", not recurrent)
    _, x = model.prepare(clip)
    with torch.no_grad():
        torch.testing.assert_close(ex.activations, module.cnn(x[0].transpose(0, 1)).transpose(0, 1))
    for weights in ("gradient", "layer"):
        tube = wb.explain(model, clip, weights=weights).tube(1)
        assert np.ptp(tube.map.mean((1, 2))) > 0  # not the last frame's alone


class Tokens(nn.Module):
    """Frames in cells of 8×8, tokens that attend to one another, and their mean: knows its grid only from the clip."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 8, 8)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        tokens = self.norm(self.stem(x.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2))
        return self.head(tokens.mean(1)).unflatten(0, (len(x), -1)).mean(1)


def test_tokens_follow_the_size_of_the_clip():
    model = wb.wrap_model(Tokens().eval(), SPEC)
    for size in ((2, 64, 96), (2, 96, 64), (3, 64, 64), (2, 64, 96)):
        ex = wb.explain(model, torch.rand(1, 3, *size))
        assert ex.exact
        assert tuple(ex.activations.shape) == (6, size[0], size[1] // 8, size[2] // 8)


def test_a_target_without_proof_is_looked_for_again_when_the_weights_change(clip):
    module = mfnet()
    nn.init.zeros_(module.classifier.weight)
    model = wb.wrap_model(module, SPEC)
    with pytest.warns(UserWarning, match="all zeros"):
        assert not wb.explain(model, clip).exact
    nn.init.normal_(module.classifier.weight)
    assert wb.explain(model, clip).exact
    module.classifier = nn.Linear(32, 3)  # another head, and other numbers for names
    assert len(wb.explain(model, clip).classes) == 3


def test_an_explanation_is_freed_with_its_last_reference(clip):
    gc.disable()
    try:
        ex = wb.explain(wb.wrap_model(mfnet(), SPEC), clip)
        gone = weakref.ref(ex)
        del ex
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["bfloat16", "double", "precision", "autocast"])
def test_other_precisions_stay_exact(clip, how):
    module = mfnet()
    module = (
        module.bfloat16() if how == "bfloat16" else module.double() if how == "double" else module
    )
    model = wb.wrap_model(module, SPEC, precision=torch.bfloat16 if how == "precision" else None)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        ex = wb.explain(model, clip)
    assert ex.exact
    assert ex.residual < (0.03 if how in ("bfloat16", "precision") else 1e-5)


def test_mistakes_are_named(clip):
    with pytest.raises(TypeError, match="wrap_model"):
        wb.explain(mfnet(), clip)
    with pytest.raises(TypeError, match="TorchScript"):
        wb.wrap_model(torch.jit.trace(mfnet().eval(), torch.zeros(1, 3, 8, 32, 32)))
    module = mfnet()
    ex = wb.explain(wb.wrap_model(module, SPEC), clip, weights="gradient")
    with torch.no_grad():
        module.classifier.weight.mul_(2)
    with pytest.raises(RuntimeError, match="explain the clip again"):
        ex.tube(1)


@pytest.mark.parametrize("target", [1.5, True, np.bool_(True), np.float64(1)])
def test_only_whole_numbers_are_class_ids(clip, target):
    ex = wb.explain(wb.wrap_model(mfnet(), SPEC), clip)
    with pytest.raises(TypeError, match="whole number"):
        ex.tube(target)
    with pytest.raises(TypeError, match="whole number"):
        ex.feature_tube(target)
    assert ex.tube(np.int64(2)).target == 2
