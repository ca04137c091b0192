"""Networks that cannot be explained as they are: each is refused with what to do, or repaired; and several threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import workbench as wb

SPEC = wb.InputSpec(8, (32, 32))


class Net(nn.Module):
    """Maps, average pooling and a linear head."""

    def __init__(self, channels=3, classes=5):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(channels, 8, 4, 4), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3, 4)))


class Around(nn.Module):
    """A network within another one."""

    def __init__(self, **options):
        super().__init__()
        self.net = Net(**options)


@pytest.fixture
def x():
    return torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def explain(module, x, spec=SPEC, **options):
    return wb.explain(wb.wrap_model(module.eval(), spec, **options), x)


# How a network is called


class TimeFirst(Around):
    def forward(self, x):
        return self.net(x.transpose(1, 2))


def test_time_first_is_named_as_the_remedy(x):
    with pytest.raises(ValueError, match=r"input \(1, 3, 8, 32, 32\).*time_first=True"):
        explain(TimeFirst(), x)
    spec = wb.InputSpec(8, (32, 32), time_first=True)
    assert explain(TimeFirst(), x, spec).exact
    with pytest.raises(
        ValueError, match=r"input \(1, 8, 3, 32, 32\).*leave out InputSpec\(time_first=True\)"
    ):
        explain(Net(), x, spec)


def test_several_inputs_get_a_wrapper_that_works(x):
    class Two(Around):
        def forward(self, rgb, flow):
            return self.net(rgb) + flow.mean()

    with pytest.raises(ValueError, match="takes 2 inputs, rgb, flow") as caught:
        explain(Two(), x)
    # The three lines of the message, with the blank filled in.
    lines = str(caught.value).partition("one input:\n")[2].replace("…", "torch.ones(1)")
    assert len(lines.splitlines()) == 3
    names = {"torch": torch}
    exec("if True:\n" + lines, names)
    assert explain(names["OneInput"](Two()), x).layer == "network.net.stem"


def test_a_dict_as_input_gets_a_wrapper(x):
    class OfDict(Around):
        def forward(self, batch):
            return self.net(dict(batch)["video"])

    with pytest.raises(
        ValueError, match=r"a network that takes a dict(?s:.*)self\.network\({\"video\": x}\)"
    ):
        explain(OfDict(), x)


def test_an_argument_by_keyword_only_is_found(x):
    class ByKeyword(Around):
        def forward(self, *, pixel_values):
            return self.net(pixel_values)

    assert explain(ByKeyword(), x).exact


def test_video_networks_of_transformers_are_recognised(x):
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=8, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, num_labels=5,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.VideoMAEForVideoClassification(config).eval()
    for spec in (None, SPEC):
        model = wb.wrap_model(module, spec)
        assert (model.input.frames, model.input.time_first, model.input.keyword) == (
            8,
            True,
            "pixel_values",
        )
        ex = wb.explain(model, x)
        torch.testing.assert_close(ex.logits, module(x.transpose(1, 2)).logits[0].detach())


def test_outputs_with_an_axis_of_one_and_model_outputs(x):
    outputs = pytest.importorskip("transformers").modeling_outputs

    class Packed(Around):
        def forward(self, x):
            maps = self.net.stem(x)
            logits = self.net.head(maps.mean((2, 3, 4)))[:, None]
            return outputs.ImageClassifierOutput(logits=logits, hidden_states=(maps.flatten(2),))

    ex = explain(Packed(), x)
    assert (ex.logits.shape, ex.exact, ex.answers) == ((5,), True, None)


def test_clips_of_one_channel(x):
    grey = Net(channels=1)
    with pytest.raises(ValueError, match=r"takes 1 channels: InputSpec\(channels=1\)"):
        explain(grey, x)
    spec = wb.InputSpec(8, (32, 32), mean=(0.5,), std=(0.25,), channels=1)
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = 200, 100, 50
    clip = wb.Clip(frames, 25.0)
    ex = explain(grey, clip, spec)
    seen = (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255
    expected = grey(torch.full((1, 1, 8, 32, 32), (seen - 0.5) / 0.25))[0]
    torch.testing.assert_close(ex.logits, expected.detach())
    assert ex.tube().volume.shape == (8, 32, 32)
    # A ready tensor has one channel, too, and is shown in grey.
    ready = explain(grey, torch.full((1, 1, 8, 32, 32), 0.4), spec)
    assert ready.clip.frames.shape == (8, 32, 32, 3)
    with pytest.raises(ValueError, match=r"expected a tensor \(1, 1, T, H, W\)"):
        explain(grey, x, spec)
    with pytest.raises(ValueError, match="expected one number each"):
        wb.InputSpec(8, mean=(0.1, 0.2, 0.3), channels=1)
    assert wb.InputSpec(8, channels=1).std == (1.0,)


def test_other_channel_counts_get_a_wrapper(x):
    with pytest.raises(ValueError, match=r"takes 4 channels, and clips have 3 colours"):
        explain(Net(channels=4), x)


# Layers that hide


def test_int8_heads_are_refused():
    with pytest.warns(Warning, match="quantiz"):
        module = torch.ao.quantization.quantize_dynamic(
            Net().eval(), {nn.Linear}, dtype=torch.qint8
        )
    with pytest.raises(
        TypeError, match=r"floating point, got int8 at 'head'.*Give the float network"
    ):
        wb.wrap_model(module, SPEC)


def test_exported_programs_are_refused(x):
    program = torch.export.export(Net().eval(), (x,))
    for given in (program, program.module()):
        with pytest.raises(
            TypeError, match=r"program by torch\.export.*give the module that was exported"
        ):
            wb.wrap_model(given, SPEC)
    # A traced graph calls its layers, so that hooks see them.
    assert explain(torch.fx.symbolic_trace(Net()), x).exact


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_layers_are_refused():
    module = Net()
    module.stem = torch.jit.script(module.stem)
    with pytest.raises(TypeError, match=r"TorchScript at 'stem'.*without torch\.jit\.script"):
        wb.wrap_model(module, SPEC)


def test_fsdp_is_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel

    # It cannot be built without an accelerator: its class around a network does.
    sharded = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(sharded)
    sharded._fsdp_wrapped_module = Net()
    with pytest.raises(TypeError, match=r"shards of their weights.*FULL_STATE_DICT.*FSDP2"):
        wb.wrap_model(sharded, SPEC)


def test_the_meta_device_is_refused():
    with torch.device("meta"):
        module = Net()
    with pytest.raises(
        ValueError, match=r"meta device, which has none, at 'stem\.0\.weight'.*to_empty"
    ):
        wb.wrap_model(module, SPEC)


def test_a_function_is_refused():
    with pytest.raises(
        TypeError, match=r"got function. A function becomes one by a class with `forward`"
    ):
        wb.wrap_model(lambda x: x, SPEC)


def test_crops_in_a_batch_are_refused(x):
    class Crops(Around):
        def forward(self, x):
            crops = torch.cat([x[..., :16], x[..., 16:]])
            return self.net(crops).unflatten(0, (2, len(x))).mean(0)

    with pytest.raises(
        ValueError, match=r"'net\.stem' sees a batch of 2 for one clip \(crops or flips\?\)"
    ):
        explain(Crops(), x)


class Frozen(Around):
    """A backbone without gradients, and a head that is not linear."""

    def __init__(self):
        super().__init__()
        self.end = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x):
        with torch.no_grad():
            answer = self.net(x)
        return self.end(answer)


def test_a_backbone_without_gradients_is_refused_with_the_reason(x):
    with pytest.raises(
        ValueError, match=r"runs net\.stem.* under torch\.no_grad\(\).*Remove no_grad"
    ):
        explain(Frozen(), x)

    class Inference(Frozen):
        @torch.inference_mode()
        def forward(self, x):
            return self.end(self.net(x))

    with pytest.raises(ValueError, match=r"no_grad\(\) or inference mode"):
        explain(Inference(), x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_backbone_without_gradients_is_explained_by_a_proved_head(x, mode):
    class Frozen(Around):
        def forward(self, x):
            with mode():
                return self.net(x)

    ex = explain(Frozen(), x)
    assert ex.exact
    assert ex.tube(1).map.mean() + float(ex.bias[1]) == pytest.approx(float(ex.logits[1]), abs=1e-5)


@pytest.mark.parametrize("pack", [tuple, list], ids=["tuple", "list"])
def test_a_layer_that_returns_several_tensors_can_be_named(x, pack):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(3, 8, 4, 4)

        def forward(self, x):
            maps = self.conv(x).relu()
            return pack([maps, maps.mean()])

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()
            self.end = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))

        def forward(self, x):
            return self.end(self.block(x)[0].mean((2, 3, 4)))

    torch.manual_seed(0)
    module = Blocks().eval()
    ex = explain(module, x, layer="block")
    maps = module.block(x)[0].detach().requires_grad_()
    gradient = torch.autograd.grad(module.end(maps.mean((2, 3, 4)))[0, 2], maps)[0][0]
    torch.testing.assert_close(ex.class_weights(2), gradient.sum((1, 2, 3)))
    torch.testing.assert_close(ex.activations, maps[0].detach())


# Several threads


class Slow(nn.Module):
    """A network that would be left in another state if two threads ran it at once."""

    def __init__(self, linear):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 16, 3, 2, 1), nn.BatchNorm3d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv3d(16, 16, 3, 1, 1), nn.ReLU())
        self.dropout = nn.Dropout(0.5)
        end = [nn.Linear(16, 5)] if linear else [nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5)]
        self.head = nn.Sequential(*end)

    def forward(self, x):
        return self.head(self.dropout(self.body(self.stem(x)).mean((2, 3, 4))))


@pytest.mark.parametrize("linear", [True, False], ids=["head", "gradients"])
def test_threads_explain_as_one_thread_does_and_leave_the_network_alone(linear, monkeypatch):
    from workbench.models import video_model

    # Channels last is used for every pass, whichever is faster here.
    monkeypatch.setattr(video_model, "faster_channels_last", lambda *_: True)
    torch.manual_seed(0)
    module = Slow(linear).train()
    strides = {name: value.stride() for name, value in module.state_dict().items()}
    values = {name: value.clone() for name, value in module.state_dict().items()}
    clips = [torch.randn(1, 3, 8, 32, 32) for _ in range(20)]

    def tubes(model):
        return [wb.explain(model, clip, place=False).tube(2).volume for clip in clips]

    expected = tubes(wb.wrap_model(module, SPEC))
    models = [wb.wrap_model(module, SPEC) for _ in range(2)]
    start = threading.Barrier(3)

    def together(model):
        start.wait()
        return tubes(model)

    with ThreadPoolExecutor(3) as pool:
        # Two share a model, and the third has one of its own around the same network.
        found = list(pool.map(together, (models[0], models[0], models[1])))
    for each in found:
        np.testing.assert_allclose(each, expected, atol=1e-6)
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks for part in module.modules())
    for name, value in module.state_dict().items():
        assert value.stride() == strides[name]
        assert torch.equal(value, values[name])
