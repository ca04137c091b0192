"""Models by name: torchvision's and TSNs, their weights and where those come from, and published layouts."""

from __future__ import annotations

import argparse
import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.models.libraries import fetch, picture_network
from workbench.models.networks.tsn import TSN
from workbench.models.pretrained import TORCHVISION
from workbench.models.tsn_checkpoints import read_tsn_checkpoint

models = pytest.importorskip("torchvision.models")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder for torch's downloads, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def s3d():
    torch.manual_seed(0)
    return models.video.s3d(num_classes=6).eval()


# ---- the table


def test_the_table_lists_every_model_without_loading_one(monkeypatch):
    monkeypatch.setattr(models, "get_model_builder", None)
    table = wb.list_models()
    assert list(table.columns) == ["input", "parameters", "weights"]
    assert {"mfnet3d", "samples/mfnet", "samples/tsn", "tsn/resnet50", "tsn/bninception"} <= set(
        table.index
    )
    assert {f"torchvision/{name}" for name in TORCHVISION} <= set(table.index)
    assert table.loc["torchvision/s3d"].tolist()[:2] == ["128×224×224, stride 2", 8_320_048]


@pytest.mark.parametrize("name", TORCHVISION)
def test_what_the_table_says_of_torchvision_is_what_torchvision_says(name):
    known = TORCHVISION[name]
    weights = models.get_model_weights(name).DEFAULT
    told = weights.meta["_docs"]
    assert weights.meta["num_params"] == known.parameters
    assert int(re.search(r"clip_len=(\d+)", told)[1]) == known.frames
    assert 30 / float(re.search(r"frame_rate=([\d.]+)", told)[1]) == known.stride
    assert known.frames >= weights.meta.get("min_temporal_size", 1)
    side = re.match(r"\d+×(\d+)×", wb.list_models().loc[f"torchvision/{name}", "input"])[1]
    assert weights.transforms().crop_size[0] == int(side)
    with torch.device("meta"):
        module = models.get_model_builder(name)()
    assert sum(p.numel() for p in module.parameters()) == known.parameters
    assert len(module.state_dict()[known.head]) == 400


@pytest.mark.parametrize("name", ["samples/mfnet", "samples/tsn"])
def test_shipped_networks_are_as_large_as_the_table_says(name):
    from workbench.training.sample_networks import small_mfnet, small_tsn

    module = {"samples/mfnet": small_mfnet, "samples/tsn": small_tsn}[name]().module
    assert sum(p.numel() for p in module.parameters()) == wb.list_models().loc[name, "parameters"]


@pytest.mark.parametrize("name", ["tsn/resnet50", "tsn/bninception"])
def test_tsns_are_as_large_as_the_table_says(name):
    model = wb.load_model(name, weights=None, device="cpu")
    assert (
        sum(p.numel() for p in model.module.parameters())
        == wb.list_models().loc[name, "parameters"]
    )


def test_names_that_are_none_list_what_there_is():
    for name in ("tsn", "tsn/", "torchvision/", "tsn/<name>", "resnet"):
        with pytest.raises(KeyError):
            wb.load_model(name)
    with pytest.raises(KeyError, match="r2plus1d_18"):
        wb.load_model("torchvision/resnet50")
    with pytest.raises(KeyError, match="resnet50"):
        wb.load_model("tsn/resnet_50")


def test_the_shipped_tsn_loads_and_is_what_was_recorded():
    model = wb.load_model("samples/tsn", device="cpu")
    assert tuple(model.classes) == wb.samples.CLASSES
    assert not model.module.training
    assert model.logits(torch.zeros(1, 3, 2, 64, 64)).shape == (8,)


# ---- torchvision's video networks


def test_random_weights_come_with_torchvision_s_input_and_kinetics_names(hub):
    model = wb.load_model("torchvision/mc3_18", weights=None, device="cpu")
    assert model.name == "torchvision/mc3_18"
    assert (model.input.frames, model.input.stride) == (16, 2)
    assert (model.input.resize, model.input.crop) == ((128, 171), (112, 112))
    assert model.input.mean == (0.43216, 0.394666, 0.37645)
    assert model.classes[:2] == ["abseiling", "air drumming"]
    assert len(model.classes) == 400
    assert not model.module.training
    clip = wb.Clip(np.zeros((40, 30, 40, 3), dtype=np.uint8), fps=30.0)
    assert model.prepare(clip)[1].shape == (1, 3, 16, 112, 112)


def test_a_short_side_and_a_square_are_numbers():
    spec = wb.load_model(
        "torchvision/s3d", weights=None, classes=list("abc"), device="cpu", frames=16, stride=1
    ).input
    assert (spec.frames, spec.stride, spec.resize, spec.crop) == (16, 1, (256, 256), (224, 224))
    spec = picture_network("resnet18")
    assert (spec.resize, spec.crop, spec.bgr) == (256, 224, False)


def test_random_weights_have_as_many_classes_as_are_named():
    model = wb.load_model("torchvision/mc3_18", weights=None, classes=list("abc"), device="cpu")
    assert model.classes == list("abc")
    assert model.logits(torch.zeros(1, 3, 2, 32, 32)).shape == (3,)


def test_weights_that_cannot_be_downloaded_say_from_where_and_where_to(hub):
    url = "https://download.pytorch.org/models/s3d-d76dad2f.pth"
    with pytest.raises(FileNotFoundError, match="no route to host") as caught:
        wb.load_model("torchvision/s3d")
    for part in (url, str(hub / "s3d-d76dad2f.pth"), "checkpoint="):
        assert part in str(caught.value)
    assert list(hub.iterdir()) == []


def test_a_download_that_breaks_off_or_is_another_file_is_not_left(hub, monkeypatch):
    class Broken:
        def __init__(self, parts):
            self.parts = list(parts)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def info(self):
            return argparse.Namespace(get_all=lambda name: ["100"])

        def read(self, size):
            part = self.parts.pop(0) if self.parts else b""
            if isinstance(part, Exception):
                raise part
            return part

    for parts, told in (
        ([b"x" * 10, ConnectionResetError("reset by peer")], "reset"),
        ([b"x"], "invalid hash"),
    ):
        monkeypatch.setattr(torch.hub, "urlopen", lambda *_, parts=parts: Broken(parts))
        with pytest.raises(FileNotFoundError, match=told):
            fetch("https://download.pytorch.org/models/s3d-d76dad2f.pth")
        assert list(hub.iterdir()) == []


def test_weights_that_were_put_in_place_are_used(hub, s3d):
    hub.mkdir(parents=True)
    file = hub / "s3d-d76dad2f.pth"
    torch.manual_seed(1)
    module = models.video.s3d()
    torch.save(module.state_dict(), file)
    model = wb.load_model("torchvision/s3d", device="cpu")
    assert torch.equal(model.module.classifier[1].weight, module.classifier[1].weight)
    assert len(model.classes) == 400
    with pytest.raises(ValueError, match="400 classes, and 2 names"):
        wb.load_model("torchvision/s3d", classes=["a", "b"])
    torch.save(s3d.state_dict(), file)
    with pytest.raises(ValueError, match=r"s3d-d76dad2f\.pth is not what https.*delete it"):
        wb.load_model("torchvision/s3d")
    file.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"s3d-d76dad2f\.pth \(4 bytes\)"):
        wb.load_model("torchvision/s3d")


def test_weights_are_named_as_torchvision_names_them(hub):
    enum = models.video.S3D_Weights
    for weights in ("KINETICS400_V1", "S3D_Weights.KINETICS400_V1", enum.KINETICS400_V1, "DEFAULT"):
        with pytest.raises(FileNotFoundError, match="s3d-d76dad2f"):
            wb.load_model("torchvision/s3d", weights=weights)
    with pytest.raises(KeyError, match="KINETICS400_V1, DEFAULT"):
        wb.load_model("torchvision/s3d", weights="IMAGENET")


def test_a_checkpoint_takes_the_place_of_a_download(hub, s3d, tmp_path):
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in s3d.state_dict().items()}},
        tmp_path / "mine.pth",
    )
    model = wb.load_model(
        "torchvision/s3d", checkpoint=tmp_path / "mine.pth", classes=list("abcdef"), device="cpu"
    )
    assert all(
        torch.equal(value, s3d.state_dict()[name])
        for name, value in model.module.state_dict().items()
    )
    assert (
        wb.load_model("torchvision/s3d", checkpoint=tmp_path / "mine.pth", device="cpu").classes
        is None
    )
    with pytest.raises(ValueError, match="6 classes, and 2 names"):
        wb.load_model("torchvision/s3d", checkpoint=tmp_path / "mine.pth", classes=["a", "b"])
    with pytest.raises(ValueError, match=r"mine\.pth is no checkpoint of VideoResNet"):
        wb.load_model("torchvision/mc3_18", checkpoint=tmp_path / "mine.pth")


def test_networks_of_a_fixed_length_say_so():
    with pytest.raises(ValueError, match="16 frames and no others"):
        wb.load_model("torchvision/mvit_v2_s", frames=8)


# ---- TSNs


def backbone_state(name="resnet18"):
    torch.manual_seed(0)
    module = picture_network(name).module
    state = {
        k: v for k, v in module.state_dict().items() if not k.startswith(("fc.", "last_linear."))
    }
    return {f"base_model.{k}": v for k, v in state.items()}, (
        1024 if name == "bninception" else 512
    )


def linear(name, rows, width):
    generator = torch.Generator().manual_seed(rows)
    return {
        f"{name}.weight": torch.randn(rows, width, generator=generator),
        f"{name}.bias": torch.randn(rows, generator=generator),
    }


def epic55(name="resnet18", **changes):
    """A checkpoint as github.com/epic-kitchens/epic-kitchens-55-action-models describes it."""
    state, width = backbone_state(name)
    state.update(linear("fc_verb", 125, width), **linear("fc_noun", 352, width))
    arch = "BNInception" if name == "bninception" else name
    args = argparse.Namespace(dropout=0.7, flow_length=5, lr_steps=[20, 40], arch=arch, resume=None)
    told = dict(
        model_type="tsn",
        epoch=80,
        segment_count=8,
        modality="RGB",
        arch=arch,
        consensus_type="avg",
        args=args,
    )
    return {**told, "state_dict": state, **changes}


def epic100():
    """A checkpoint as src/systems.py and src/test.py of C1-Action-Recognition-TSN-TRN-TSM write and read it."""
    state, width = backbone_state()
    state.update(linear("new_fc", 397, width))
    data = {
        "frame_count": 8, "test_frame_count": 25, "segment_length": 1,
        "preprocessing": {"bgr": False, "rescale": True, "input_size": 224, "scale_size": 256,
                          "mean": [0.485, 0.456, 0.406], "std": [0.485, 0.456, 0.406]},
        "test_augmentation": {"rescale_size": 256},
    }  # fmt: skip
    hyper = {"modality": "RGB", "model": {"type": "TSN", "backbone": "resnet18"}, "data": data}
    return {
        "epoch": 40,
        "hyper_parameters": hyper,
        "state_dict": {f"model.{k}": v for k, v in state.items()},
    }


@torch.no_grad()
def features(state, name="resnet18"):
    """Mean features (1, C) of one clip by the backbone alone, and the clip."""
    module = picture_network(name).module
    module.load_state_dict(
        {k.removeprefix("base_model."): v for k, v in state.items() if "base" in k}, strict=False
    )
    x = torch.randn(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    bare = TSN(module, heads={"one": 1}).eval()
    return bare.backbone(x[0].transpose(0, 1)).mean(0, keepdim=True), x


def test_epic_55_checkpoints_load_with_both_heads_and_their_input(tmp_path):
    content = epic55()
    torch.save(content, tmp_path / "tsn.pth.tar")
    names = {"verb": [f"v{i}" for i in range(125)], "noun": [f"n{i}" for i in range(352)]}
    model = wb.load_model(
        "tsn/resnet18", checkpoint=tmp_path / "tsn.pth.tar", classes=names, device="cpu"
    )
    spec = model.input
    assert (spec.frames, spec.stride, spec.resize, spec.crop, spec.bgr) == (
        8,
        None,
        256,
        224,
        False,
    )
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    state = content["state_dict"]
    pooled, x = features(state)
    with torch.no_grad():
        out = model.module(x)
    for head in ("verb", "noun"):
        expected = pooled @ state[f"fc_{head}.weight"].T + state[f"fc_{head}.bias"]
        torch.testing.assert_close(out[head], expected, rtol=1e-4, atol=1e-4)


def test_bninception_s_checkpoints_take_bgr_up_to_255(tmp_path):
    content = epic55("bninception")
    torch.save(
        content, tmp_path / "tsn.pth.tar", _use_new_zipfile_serialization=False
    )  # as in 2019
    model = wb.load_model("tsn/bninception", checkpoint=tmp_path / "tsn.pth.tar", device="cpu")
    clip = wb.Clip(np.full((8, 256, 256, 3), (200, 100, 50), dtype=np.uint8), fps=30.0)
    x = model.prepare(clip)[1]
    assert x.shape == (1, 3, 8, 224, 224)
    torch.testing.assert_close(
        x[0, :, 0, 0, 0], torch.tensor([50.0 - 104, 100 - 117, 200 - 128]), rtol=0, atol=1e-4
    )
    pooled, x = features(content["state_dict"], "bninception")
    with torch.no_grad():
        verb = model.module(x)["verb"]
    expected = (
        pooled @ content["state_dict"]["fc_verb.weight"].T + content["state_dict"]["fc_verb.bias"]
    )
    torch.testing.assert_close(verb, expected, rtol=1e-4, atol=1e-4)


def test_epic_100_checkpoints_have_one_head_that_is_split(tmp_path):
    content = epic100()
    torch.save(content, tmp_path / "tsn_rgb.ckpt")
    model = wb.load_model(
        "tsn/resnet18", checkpoint=tmp_path / "tsn_rgb.ckpt", device="cpu", segments=25
    )
    assert model.module.heads == {"verb": 97, "noun": 300}
    assert model.input.std == (0.485, 0.456, 0.406)  # sic, see models/tsn_checkpoints.py
    assert (model.input.frames, model.input.resize, model.input.crop) == (25, 256, 224)
    joint = content["state_dict"]["model.new_fc.weight"]
    assert torch.equal(model.module.fc_verb.weight, joint[:97])
    assert torch.equal(model.module.fc_noun.bias, content["state_dict"]["model.new_fc.bias"][97:])
    bare = {name.removeprefix("model."): value for name, value in content["state_dict"].items()}
    torch.save(bare, tmp_path / "bare.pth")
    again = wb.load_model("tsn/resnet18", checkpoint=tmp_path / "bare.pth", device="cpu")
    assert torch.equal(again.module.fc_verb.weight, joint[:97])
    assert again.input.std == (0.485, 0.456, 0.406)


def test_one_task_and_plain_and_own_checkpoints_load(tmp_path):
    state, width = backbone_state()
    torch.save({**state, **linear("new_fc", 7, width)}, tmp_path / "tsn-pytorch.pth")
    plain = {k.removeprefix("base_model."): v for k, v in state.items()} | linear("fc", 7, width)
    torch.save(plain, tmp_path / "resnet18.pth")
    first = wb.load_model(
        "tsn/resnet18", checkpoint=tmp_path / "tsn-pytorch.pth", classes=list("abcdefg")
    )
    torch.save(first.module.state_dict(), tmp_path / "own.pth")
    x = torch.randn(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in ("resnet18.pth", "own.pth"):
        model = wb.load_model("tsn/resnet18", checkpoint=tmp_path / name, device="cpu")
        with torch.no_grad():
            torch.testing.assert_close(model.module(x), first.module.cpu()(x))
    with pytest.raises(ValueError, match="7 classes, and 2 names"):
        wb.load_model("tsn/resnet18", checkpoint=tmp_path / "own.pth", classes=["a", "b"])
    with pytest.raises(ValueError, match=r"own\.pth is no checkpoint of TSN"):
        wb.load_model("tsn/resnet34", checkpoint=tmp_path / "own.pth")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "tsm"}, "network 'tsm'"),
        ({"modality": "Flow"}, "modality 'Flow'"),
        ({"consensus_type": "max"}, "consensus 'max'"),
        ({"arch": "BNInception"}, "load_model.'tsn/bninception'"),
    ],
)
def test_checkpoints_of_other_kinds_are_refused(changes, told, tmp_path):
    torch.save({**epic55(), **changes}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=told):
        wb.load_model("tsn/resnet18", checkpoint=tmp_path / "other.pth")


def test_new_heads_and_names_that_fit_them():
    heads = {"verb": 2, "noun": 3}
    names = {"verb": ["cut", "stir"], "noun": ["pan", "pot", "lid"]}
    model = wb.load_model(
        "tsn/resnet18", weights=None, heads=heads, classes=names, device="cpu", segments=4
    )
    assert model.input.frames == model.module.segments == 4
    for classes, told in (
        (["a", "b"], "verb, noun: give class names as a dict by head, got 2 names"),
        ({"verb": ["cut"]}, "verb of resnet18 has 2 classes, and 1 names"),
        ({"verbs": ["cut"]}, "a dict of verbs"),
    ):
        with pytest.raises(ValueError, match=told):
            wb.load_model("tsn/resnet18", weights=None, heads=heads, classes=classes)
    with pytest.raises(ValueError, match="one head"):
        wb.load_model("tsn/resnet18", weights=None, classes=names)


def test_a_tsn_of_a_picture_network_has_imagenet_s_names(hub):
    model = wb.load_model("tsn/resnet18", weights=None, device="cpu")
    assert model.classes[0] == "tench"
    assert (
        len(wb.load_model("tsn/resnet18", weights=None, classes=list("ab"), device="cpu").classes)
        == 2
    )
    for name in ("tsn/resnet18", "tsn/bninception"):
        with pytest.raises(FileNotFoundError, match="checkpoint="):
            wb.load_model(name)


def test_timm_s_networks_come_with_their_own_input(monkeypatch):
    timm = pytest.importorskip("timm")
    model = wb.load_model("tsn/timm/resnet10t", weights=None, device="cpu")
    told = timm.get_pretrained_cfg("resnet10t")
    assert model.input.crop == told.input_size[-1]
    assert model.input.mean == tuple(told.mean)
    assert len(model.classes) == 1000

    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        FileNotFoundError, match=r"huggingface\.co/timm/resnet10t\.\w+ .*checkpoint="
    ):
        wb.load_model("tsn/timm/resnet10t")


def changed(content, value, *keys):
    """The checkpoint with one entry of its layout replaced, or removed if the value is ...."""
    inside = content
    for key in keys[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[keys[-1]]
    else:
        inside[keys[-1]] = value
    return content


DATA = ("hyper_parameters", "data")
PICTURES = (*DATA, "preprocessing")


@pytest.mark.parametrize(
    ("make", "value", "keys", "told"),
    [
        (epic55, "eight", ("segment_count",), "segment_count from 1"),
        (epic55, 0, ("segment_count",), "segment_count from 1"),
        (epic55, True, ("segment_count",), "segment_count from 1"),
        (epic55, 10**400, ("segment_count",), "segment_count from 1"),
        (epic55, ["resnet18"], ("arch",), "backbone's name"),
        (epic55, {1: 2}, ("modality",), "modality"),
        (epic55, [1], ("hyper_parameters",), "hyper_parameters to be a dict"),
        (epic55, torch.tensor(1.0), ("state_dict", "fc_verb.weight"), "fc_verb.weight has the shape"),
        (epic55, torch.zeros(0, 512), ("state_dict", "fc_noun.weight"), "fc_noun.weight has the shape"),
        (epic55, ..., ("state_dict", "fc_noun.bias"), "1 missing: fc_noun.bias"),
        (epic55, torch.zeros(2, 512), ("state_dict", "fc_.weight"), "heads named"),
        (epic55, torch.zeros(2, 512), ("state_dict", "fc_a.b.weight"), "heads named"),
        (epic100, 5, DATA, "data to be a dict"),
        (epic100, [1], PICTURES, "preprocessing to be a dict"),
        (epic100, "x", (*DATA, "test_augmentation"), "test_augmentation to be a dict"),
        (epic100, None, (*DATA, "frame_count"), "frame_count from 1"),
        (epic100, -8, (*DATA, "frame_count"), "frame_count from 1"),
        (epic100, "224", (*PICTURES, "input_size"), "input_size from 1"),
        (epic100, 1e9, (*PICTURES, "scale_size"), "scale_size from 1"),
        (epic100, None, (*PICTURES, "mean"), "mean to be three numbers"),
        (epic100, [0.5, 0.5], (*PICTURES, "mean"), "mean to be three numbers"),
        (epic100, ["a", "b", "c"], (*PICTURES, "std"), "std to be three numbers"),
        (epic100, [0.5, 0.5, 0], (*PICTURES, "std"), "std positive"),
        (epic100, [0.5, float("nan"), 0.5], (*PICTURES, "std"), "three numbers"),
        (epic100, [0.5, 10**400, 0.5], (*PICTURES, "std"), "three numbers"),
        (epic100, 3, ("hyper_parameters", "model", "backbone"), "backbone's name"),
        (epic100, ..., ("state_dict", "model.new_fc.bias"), "expected new_fc.bias with 397 rows"),
        (epic100, torch.tensor(0.0), ("state_dict", "model.new_fc.bias"), "new_fc.bias with 397"),
        (epic100, torch.zeros(3, 512), ("state_dict", "model.new_fc.bias"), "new_fc.bias with 397"),
        (epic100, torch.tensor(0.0), ("state_dict", "model.new_fc.weight"), "new_fc.weight has"),
    ],
)  # fmt: skip
def test_malformed_epic_layouts_are_refused_with_the_path(make, value, keys, told, tmp_path):
    torch.save(changed(make(), value, *keys), tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match=rf"odd\.ckpt.*{told}"):
        wb.load_model("tsn/resnet18", checkpoint=tmp_path / "odd.ckpt", device="cpu")


def test_a_layout_says_what_it_found(tmp_path):
    path = Path(tmp_path / "tsn.pth")
    torch.save(epic55(), path)
    layout = read_tsn_checkpoint(path)
    assert layout.heads == {"verb": 125, "noun": 352}
    assert layout.backbone == "resnet18"
    assert layout.input == {"frames": 8, "resize": 256, "crop": 224}
