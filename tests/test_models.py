"""MFNet-3D as published, checkpoints good and bad, and how clips become inputs."""

from __future__ import annotations

import argparse
import json
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import workbench as wb
from workbench.models.checkpoints import load_strictly, read_checkpoint, read_file
from workbench.models.networks.mfnet import MFNet3d
from workbench.training.run_checkpoints import read_state

REFERENCE = Path(__file__).parent / "reference" / "mfnet3d_state_dict.json"
SMALL = dict(widths=(8, 16, 16, 16, 16), units=(1, 1, 1, 1), groups=4)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file in the layout of the published checkpoints, with 5 classes."""
    torch.manual_seed(0)
    module = MFNet3d(5)
    path = tmp_path_factory.mktemp("checkpoints") / "mfnet3d.pth"
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    torch.save(
        {"epoch": 3, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path
    )
    return path, module


def test_mfnet_has_the_published_names_and_shapes():
    expected = json.loads(REFERENCE.read_text())
    state = MFNet3d(400).state_dict()
    assert len(expected) == 421
    assert {name: list(value.shape) for name, value in state.items()} == expected


def test_mfnet_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in MFNet3d(400).parameters()) == 7_996_368


def test_mfnet_gives_the_published_map_size():
    module = MFNet3d(4).eval()
    maps = []
    module.tail.register_forward_hook(lambda *args: maps.append(tuple(args[2].shape)))
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 16, 224, 224)).shape == (1, 4)
    assert maps == [(1, 768, 8, 7, 7)]


def test_mfnet_s_last_stage_without_stride_has_finer_maps():
    for stride, size in ((2, 2), (1, 4)):
        module = MFNet3d(4, **SMALL, last_stride=stride).eval()
        x = module.conv4(
            module.conv3(module.conv2(module.maxpool(module.conv1(torch.zeros(1, 3, 4, 64, 64)))))
        )
        assert module.conv5(x).shape[-1] == size


def test_mfnet_refuses_widths_that_do_not_split():
    with pytest.raises(ValueError, match="groups"):
        MFNet3d(4, widths=(8, 18, 16, 16, 16), units=(1, 1, 1, 1), groups=4)


def test_published_layout_loads_strictly_and_gives_the_same_logits(published):
    path, module = published
    model = wb.load_model("mfnet3d", checkpoint=path, device="cpu")
    assert model.module.classifier.out_features == 5
    assert model.input == wb.InputSpec(
        frames=16, resize=(256, 256), crop=224, stride=2, mean=model.input.mean, std=model.input.std
    )
    x = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.module(x), module.eval()(x))


def test_bare_and_safetensors_checkpoints_load_too(published, tmp_path):
    _, module = published
    torch.save(module.state_dict(), tmp_path / "bare.pt")
    safetensors.torch.save_file(module.state_dict(), tmp_path / "bare.safetensors")
    for name in ("bare.pt", "bare.safetensors"):
        model = wb.load_model(
            "mfnet3d", checkpoint=str(tmp_path / name), classes=list("abcde"), device="cpu"
        )
        assert model.classes == list("abcde")


def test_another_network_s_checkpoint_is_refused_with_what_is_missing_and_extra(tmp_path):
    torch.save(
        {"fc.weight": torch.zeros(2, 2), "conv1.conv.weight": torch.zeros(1)},
        tmp_path / "other.pth",
    )
    with pytest.raises(
        ValueError, match=r"other\.pth.*420 missing.*1 extra: fc\.weight.*1 other shape: conv1"
    ):
        wb.load_model("mfnet3d", checkpoint=tmp_path / "other.pth")


def test_bad_checkpoints_are_refused(published, tmp_path):
    path, module = published
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        wb.load_model("mfnet3d", checkpoint=tmp_path / "nowhere.pth")
    for name, content in (
        ("empty.pth", b""),
        ("text.pth", b"no checkpoint"),
        ("text.safetensors", b"no"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            wb.load_model("mfnet3d", checkpoint=tmp_path / name)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.pth"):
        wb.load_model("mfnet3d", checkpoint=tmp_path / "cut.pth")
    state = module.state_dict()
    state["classifier.weight"] = state["classifier.weight"].clone().fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"nan\.pth.*NaN.*classifier\.weight"):
        wb.load_model("mfnet3d", checkpoint=tmp_path / "nan.pth")
    with pytest.raises(ValueError, match="5 classes, and 2 names"):
        wb.load_model("mfnet3d", checkpoint=path, classes=["a", "b"])


class Evil:
    """What a pickle can do: leave a file behind where it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w')",))


def evil_files(folder, content):
    with open(folder / "bare.pth", "wb") as file:
        pickle.dump(content, file, protocol=2)
    torch.save(content, folder / "zip.pth")
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return [folder / name for name in ("bare.pth", "zip.pth", "legacy.pth")]


@pytest.mark.parametrize("inside", ["state_dict", "args"])
def test_a_checkpoint_runs_no_code(inside, tmp_path):
    mark, weight = tmp_path / "ran", {"weight": torch.zeros(1)}
    evil = Evil(mark) if inside == "state_dict" else argparse.Namespace(lr=0.1, more=Evil(mark))
    for path in evil_files(
        tmp_path, {inside: evil, "state_dict" if inside == "args" else "more": weight}
    ):
        with pytest.raises(
            ValueError,
            match=rf"{path.name} needs (\w+\.)?exec, .*argparse\.Namespace.*save the weights alone",
        ):
            read_checkpoint(path)
        assert not mark.exists()


class Sneaky(argparse.Namespace):
    """Not the type that is let through, but one made from it."""


def test_exactly_argparse_s_namespace_is_let_through_and_only_here(tmp_path):
    before = torch.serialization.get_safe_globals()
    content = {
        "state_dict": {"weight": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1, steps=[20, 40], arch="r50"),
    }
    for legacy in (False, True):
        torch.save(content, tmp_path / "epic.pth.tar", _use_new_zipfile_serialization=not legacy)
        assert read_checkpoint(tmp_path / "epic.pth.tar")["weight"].tolist() == [1, 1]
        assert read_file(tmp_path / "epic.pth.tar")["args"].steps == [20, 40]
    for args, told in (
        (Sneaky(a=1), "Sneaky"),
        (argparse.HelpFormatter("x"), "HelpFormatter"),
        (Path("x"), "Path"),
    ):
        torch.save({**content, "args": args}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=rf"other\.pth needs [\w.]*{told}"):
            read_checkpoint(tmp_path / "other.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"whole\.pth needs torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "whole.pth")
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"model_state": state},
        lambda state: {"model_state_dict": state, "loss": 0.1},
        lambda state: {"model": {"state_dict": state}, "optimizer": {}},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: OrderedDict(state),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_are_found_however_they_are_wrapped(wrap, legacy, tmp_path):
    state = {"module_a.weight": torch.ones(2), "b.bias": torch.zeros(3)}
    torch.save(wrap(state), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(tmp_path / "w.pth")
    assert {name: value.tolist() for name, value in found.items()} == {
        "module_a.weight": [1, 1],
        "b.bias": [0, 0, 0],
    }


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, {}, torch.ones(2), {"a": {"b": 1}}]
)
def test_files_without_a_state_dict_say_so(content, tmp_path):
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"none\.pth holds no state dict"):
        read_checkpoint(tmp_path / "none.pth")


def test_files_cut_anywhere_are_refused(tmp_path):
    state = {"a": torch.randn(300), "b": torch.randn(20)}
    for legacy in (False, True):
        torch.save(state, tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
        whole = (tmp_path / "whole.pth").read_bytes()
        for length in range(0, len(whole) - 1, 97):
            (tmp_path / "cut.pth").write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"cut\.pth"):
                read_checkpoint(tmp_path / "cut.pth")


def test_the_oldest_tar_format_is_refused_with_a_reason(tmp_path):
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            (tmp_path / name).write_bytes(pickle.dumps(0))
            tar.add(tmp_path / name, name)
    with pytest.raises(ValueError, match=r"old\.tar .*tar"):
        read_checkpoint(tmp_path / "old.tar")


def test_batch_counts_may_be_missing_as_in_old_files(published, tmp_path):
    _, module = published
    state = {
        name: value for name, value in module.state_dict().items() if "num_batches" not in name
    }
    torch.save(state, tmp_path / "old.pth")
    model = wb.load_model("mfnet3d", checkpoint=tmp_path / "old.pth", device="cpu")
    assert torch.equal(model.module.classifier.weight, module.classifier.weight)


class Doubles(torch.nn.Module):
    """A network with a weight of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1, bias=False)
        self.register_buffer("count", torch.tensor(0))


def loaded(**state):
    """The weights of `Doubles` after loading."""
    module = Doubles()
    load_strictly(
        module, {"layer.weight": torch.ones(1, 2), "count": torch.tensor(7), **state}, "x.pth"
    )
    return module.layer.weight.tolist()[0], int(module.count)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_another_float_precision_are_converted(dtype):
    weight = torch.tensor([[0.5, -1.25]], dtype=dtype)
    assert loaded(**{"layer.weight": weight, "count": torch.tensor(9, dtype=torch.int32)}) == (
        [0.5, -1.25],
        9,
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("layer.weight", torch.tensor([[1, 2**25 + 1]], dtype=torch.int32), "layer.weight torch.int32, expected torch.float32"),
        ("layer.weight", torch.tensor([[1 + 2j, 3]]), "layer.weight torch.complex64, expected torch.float32"),
        ("layer.weight", torch.tensor([[True, False]]), "torch.bool"),
        ("layer.weight", torch.tensor([[1e300, 1]], dtype=torch.float64), "out of range as torch.float32: 1 in: layer.weight"),
        ("layer.weight", torch.tensor([[float("inf"), 1]]), "infinite .* layer.weight"),
        ("count", torch.tensor(1.5), "count torch.float32, expected torch.int64"),
    ],
)  # fmt: skip
def test_weights_that_would_change_when_converted_are_refused(name, value, told):
    with pytest.raises(ValueError, match=f"x.pth .*{told}"):
        loaded(**{name: value})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda w: {1: w}, "the key 1, which is not a text"),
        (lambda w: {"weight": w, None: w}, "the key None"),
        (lambda w: {"weight": w.to_sparse()}, "'weight' is a sparse or nested tensor"),
        (lambda w: {"weight": torch.nested.nested_tensor([w, w])}, "sparse or nested"),
        (lambda w: {"weight": w.to("meta")}, "without values"),
        (lambda w: {"weight": torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)}, "quantised"),
        (lambda w: {"weight": torch.zeros(1).expand(10**12)}, "fewer values"),
        (lambda w: {"weight": w, "epoch": 3}, "'epoch' is a int"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_state_dict_of_anything_but_dense_tensors_with_text_names_is_refused(
    make, told, tmp_path
):
    torch.save(make(torch.ones(2, 2)), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=rf"odd\.pth.*{told}"):
        read_checkpoint(tmp_path / "odd.pth")


@pytest.mark.timeout(10)
def test_a_checkpoint_that_contains_itself_is_refused(tmp_path):
    content = {"weight": torch.ones(1)}
    content["state_dict"] = content
    inner = {"model": {}}
    inner["model"]["state_dict"] = inner
    for name, cycle in (("self.pth", content), ("pair.pth", inner)):
        torch.save(cycle, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} .*contains itself"):
            read_checkpoint(tmp_path / name)


def test_no_error_repeats_torch_s_advice_to_load_any_code(tmp_path):
    """torch advises `weights_only=False`, which runs the code in the file."""
    files = evil_files(tmp_path, {"state_dict": Evil(tmp_path / "ran")})
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "junk.pth").write_bytes(b"\x80\x02}q\x00(X\xff")
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            (tmp_path / name).write_bytes(pickle.dumps(0))
            tar.add(tmp_path / name, name)
    for path in (
        *files,
        *(tmp_path / name for name in ("whole.pth", "text.pth", "junk.pth", "old.tar")),
    ):
        for read in (read_checkpoint, lambda path: read_state(path, set())):
            with pytest.raises(ValueError, match=path.name) as caught:
                read(path)
            assert "weights_only" not in str(caught.value)
            assert "arbitrary code" not in str(caught.value)
    assert "save the weights alone: torch.save(network.state_dict(), " in str(caught.value)


def test_mfnet_is_fed_as_its_authors_feed_it():
    """(x - (124, 117, 104)) * 0.0167 for x up to 255, by pencil and paper."""
    spec = wb.load_model("mfnet3d", classes=["a"], device="cpu").input
    for pixel, expected in (
        ((124, 117, 104), (0, 0, 0)),
        ((224, 217, 204), (1.67, 1.67, 1.67)),
        ((24, 0, 254), (-1.67, -1.9539, 2.505)),
    ):
        frames = np.full((16, 256, 256, 3), pixel, dtype=np.uint8)
        x = spec.tensor(spec.view(wb.Clip(frames, 25.0)))
        assert x.shape == (1, 3, 16, 224, 224)
        assert x[0, :, 8, 100, 100].tolist() == pytest.approx(expected, abs=1e-5)


def test_unknown_model_lists_the_known():
    with pytest.raises(KeyError, match="samples/mfnet"):
        wb.load_model("resnet")
    assert "mfnet3d" in wb.list_models().index


def test_wrap_model_refuses_what_is_no_network():
    with pytest.raises(TypeError, match="Module"):
        wb.wrap_model(lambda x: x)
    with pytest.raises(ValueError, match="list of names"):
        wb.wrap_model(MFNet3d(2, **SMALL), classes="ab")
    with pytest.raises(KeyError, match="tail"):
        wb.wrap_model(MFNet3d(2, **SMALL), layer="tial")


def clip_of(frames=4, height=20, width=40):
    rng = np.random.default_rng(0)
    return wb.Clip(rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), 25.0)


def test_input_is_normalised_by_channel_and_reversible():
    spec = wb.InputSpec(frames=4, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    clip = clip_of()
    x = spec.tensor(spec.view(clip))
    assert x.shape == (1, 3, 4, 20, 40)
    red, _, blue = clip.frames[2, 5, 7] / 255
    assert float(x[0, 0, 2, 5, 7]) == pytest.approx((red - 0.5) / 0.5, abs=1e-6)
    assert float(x[0, 2, 2, 5, 7]) == pytest.approx(blue / 2, abs=1e-6)
    np.testing.assert_array_equal(spec.picture(x), clip.frames)


def test_a_number_resizes_the_short_side_and_a_pair_squashes():
    assert wb.InputSpec(frames=4, resize=10).view(clip_of()).size == (10, 20)
    assert wb.InputSpec(frames=4, resize=(10, 10)).view(clip_of()).size == (10, 10)
    assert wb.InputSpec(frames=4, resize=10, crop=8).view(clip_of()).size == (8, 8)


def test_the_crop_is_the_centre():
    clip = clip_of()
    np.testing.assert_array_equal(
        wb.InputSpec(frames=4, crop=10).view(clip).frames, clip.frames[:, 5:15, 15:25]
    )


def test_longer_clips_are_sampled_and_shorter_ones_refused():
    assert wb.InputSpec(frames=4, stride=2).view(clip_of(frames=9)).indices.tolist() == [1, 3, 5, 7]
    assert wb.InputSpec(frames=4).view(clip_of(frames=9)).indices.tolist() == [0, 2, 5, 8]
    with pytest.raises(ValueError, match="16 are asked for"):
        wb.InputSpec(frames=16).view(clip_of(frames=9))
    with pytest.raises(ValueError, match="resize"):
        wb.InputSpec(frames=4, crop=224).view(clip_of())


def test_the_shipped_network_loads_and_is_what_was_recorded(tmp_path, monkeypatch):
    model = wb.load_model("samples/mfnet", device="cpu")
    assert tuple(model.classes) == wb.samples.CLASSES
    assert not model.module.training
    from workbench.models import zoo

    for file in zoo.WEIGHTS.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with open(tmp_path / "mfnet.safetensors", "ab") as file:
        file.write(b"x")
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="SHA-256"):
        wb.load_model("samples/mfnet")
