"""TSN: every frame by itself, several heads, backbones by name and by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.models.networks.bninception import BNInception
from workbench.models.networks.small_resnet import SmallResNet
from workbench.models.networks.tsn import TSN, classifier_of, replaced

REFERENCE = Path(__file__).parent / "reference" / "bninception.json"
HEADS = {"verb": 3, "noun": 4}


def small(classes: int = 5) -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(classes, widths=(4, 4, 8, 8)).eval()


def clips(frames: int = 3) -> torch.Tensor:
    return torch.randn(2, 3, frames, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_logits_are_the_mean_over_the_frames():
    backbone, x = small(), clips()
    expected = torch.stack([backbone(x[:, :, t]) for t in range(3)]).mean(0)
    torch.testing.assert_close(TSN(backbone)(x), expected)


@torch.no_grad()
def test_heads_share_the_backbone_and_give_a_dict():
    backbone, x = small(), clips()
    module = TSN(backbone, heads=HEADS).eval()
    out = module(x)
    assert list(out) == ["verb", "noun"]
    features = []
    backbone.classifier.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    for t in range(3):
        backbone(x[:, :, t])
    pooled = torch.stack(features).mean(
        0
    )  # the mean may be taken before a linear head as well as after
    for name, count in HEADS.items():
        assert out[name].shape == (2, count)
        torch.testing.assert_close(out[name], getattr(module, f"fc_{name}")(pooled))


def test_the_given_network_keeps_its_classifier_and_shares_its_layers():
    backbone = small()
    before = {name: id(part) for name, part in backbone.named_modules()}
    module = TSN(backbone, heads=HEADS)
    assert {name: id(part) for name, part in backbone.named_modules()} == before
    assert isinstance(backbone.classifier, nn.Linear)
    assert isinstance(module.backbone.classifier, nn.Identity)
    assert module.backbone.stem is backbone.stem
    hook = module.backbone.register_forward_hook(lambda *_: None)
    assert not backbone._forward_hooks
    hook.remove()
    names = set(module.state_dict())
    assert {"fc_verb.weight", "fc_noun.bias", "backbone.stem.0.weight"} <= names
    assert not any("classifier" in name for name in names)


def test_parameter_names_are_those_of_the_shipped_weights():
    names = set(TSN(small()).state_dict())
    assert names == {f"backbone.{name}" for name in small().state_dict()}


def test_a_layer_deep_inside_is_replaced_without_changing_the_original():
    inner = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    twin = replaced(inner, "1.0", nn.Linear(2, 5))
    assert inner(torch.zeros(1, 2)).shape == (1, 3)
    assert twin(torch.zeros(1, 2)).shape == (1, 5)
    assert twin[0] is inner[0]


class Odd(nn.Module):
    """A picture network that does to its pooled features what it is told."""

    def __init__(self, *after: nn.Module, side: int | None = None) -> None:
        super().__init__()
        self.conv, self.spare, self.side = nn.Conv2d(3, 6, 3), nn.Linear(6, 6), side
        self.after = nn.Sequential(*after)

    def forward(self, x):
        if self.side not in (None, x.shape[-1]):
            raise RuntimeError(f"pictures of {self.side} pixels only")
        return self.after(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ((nn.Linear(6, 4),), "after.0"),
        ((nn.Linear(6, 4), nn.Dropout(0.5), nn.Identity()), "after.0"),
        ((nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), "after.2"),
        (
            (nn.Linear(6, 4), nn.ReLU(inplace=True)),
            None,
        ),  # the same tensor, but not what the layer gave
        ((nn.Linear(6, 4), nn.Softmax(1)), None),
        ((nn.Identity(),), None),
    ],
)
def test_the_classifier_is_the_linear_layer_that_makes_the_output(after, name):
    module = Odd(*after).train()
    assert classifier_of(module) == name
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks for part in module.modules())


def test_a_network_that_insists_on_a_size_is_asked_with_that():
    assert classifier_of(Odd(nn.Linear(6, 4), side=299)) == "after.0"
    with pytest.raises(ValueError, match="123 pixels only"):
        classifier_of(Odd(nn.Linear(6, 4), side=123))


def test_features_are_taken_as_they_are():
    module = TSN(Odd(), heads={"verb": 2})
    assert module.fc_verb.in_features == 6
    assert module(torch.zeros(1, 3, 2, 8, 8))["verb"].shape == (1, 2)


class Maps(nn.Conv2d):
    pass


def test_what_cannot_be_a_tsn_is_refused():
    with pytest.raises(ValueError, match=r"\(B, C\), got one that returns a tensor"):
        TSN(Maps(3, 4, 1), heads=HEADS)
    for heads in ({}, {"a b": 2}, {"verb": 0}):
        with pytest.raises(ValueError, match="heads"):
            TSN(small(), heads=heads)
    with pytest.raises(ValueError, match="heads="):
        TSN(small(), HEADS)
    with pytest.raises(ValueError, match="segments"):
        TSN(small(), 0)
    with pytest.raises(ValueError, match="given by name"):
        TSN(small(), weights="DEFAULT")
    with pytest.raises(ValueError, match=r"\(N, 3, T, H, W\), got \(2, 3, 32, 32\)"):
        TSN(small())(torch.zeros(2, 3, 32, 32))


def test_a_backbone_by_name_comes_from_torchvision():
    module = TSN("mobilenet_v3_small", 4, heads=HEADS).eval()
    assert module.segments == 4
    assert module.fc_noun.in_features == 1024
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 2, 32, 32))["noun"].shape == (1, 4)
    with pytest.raises(KeyError, match="resnet50"):
        TSN("resnet51")
    with pytest.raises(ValueError, match="squeezenet1_1 is not one linear layer"):
        TSN("squeezenet1_1", heads=HEADS)


def test_a_backbone_by_name_comes_from_timm():
    pytest.importorskip("timm")
    module = TSN("timm/resnet10t", heads={"verb": 3}).eval()
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 2, 64, 64))["verb"].shape == (1, 3)
    with pytest.raises(KeyError, match=r"near: .*resnet10t"):
        TSN("timm/resnet10x")


@pytest.mark.parametrize(
    ("name", "library"), [("resnet18", "torchvision"), ("timm/resnet18", "timm")]
)
def test_a_missing_library_is_said_with_what_to_install(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    if library == "torchvision":
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        TSN(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("densenet121", "classifier"),
        ("convnext_tiny", "classifier.2"),
        ("efficientnet_b0", "classifier.1"),
        ("inception_v3", "fc"),
        ("googlenet", "fc"),
        ("swin_t", "head"),
        ("vit_b_16", "heads.head"),
        ("timm/convnext_atto", "head.fc"),
        ("timm/vit_tiny_patch16_224", "head"),
        ("timm/inception_v4", "last_linear"),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_classifiers_of_other_libraries_networks(name, classifier):
    from workbench.models.libraries import picture_network

    assert classifier_of(picture_network(name).module) == classifier


def test_bninception_has_the_published_names_and_shapes():
    expected = json.loads(REFERENCE.read_text())["shapes"]
    assert {
        name: list(value.shape) for name, value in BNInception().state_dict().items()
    } == expected


@torch.no_grad()
def test_bninception_computes_what_the_port_of_the_caffe_network_does():
    """The reference's logits are those of pretrainedmodels 0.7.4 with the same weights and picture."""
    module = BNInception(5).eval()
    for number, (name, value) in enumerate(sorted(module.state_dict().items())):
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.37 + number).view(
            value.shape
        )
        if name.endswith("running_var"):
            wave = 1 + 0.5 * wave
        elif name.endswith("_bn.weight"):
            wave = 1 + 0.3 * wave
        elif name.endswith("weight"):
            wave = wave * (2 / value[0].numel()) ** 0.5
        else:
            wave = 0.1 * wave
        if not name.endswith("num_batches_tracked"):
            value.copy_(wave)
    picture = (
        torch.sin(torch.arange(3 * 224 * 224, dtype=torch.float64) * 0.011)
        .view(1, 3, 224, 224)
        .float()
    )
    expected = torch.tensor(json.loads(REFERENCE.read_text())["logits"])
    torch.testing.assert_close(module(picture)[0], expected, rtol=0, atol=1e-4)
