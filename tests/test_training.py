"""Training on drawn clips, what is shipped of it, and how it is measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.datasets import samples
from workbench.datasets.samples import draw_scene
from workbench.studies.evaluation import summary
from workbench.studies.randomisation import randomised
from workbench.training import sample_networks
from workbench.training.sample_networks import (
    RECIPE,
    Stage,
    record,
    sample_batches,
    save_weights,
    small_mfnet,
    train_on_samples,
)

TINY = Stage(pixels=32, steps=3, batch=2, rate=1e-3)


def test_batches_are_fresh_reproducible_and_labelled():
    first = next(iter(sample_batches(Stage(32, 1, 8, 1e-3, mix={"pair": 1.0}), workers=0)))
    again = next(iter(sample_batches(Stage(32, 1, 8, 1e-3, mix={"pair": 1.0}), workers=0)))
    other = next(
        iter(sample_batches(Stage(32, 1, 8, 1e-3, mix={"pair": 1.0}), first_seed=8, workers=0))
    )
    assert first[0].shape == (8, 16, 32, 32, 3)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert (first[1] == 0.5).sum(1).tolist() == [2] * 8  # two actions, half a label each
    (single,) = [next(iter(sample_batches(Stage(32, 1, 8, 1e-3, mix={"edge": 1.0}), workers=0)))[1]]
    assert (single == 1).sum(1).tolist() == [1] * 8


def test_workers_draw_the_same_kind_of_clips_and_none_twice():
    loader = iter(sample_batches(Stage(32, 1, 4, 1e-3), workers=2))
    frames = torch.cat([next(loader)[0] for _ in range(2)])
    assert len({clip.numpy().tobytes() for clip in frames}) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_training_clips_have_seeds_from_2_40_on_and_measured_clips_below(workers, monkeypatch):
    seeds = []

    def draw(label, seed, split):
        seeds.append(seed)
        return draw_scene(label, seed, split)

    monkeypatch.setattr(sample_networks, "draw_scene", draw)
    if workers:  # the workers' share, in this process
        info = SimpleNamespace(id=1, num_workers=workers)
        monkeypatch.setattr(sample_networks, "get_worker_info", lambda: info)
    next(iter(sample_batches(Stage(32, 1, 3, 1e-3), workers=0)))
    assert seeds == (
        [2**40, 2**40 + 1, 2**40 + 2] if not workers else [2**40 + 1, 2**40 + 3, 2**40 + 5]
    )
    assert samples.TRAINING_SEEDS == 2**40
    for split in samples.SPLITS:
        measured = samples.dataset(split, 20, seed=2**20).index["seed"]
        assert max(measured) < 2**40


def test_training_changes_the_weights_and_reports_every_step():
    torch.manual_seed(0)
    model = small_mfnet()
    before = [p.clone() for p in model.module.parameters()]
    steps = []
    trained = train_on_samples(
        model, [TINY, Stage(32, 9, 2, 1e-3, stop=2)], report=steps.append, workers=0
    )
    assert trained is model
    assert [(step["stage"], step["step"]) for step in steps] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]
    assert all(np.isfinite(step["loss"]) for step in steps)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.module.parameters()))
    assert not model.module.training


def test_training_asks_for_a_model_of_the_samples():
    model = small_mfnet()
    model.classes = ["a", "b"]
    with pytest.raises(ValueError, match="stir, shake"):
        train_on_samples(model, [TINY])


def test_saved_weights_come_back(tmp_path, monkeypatch):
    from workbench.models import zoo

    model = small_mfnet()
    save_weights(model, tmp_path, "mfnet", note="x")
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    back = wb.load_model("samples/mfnet", device="cpu")
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, back.module.state_dict()[name])


@pytest.mark.parametrize("name", ["mfnet.safetensors", "mfnet.json"])
def test_weights_that_cannot_be_written_leave_the_file_before(name, tmp_path, monkeypatch):
    save_weights(small_mfnet(), tmp_path, "mfnet")
    before = (tmp_path / name).read_bytes()
    write = {"mfnet.safetensors": "write_bytes", "mfnet.json": "write_text"}[name]

    def fail(path, content):
        path.open("wb").write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, write, fail)
    with pytest.raises(OSError, match="no space"):
        save_weights(small_mfnet(), tmp_path, "mfnet")
    assert (tmp_path / name).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"mfnet.safetensors", "mfnet.json"}


def test_a_shipped_network_is_trained_anew_and_recorded(tmp_path, monkeypatch):
    from workbench.models import zoo

    monkeypatch.setattr(sample_networks, "WEIGHTS", tmp_path)
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    monkeypatch.setitem(sample_networks.SHIPPED, "mfnet", (small_mfnet, [TINY]))
    path = sample_networks.retrain("mfnet", progress=False)
    assert path == tmp_path / "mfnet.safetensors"
    facts = record("mfnet")
    assert [stage["steps"] for stage in facts["recipe"]] == [TINY.steps]
    assert len(facts["loss_per_50_steps"]) == 1
    assert wb.load_model("samples/mfnet", device="cpu").classes == list(samples.CLASSES)
    with pytest.raises(KeyError, match="mfnet, tsn, mfnet-iid"):
        sample_networks.retrain("resnet")


def test_the_record_of_the_shipped_network_is_that_of_the_recipe():
    facts = record("mfnet")
    assert [(s["pixels"], s["steps"], s["rate"]) for s in facts["recipe"]] == [
        (s.pixels, s.steps, s.rate) for s in RECIPE
    ]
    assert set(facts["measured"]) == set(samples.SPLITS)


def test_shuffled_weights_keep_shapes_and_scale_and_lose_the_rest():
    model = wb.load_model("samples/mfnet", device="cpu")
    shuffled = randomised(model, seed=3)
    for (name, own), other in zip(
        model.module.state_dict().items(), shuffled.module.state_dict().values()
    ):
        torch.testing.assert_close(own.flatten().sort().values, other.flatten().sort().values)
        if own.numel() > 1000:
            assert not torch.equal(own, other), name
    for name, own in model.module.named_buffers():
        if name.endswith(("running_mean", "running_var")):  # statistics go with the weights
            assert not torch.equal(own, shuffled.module.get_buffer(name)), name
    assert model.module is not shuffled.module


@pytest.mark.slow
def test_the_shipped_network_finds_class_place_and_time():
    """A few unseen clips of each split; the 400 of each are in the record, and `python -m workbench evaluate`."""
    model = wb.load_model("samples/mfnet", device="cpu")
    found = {
        split: summary(wb.evaluate(model, wb.samples.dataset(split, 16, seed=5), progress=False))
        for split in ("edge", "pair")
    }
    for split in ("edge", "pair"):
        assert found[split]["accuracy"] >= 0.8
        assert found[split]["tube"] >= 0.7
        assert found[split]["random weights"] <= 0.2
    assert found["pair"]["tube"] > found["pair"]["frame difference"]


def test_evaluation_needs_clips_with_a_known_answer():
    model = small_mfnet()
    clip = wb.Clip(np.zeros((16, 32, 32, 3), dtype=np.uint8), 25.0)
    index = wb.samples.dataset("iid", 1).index
    with pytest.raises(ValueError, match="no annotated action"):
        wb.evaluate(
            model,
            wb.Dataset(index, list(samples.CLASSES), lambda row, frames, stride: clip),
            progress=False,
        )
