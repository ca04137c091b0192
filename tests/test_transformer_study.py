"""Small transformers on gratings: the clips, the recipe, the shipped weights and the record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.datasets import gratings
from workbench.models.networks.small_video import SIDE, SMALL_VIDEO
from workbench.studies import transformer_study as study
from workbench.training import small_transformers as small

pytest.importorskip("transformers")
BASELINES = {"centre of the middle frame", "centre Gaussian", "frame difference", "random voxel"}


@pytest.fixture(scope="module")
def drawn() -> gratings.Gratings:
    return gratings.draw_gratings(60, np.random.default_rng(0))


def test_a_clip_is_its_seed() -> None:
    one, again, other = (
        gratings.draw_gratings(3, np.random.default_rng(seed)).frames for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_stripes_run_as_their_class_says(drawn: gratings.Gratings) -> None:
    seen = set()
    for frames, classes, boxes, intervals in zip(
        drawn.frames, drawn.classes, drawn.boxes, drawn.intervals
    ):
        for class_id, (x0, y0, x1, y1), (first, last) in zip(classes, boxes, intervals):
            if class_id < 0:
                continue
            box = frames[first:last, y0:y1, x0:x1].astype(float).mean(-1)
            # Neighbours in the direction of the stripes are alike, across them they are not.
            steps = {
                "horizontal": np.abs(np.diff(box, axis=2)).mean(),
                "vertical": np.abs(np.diff(box, axis=1)).mean(),
                "rising": np.abs(box[:, 1:, :-1] - box[:, :-1, 1:]).mean(),
                "falling": np.abs(box[:, 1:, 1:] - box[:, :-1, :-1]).mean(),
            }
            name = gratings.GRATINGS[class_id]
            seen.add(name)
            if name != "checkered":
                assert min(steps, key=steps.__getitem__) == name
            else:
                assert min(steps["horizontal"], steps["vertical"]) > 10
    assert seen == set(gratings.GRATINGS)


def test_pairs_share_neither_pixel_nor_frame(drawn: gratings.Gratings) -> None:
    pairs = np.flatnonzero(drawn.classes[:, 1] >= 0)
    assert 15 < len(pairs) < 45
    shown = np.zeros((2, *drawn.frames.shape[1:4]), dtype=bool)
    for row in pairs:
        shown[:] = False
        for volume, (x0, y0, x1, y1), (first, last) in zip(
            shown, drawn.boxes[row], drawn.intervals[row]
        ):
            volume[first:last, y0:y1, x0:x1] = True
        assert shown.any((1, 2, 3)).all()
        assert not (shown[0].any((1, 2)) & shown[1].any((1, 2))).any()
        assert not (shown[0].any(0) & shown[1].any(0)).any()
    assert set(drawn.targets()[pairs].max(1)) == {0.5}


def test_eight_frames_keep_boxes_and_times() -> None:
    data = gratings.grating_clips(4, 3)
    whole, half = data[0], data.read(0, frames=8)
    assert (len(whole), len(half)) == (16, 8)
    kept = np.searchsorted(whole.times, half.times)
    np.testing.assert_array_equal(half.boxes, whole.boxes[kept])


def test_training_is_repeated_by_its_seed_and_saved_in_half_precision(tmp_path: Path) -> None:
    model, losses = small.train_small_transformer("VideoMAE, mean", steps=3, progress=False)
    _, same = small.train_small_transformer("VideoMAE, mean", steps=3, progress=False)
    assert losses == same
    start = small.small_transformer("VideoMAE, mean", trained=False)
    weight = "classifier.weight"
    assert not torch.equal(model.module.state_dict()[weight], start.module.state_dict()[weight])
    file = small.save_weights(model, tmp_path, "net", half=True)
    assert file.stat().st_size < 2.2 * sum(p.numel() for p in model.module.parameters())
    assert json.loads(file.with_suffix(".json").read_text())["classes"] == list(gratings.GRATINGS)


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match="there are VideoMAE, mean"):
        small.small_transformer("VideoMAE")
    monkeypatch.setattr(small, "TRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match='train-transformers "ViViT"'):
        small.small_transformer("ViViT")
    (tmp_path / "vivit.safetensors").write_bytes(b"cut")
    (tmp_path / "vivit.json").write_text('{"sha256": ""}')
    with pytest.raises(ValueError, match="damaged"):
        small.small_transformer("ViViT")


def test_all_families_are_shipped() -> None:
    assert set(small.trained_families()) == set(SMALL_VIDEO)


@pytest.mark.parametrize("family", small.trained_families())
def test_shipped_networks_name_unseen_clips(family: str) -> None:
    record = json.loads((small.TRAINED / f"{small.file_name(family)}.json").read_text())
    assert record["named"] >= 0.95
    assert small.share_named(small.small_transformer(family), 40)["named"] >= 0.9


def test_the_record_holds_every_method_on_a_hundred_clips() -> None:
    record = study.recorded_transformers()
    assert set(record["family"]) == set(SMALL_VIDEO)
    clips = record.groupby(["family", "method"])["clip"].nunique().unstack()
    cheap = ["default", "default, absent class", "random weights", *BASELINES]
    assert (clips[cheap] >= 100).all(axis=None)
    assert (clips[list(study.COSTLY)] >= study.COSTLY_CLIPS).all(axis=None)
    assert record.groupby(["family", "clip"])["pair"].first().mean() > 0.4


@pytest.mark.parametrize("family", SMALL_VIDEO)
def test_the_default_points_or_the_screen_says_what_does(family: str) -> None:
    rows = study.recorded_transformers()
    rows = rows[rows["family"] == family]
    mean = study.pointing_table(rows).loc[family]["mean"]
    assert mean["relevance"] >= 0.9
    if mean["default"] >= 0.9:
        return
    model = small.small_transformer(family)
    ex = wb.explain(model, model.input.view(study.study_clips(1)[0]))
    assert 'attention mixes its voxels: weights="relevance" points better' in ex.how


def test_measuring_again_gives_the_record() -> None:
    family = "VideoMAE, mean"
    rows = study.measure_family(family, 2, costly_clips=0, layers=0, progress=False)
    record = study.recorded_transformers()
    record = record[(record["family"] == family) & record["clip"].isin(rows["clip"])]
    keys = ["clip", "actor", "method"]
    both = rows.merge(record, on=keys, suffixes=("", " then"))
    assert len(both) == len(rows)
    assert (both["points near"] == both["points near then"]).mean() > 0.95


def test_intervals_have_a_width_where_all_clips_hit() -> None:
    rows = study.measure_family("VideoMAE, mean", 2, costly_clips=0, layers=0, progress=False)
    rows = rows.assign(**{"points near": True})
    table = study.pointing_table(rows)
    assert (table["mean"] == 1).all()
    assert (table["low"] < 0.5).all()
    assert (table["clips"] == 2).all()


def test_a_folder_of_save_pretrained_all_the_way(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = small.small_transformer("VideoMAE, mean")
    network.module.save_pretrained(tmp_path / "saved")
    processor = transformers.VideoMAEImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    processor.save_pretrained(tmp_path / "saved")
    model = wb.load_model(f"hf/{tmp_path / 'saved'}", device="cpu")
    assert model.classes == list(gratings.GRATINGS)
    data = gratings.grating_clips(3, 5)
    clip = data[0]
    ex = wb.explain(model, clip)
    expected = wb.explain(network, clip)
    torch.testing.assert_close(ex.logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert ex.exact
    app = wb.explore(ex)
    app.target.value = gratings.GRATINGS.index(clip.label)
    page = wb.save_page(app, tmp_path / "tube.html")
    app.close()
    assert page.stat().st_size > 10_000
    store = wb.sweep(data, model, tmp_path / "store", progress=False)
    assert len(store.index) == 3
    kept = store[clip.name].tube(clip.label)
    np.testing.assert_allclose(kept.map, ex.tube(clip.label).map, atol=2e-2 * np.ptp(kept.map))
