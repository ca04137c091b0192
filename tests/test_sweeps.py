"""The store and the sweep: what is written, read back, resumed, refused and repaired."""

from __future__ import annotations

import errno
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sweep_material import CLASSES, SPEC, clips, contents, reads, several, tiny

import workbench as wb
from workbench.saliency.explaining import explain_batch
from workbench.sweeps import engine, patterns, sweeping
from workbench.sweeps.index_files import GATHERED, SHARDS, Index, shard_rows
from workbench.sweeps.shards import Kept, pack, thumbnails
from workbench.sweeps.store import StoreError


def swept(path: Path, count: int = 10, model: wb.VideoModel | None = None, **options):  # type: ignore[no-untyped-def]
    options = {"batch": 4, "progress": False} | options
    return wb.sweep(clips(count), model or tiny(), path, **options)


def shard_files(store: Path, ending: str = "zip") -> list[Path]:
    return sorted((store / SHARDS).glob(f"*.{ending}"))


def test_a_tube_from_the_store_is_the_tube(tmp_path: Path) -> None:
    data, model = clips(10), tiny()
    half = swept(tmp_path / "half")
    full = swept(tmp_path / "full", full=True)
    names = data.index.index
    for start in range(0, 10, 4):
        batch = [data.read(name) for name in names[start : start + 4]]
        for name, direct in zip(names[start : start + 4], explain_batch(model, batch)):
            for target, tau in ((None, None), ("c", 0.05), (7, -0.1)):
                expected = direct.tube(target, tau=tau)
                exact = full[name].tube(target, tau=tau)
                close = half[name].tube(target, tau=tau)
                np.testing.assert_array_equal(exact.volume, expected.volume)
                np.testing.assert_array_equal(close.times, expected.times)
                np.testing.assert_array_equal(close.channels, expected.channels)
                span = np.ptp(expected.volume)
                assert np.abs(close.volume - expected.volume).max() < 2e-3 * span
            assert half[name].how == full[name].how == direct.how
            np.testing.assert_array_equal(half[name].logits, direct.logits)


def test_every_output_comes_back_with_its_proofs(tmp_path: Path) -> None:
    data, model = clips(4), several()
    store = wb.sweep(data, model, tmp_path / "store", batch=4, full=True, progress=False)
    batch = [data.read(name) for name in data.index.index]
    for name, direct in zip(data.index.index, explain_batch(model, batch)):
        ex = store[name]
        assert ex.output == direct.output == "verb"
        assert ex.outputs == direct.outputs == ("manner", "verb", "noun")
        for output in ex.outputs:
            kept, expected = ex.select(output), direct.select(output)
            assert kept.how == expected.how
            assert kept.place == expected.place == 1.0
            assert kept.exact == expected.exact == (output != "manner")
            assert kept.classes == expected.classes
            torch.testing.assert_close(kept.probabilities, expected.probabilities, rtol=0, atol=0)
            classes = range(len(kept.classes)) if kept.exact else [expected.class_id()]
            for target in classes:  # those behind a LayerNorm are all there, too
                tube = kept.tube(target, tau=0.01)
                np.testing.assert_array_equal(
                    tube.volume, expected.tube(target, tau=0.01).volume, output
                )
        row = store.index.loc[name]
        noun = direct.select("noun")
        assert row["prediction_noun"] == noun.classes[noun.class_id()]
        assert row["probability_noun"] == pytest.approx(float(noun.probabilities.max()))
        assert set(store.read(name).arrays) >= {"maps_0", "0.class_ids", "2.means"}
        assert "2.maps_0" not in store.read(name).arrays  # kept once
    assert "other_predictions" not in store.index


@pytest.mark.parametrize("scale", [1e7, 1e-7])
def test_maps_beyond_half_precision_are_kept_in_full(tmp_path: Path, scale: float) -> None:
    model = tiny()
    with torch.no_grad():
        for parameter in model.network.conv.parameters():  # type: ignore[union-attr]
            parameter *= scale
        model.network.head.weight /= scale  # type: ignore[union-attr, operator]
    store = swept(tmp_path / "store", 2, model)
    expected = wb.explain(model, clips().read("clip_001")).tube().volume
    difference = np.abs(store["clip_001"].tube().volume - expected).max()
    assert difference < 2e-3 * np.ptp(expected)


def test_a_batched_explanation_is_a_single_one(tmp_path: Path) -> None:
    store = swept(tmp_path / "store", full=True)
    for name in ("clip_000", "clip_005"):
        alone = wb.explain(tiny(), clips().read(name))
        torch.testing.assert_close(store[name].maps[0], alone.maps[0])
        torch.testing.assert_close(store[name].logits, alone.logits)


def test_on_a_processor_a_batch_passes_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = swept(tmp_path / "whole", 10, batch=8, full=True)
    model = tiny()
    input_bytes = model.prepare(clips(1).read(clips(1).index.index[0]))[1].nbytes
    monkeypatch.setattr(engine, "ON_A_PROCESSOR", 3 * input_bytes)
    passes: list[int] = []
    run = wb.VideoModel.run

    def counted(self: wb.VideoModel, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        passes.append(len(x))
        return run(self, x, *args, **options)

    monkeypatch.setattr(wb.VideoModel, "run", counted)
    pieces = swept(tmp_path / "pieces", 10, batch=8, full=True)
    batches = [size for size in passes if size > 1]
    assert sorted(batches) == [2, 2, 3, 3]  # of eight clips and of two
    assert pieces.index.index.equals(whole.index.index)
    for name in whole.index.index:
        np.testing.assert_allclose(pieces[name].activations, whole[name].activations, rtol=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_workers_keep_the_memory_that_a_layer_frees() -> None:
    code = """
import resource
import torch
from workbench.sweeps import cluster
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        torch.ones(250_000)  # 1 MB, 244 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
cluster._keep_memory()
print(faults())
"""
    settings = {"MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask starts its workers
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    anew, kept = map(int, done.stdout.split())
    assert anew > 20_000
    assert kept < 2_000


def test_index_joins_predictions_labels_and_times(tmp_path: Path) -> None:
    store = swept(tmp_path / "store")
    index = store.index
    assert index.index.tolist() == clips(10).index.index.tolist()
    assert (index["status"] == "ok").all()
    assert index["label"].tolist() == clips(10).index["class"].tolist()
    for name in store.names:
        ex = store[name]
        top = ex.top()
        row = index.loc[name]
        assert [row["prediction"], row["class_2"], row["class_5"]] == top["class"].iloc[
            [0, 1, 4]
        ].tolist()
        assert row["probability"] == pytest.approx(top["probability"].iloc[0])
        assert row["correct"] == (row["label"] == row["prediction"])
        assert (row["start"], row["stop"]) == pytest.approx((0.0, 7 / 25))
    assert len(store) == 10
    assert "clip_003" in store
    assert "clip_999" not in store
    with pytest.raises(KeyError, match="no clip 'clip_999' among the 10"):
        store["clip_999"]


def test_pictures_come_from_thumbnails_or_from_the_clip(tmp_path: Path) -> None:
    store = swept(tmp_path / "store")
    clip = clips().read("clip_001")
    seen = SPEC.view(clip)
    thumbnails = store["clip_001"].clip
    assert thumbnails.frames.shape == seen.frames.shape
    assert np.abs(thumbnails.frames.astype(float) - seen.frames).mean() < 8
    np.testing.assert_array_equal(store.explanation("clip_001", clip).clip.frames, seen.frames)
    other = wb.Clip(clip.frames, 30)
    with pytest.raises(ValueError, match="the frames that were explained as 'clip_001'"):
        store.explanation("clip_001", other)


def test_the_same_call_does_nothing_twice(tmp_path: Path) -> None:
    data = clips(10, tmp_path)
    wb.sweep(data, tiny(), tmp_path / "store", batch=4, progress=False)
    before = contents(tmp_path / "store")
    assert sorted(reads(tmp_path)) == sorted([*data.index.index, "clip_000"])  # the first is tried
    wb.sweep(data, tiny(), tmp_path / "store", batch=4, progress=False)
    assert len(reads(tmp_path)) == 11
    assert contents(tmp_path / "store") == before


def test_a_failing_clip_is_recorded_and_tried_again(tmp_path: Path) -> None:
    data = clips(10, tmp_path)
    (tmp_path / "fail_clip_002").touch()
    (tmp_path / "fail_clip_009").touch()
    path = tmp_path / "store"
    for _ in range(3):  # failures do not pile up
        store = wb.sweep(data, tiny(), path, batch=4, progress=False)
        failed = store.index[store.index["status"] == "failed"]
        assert failed.index.tolist() == ["clip_002", "clip_009"]
        assert failed["error"].iloc[0] == "ClipError: clip_002 is damaged"
        assert len(store.index) == 10
        assert len(shard_files(path, "parquet")) <= 5
    with pytest.raises(StoreError, match="clip_002 could not be explained: ClipError"):
        store["clip_002"]
    (tmp_path / "fail_clip_002").unlink()
    again = wb.sweep(data, tiny(), path, batch=4, progress=False)
    assert again.index["status"].value_counts().to_dict() == {"ok": 9, "failed": 1}
    assert sorted(again.index.index) == data.index.index.tolist()
    again["clip_002"].tube()
    assert again.verify().empty


def test_a_clip_that_the_network_refuses_fails_alone(tmp_path: Path) -> None:
    class Refusing(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if (x.mean((1, 2, 3, 4)) - bad).abs().min() < 1e-6:
                raise RuntimeError("not this one")
            return self.inner(x)

    _, x = tiny().prepare(clips().read("clip_002"))
    bad = x.mean()
    model = wb.wrap_model(Refusing(tiny().module), SPEC, CLASSES)
    store = swept(tmp_path / "store", model=model)
    assert store.index.index[store.index["status"] == "failed"].tolist() == ["clip_002"]
    assert "not this one" in store.index.at["clip_002", "error"]


def test_clips_of_several_sizes_share_a_shard(tmp_path: Path) -> None:
    data = clips(4)
    reader = data.reader

    def cropped(row: pd.Series, **request: object) -> wb.Clip:
        clip = reader(row, **request)
        return clip.crop(0, 0, 48, 40) if row["seed"] % 2 else clip

    model = tiny(spec=wb.InputSpec(frames=8))
    mixed = wb.Dataset(data.index, CLASSES, cropped)
    store = wb.sweep(mixed, model, tmp_path / "store", batch=4, progress=False, full=True)
    for name in data.index.index:
        expected = wb.explain(model, mixed.read(name)).tube().volume
        np.testing.assert_allclose(store[name].tube().volume, expected, rtol=0, atol=1e-5)
    assert len(shard_files(tmp_path / "store")) == 1


def test_nothing_to_explain_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"fail_clip_00{number}").touch()
    with pytest.raises(ValueError, match="none of 3 clips could be explained; the first: clip_000"):
        wb.sweep(clips(3, tmp_path), tiny(), tmp_path / "store", progress=False)
    with pytest.raises(ValueError, match="batch and top count from 1"):
        swept(tmp_path / "store", batch=0)


@pytest.mark.parametrize(
    ("model", "options", "differs"),
    [
        (lambda: tiny(seed=1), {}, "network"),
        (lambda: tiny(spec=wb.InputSpec(frames=8, resize=(40, 40))), {}, "input resize"),
        (tiny, {"full": True}, "precision"),
        (tiny, {"weights": "gradient"}, "weights"),
    ],
)
def test_a_store_by_another_model_is_refused(tmp_path, model, options, differs) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "store"
    swept(path)
    before = contents(path)
    with pytest.raises(
        StoreError, match=rf"store was made by another .*: {differs} is .* there, .* here\. Choose"
    ):
        swept(path, 20, model(), **options)
    assert contents(path) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"no store and not empty: it holds thesis\.tex"):
        swept(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no store at .*: wb\.sweep"):
        wb.open_store(tmp_path / "nowhere")
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        wb.open_store(tmp_path)
    for found, remedy in (("99", "upgrade the workbench"), ("1", "sweep anew into another folder")):
        (tmp_path / "store.json").write_text(f'{{"format": {found}}}')
        with pytest.raises(StoreError, match=f"has format {found}, expected 2: {remedy}"):
            wb.open_store(tmp_path)


def flip(path: Path, position: float) -> None:
    """Change a byte of a file."""
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Lose the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda path: flip(path, 0.5), "is damaged in|zip file"),
        (cut, "bytes, expected"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
        (Path.unlink, "is missing"),
    ],
    ids=["flipped", "cut", "empty", "missing"],
)
def test_a_damaged_shard_is_found_and_repaired(tmp_path, harm, problem) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "store"
    swept(path)
    before = contents(path)
    shard = shard_files(path)[1]
    harm(shard)
    store = wb.open_store(path)
    found = store.verify()
    assert found["shard"].tolist() == [shard.stem]
    assert found["clips"].tolist() == [4]
    assert pd.Series(found["problem"]).str.contains(problem).all()
    with pytest.raises(StoreError, match=rf"{shard.name} with the clips is .*store\.verify\(\)"):
        list(store.read_all(["clip_004", "clip_005", "clip_006", "clip_007"]))
    store["clip_000"].tube()
    data = clips(10, tmp_path)
    wb.sweep(data, tiny(), path, batch=4, progress=False)
    assert sorted(reads(tmp_path)) == ["clip_004", "clip_005", "clip_006", "clip_007"]
    assert contents(path) == before
    assert wb.open_store(path).verify().empty


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = swept(path)
    expected = {name: store[name].tube().volume for name in store.names}
    shard = shard_files(path)[0]
    sound = shard.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        flip(shard, rng.random())
        if wb.open_store(path).verify().empty:
            for name in store.names[:4]:
                np.testing.assert_array_equal(store[name].tube().volume, expected[name])
        shard.write_bytes(sound)


def test_damaged_index_files_are_found_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "store"
    swept(path)
    before = contents(path)
    one = shard_files(path, "parquet")[0]
    cut(one)
    (path / GATHERED).write_bytes(b"nonsense")
    store = wb.open_store(path)
    assert len(store.index) == 6
    assert store.verify()["problem"].str.contains("its index is damaged").tolist() == [True]
    swept(path)
    assert contents(path) == before
    assert len(wb.open_store(path).index) == 10


def test_the_heads_weights_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    expected = swept(path)["clip_001"].tube("c").volume
    for harm in (Path.unlink, cut):
        harm(path / "head.npz")
        with pytest.raises(
            StoreError, match=r"head\.npz, the head's weights, is missing or damaged"
        ):
            wb.open_store(path)["clip_001"]
        again = swept(path)["clip_001"].tube("c").volume
        np.testing.assert_array_equal(again, expected)


def test_what_an_interrupted_sweep_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    swept(path)
    before = contents(path)
    folder = path / SHARDS
    (folder / "00000000-0123456789ab.zip").write_bytes(b"written, and not yet indexed")
    (folder / ".00000000-0123456789ab.0a1b2c3d.part.zip").write_bytes(b"half writ")
    (path / ".index.0a1b2c3d.part.parquet").write_bytes(b"half writ")
    assert wb.open_store(path).verify().empty
    assert len(wb.open_store(path)) == 10
    swept(path)
    assert contents(path) == before
    left = {".sweep.lock", "head.npz", "index.parquet", "shards", "store.json"}
    assert {file.name for file in path.iterdir()} <= left


def test_a_sweep_that_was_killed_before_its_first_file(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    (path / ".head.0a1b2c3d.part.npz").write_bytes(b"half writ")
    assert len(swept(path)) == 10
    assert not list(path.glob(".*.part*"))


def test_data_sets_are_added(tmp_path: Path) -> None:
    path = tmp_path / "store"
    swept(path, 6)
    store = swept(path, 10)
    assert len(store) == 10
    assert store.verify().empty
    other = clips(10)
    other.index["class"] = "h"
    with pytest.raises(StoreError, match="another clip called 'clip_000', labelled 'a', not 'h'"):
        wb.sweep(other, tiny(), path, progress=False)


def test_stores_are_merged(tmp_path: Path) -> None:
    data = clips(12)
    first, second = data.index.index[:7], data.index.index[5:]
    one = wb.sweep(data.subset(first), tiny(), tmp_path / "one", batch=4, progress=False)
    two = wb.sweep(data.subset(second), tiny(), tmp_path / "two", batch=4, progress=False)
    expected = {name: two[name].tube().volume for name in second}
    one.merge(tmp_path / "two")
    merged = wb.open_store(tmp_path / "one")
    assert sorted(merged.names) == data.index.index.tolist()
    assert merged.verify().empty
    for name in second:
        np.testing.assert_array_equal(merged[name].tube().volume, expected[name])
    other = swept(tmp_path / "other", model=tiny(seed=1))
    with pytest.raises(StoreError, match="network"):
        one.merge(other)


def test_a_store_on_object_storage(tmp_path: Path) -> None:
    address = f"memory://{tmp_path.name}/store"
    store = wb.sweep(clips(6), tiny(), address, batch=4, progress=False)
    local = swept(tmp_path / "local", 6)
    assert len(wb.sweep(clips(10), tiny(), address, batch=4, progress=False)) == 10
    for name in local.names:
        np.testing.assert_array_equal(store[name].tube().volume, local[name].tube().volume)
    assert wb.open_store(address).verify().empty


def test_two_sweeps_do_not_write_at_once(tmp_path: Path) -> None:
    import filelock

    path = tmp_path / "store"
    swept(path, 4)
    with filelock.FileLock(path / ".sweep.lock"), pytest.raises(filelock.Timeout):
        swept(path, 4)
    wb.open_store(path)["clip_001"].tube()  # readers need no lock


def test_a_reader_follows_a_sweep(tmp_path: Path) -> None:
    path = tmp_path / "store"
    swept(path, 4)
    store = wb.open_store(path)
    assert len(store) == 4
    swept(path, 8)
    assert len(store) == 8
    store["clip_006"].tube()


def test_gradient_weights_of_the_top_classes(tmp_path: Path) -> None:
    model, data = tiny(linear=False), clips(6)
    store = wb.sweep(data, model, tmp_path / "store", batch=4, top=3, full=True, progress=False)
    for name in store.names:
        ex, direct = store[name], wb.explain(model, data.read(name))
        assert not ex.exact
        kept = [number for number in range(8) if number in ex.weighting.rows]
        assert len(kept) == 3
        assert data.index.at[name, "class_id"] in kept
        assert direct.class_id() in kept
        for number in kept:
            expected = direct.tube(number).volume
            span = np.ptp(expected)
            assert np.abs(ex.tube(number).volume - expected).max() <= 1e-4 * span
        other = next(number for number in range(8) if number not in kept)
        with pytest.raises(KeyError, match=f"weights of class {other} were not stored"):
            ex.tube(other)


def test_weights_for_each_voxel(tmp_path: Path) -> None:
    store = swept(tmp_path / "store", 4, weights="layer", top=2)
    direct = wb.explain(tiny(), clips().read("clip_002"), weights="layer").tube().volume
    tube = store["clip_002"].tube().volume
    assert np.abs(tube - direct).max() < 4e-3 * np.ptp(direct)


def mfnet_clip(number: int) -> Kept:
    rng = np.random.default_rng(number)
    maps = np.maximum(rng.standard_normal((768, 8, 7, 7)), 0).astype(np.float16)
    clip = wb.Clip(rng.integers(0, 255, (16, 224, 224, 3), dtype=np.uint8), 25)
    arrays = {
        "maps_0": maps, "logits": np.zeros(400, np.float32), "times": clip.times,
        "indices": clip.indices, "fps": np.array(25.0),
    }  # fmt: skip
    return Kept(f"clip_{number}", arrays, clip.size, thumbnails(clip))


def test_a_clip_takes_less_than_700_kB() -> None:
    content, addresses = pack([mfnet_clip(number) for number in range(4)])
    assert len(content) / 4 < 700e3
    assert addresses == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_a_shard_is_a_zarr_group(tmp_path: Path) -> None:
    import zarr

    store = swept(tmp_path / "store")
    group = zarr.open_group(zarr.storage.ZipStore(shard_files(tmp_path / "store")[0]), mode="r")
    assert group["0/maps_0"].shape == (4, 12, 4, 8, 8)
    assert group["0/maps_0"].dtype == np.float16
    expected = store["clip_001"].logits.numpy()
    np.testing.assert_array_equal(group["0/logits"][1], expected)


def test_a_large_index_opens_and_filters_quickly(tmp_path: Path) -> None:
    path = tmp_path / "store"
    swept(path, 4)
    table = synthetic_index(100_000)
    (path / GATHERED).write_bytes(table)
    for shard in range(12_500):
        (path / SHARDS / f"synthetic-{shard:08d}.parquet").touch()  # its rows are gathered
    times = []
    for _ in range(3):
        begin = time.process_time()  # of all threads; others on the machine do not count
        index = wb.open_store(path).index
        chosen = index[(index["prediction"] == "c") & ~index["correct"].astype(bool)]
        times.append(time.process_time() - begin)
    assert len(index) == 100_004
    assert len(chosen) > 1000
    assert min(times) < 1.0, times


def synthetic_index(count: int) -> bytes:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, count)
    predicted = np.where(rng.random(count) < 0.7, labels, rng.integers(0, 8, count))
    maps = rng.random((count, 256)).astype(np.float16)
    rows = [
        {
            "name": f"synthetic_{number:09d}", "status": "ok", "label": CLASSES[labels[number]],
            "prediction": CLASSES[predicted[number]], "probability": 0.5, "bytes": 1,
            "correct": bool(labels[number] == predicted[number]), "grid": [4, 8, 8],
            "map": maps[number], "shard": f"synthetic-{number // 8:08d}", "part": 0, "row": number % 8,
        }
        for number in range(count)
    ]  # fmt: skip
    return shard_rows(rows)


def test_the_index_is_gathered_while_a_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    store = swept(path)
    shards = {file.stem: ["a clip"] for file in shard_files(path, "parquet")}
    first, second, third = sorted(shards)
    Index(store.folder).gather(leave=shards)
    monkeypatch.setattr(sweeping, "GATHER_EVERY", 2)
    work = iter([(second, 0), (first, 0), (third, 0)])
    sweeping._follow(work, shards, store, mock.MagicMock())
    gathered = pq.read_table(path / GATHERED)["shard"].unique().to_pylist()
    assert sorted(gathered) == [first, second]
    assert len(wb.open_store(path)) == 10


def test_a_tube_is_rebuilt_quickly(tmp_path: Path) -> None:
    model = wb.load_model("samples/mfnet", device="cpu")
    data = wb.samples.shipped()
    names = data.index.index[:4]
    store = wb.sweep(data.subset(names), model, tmp_path / "store", progress=False)
    times = []
    for name in [*names] * 3:
        begin = time.process_time()
        store[name].tube()
        times.append(time.process_time() - begin)
    assert np.median(times) < 0.02, times


@pytest.fixture
def small_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    path = small_disk / "store"
    with pytest.raises(
        OSError, match=r"No space left on device\. Free some space, then make the same"
    ) as caught:
        swept(path, 60)
    assert caught.value.errno == errno.ENOSPC
    store = wb.open_store(path)
    assert 0 < len(store) < 60
    assert store.verify().empty
    store[store.names[-1]].tube()
    done = store.names
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    repaired = swept(path, 60)
    assert len(repaired) == 60
    assert set(done) <= set(repaired.names)
    assert repaired.verify().empty
    assert not [name for name in contents(path) if "part" in name]


def test_a_read_only_folder_is_refused(small_disk: Path) -> None:
    path = small_disk / "store"
    swept(path, 4)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"cannot be written\. Choose another folder"):
        swept(path, 8)
    with pytest.raises(OSError, match=r"cannot be written\. Choose another folder"):
        swept(small_disk / "other", 8)
    store = wb.open_store(path)
    assert len(store) == 4
    assert store.verify().empty


def test_provenance_is_written_first(tmp_path: Path) -> None:
    store = swept(tmp_path / "store")
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    assert facts["model"] == "tiny"
    assert facts["outputs"][0]["layer"] == store.output.layer == "relu"
    assert facts["outputs"][0]["exact"] is True
    assert facts["data"] == "noise"
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    assert len(facts["identity"]) == 64
    assert store.input == SPEC
    assert repr(store).endswith("10 clips explained by tiny, 0 failed>")


def test_shares_of_evidence_have_known_values() -> None:
    even = np.ones((3, 8, 8))
    assert patterns.centre_share(even) == pytest.approx(0.25)
    assert patterns.focused_share(even) == pytest.approx(0.1)
    assert patterns.centre_share(np.ones((2, 7, 7))) == pytest.approx(0.25)
    point = -even
    point[1, 4, 4] = 2.0
    assert patterns.centre_share(point) == 1
    assert patterns.focused_share(point) == 1
    corner = np.zeros((3, 8, 8))
    corner[:, 0, 0] = 1
    assert patterns.centre_share(corner) == 0
    assert np.isnan(patterns.centre_share(-even))
    assert np.isnan(patterns.focused_share(-even))


def table_of(maps: dict[str, np.ndarray], labels: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "grid": [list(low.shape) for low in maps.values()],
            "map": [low.ravel().astype(np.float16) for low in maps.values()],
            "label": labels,
        },
        index=pd.Index(maps, name="name"),
    )


def test_profiles_and_maps_by_class() -> None:
    late = np.zeros((4, 2, 2))
    late[3, 0, 0] = 5
    early = np.zeros((4, 2, 2))
    early[0] = 1
    table = table_of({"x": late, "y": late * 3, "z": early, "none": -early}, ["b", "b", "a", "a"])
    profiles = patterns.profiles(table, points=4)
    np.testing.assert_allclose(profiles.loc["a"], [4, 0, 0, 0])
    np.testing.assert_allclose(profiles.loc["b"], [0, 0, 0, 4])
    assert profiles.columns.tolist() == [0.125, 0.375, 0.625, 0.875]
    spatial = patterns.spatial_maps(table)
    np.testing.assert_allclose(spatial["a"], np.ones((2, 2)))
    np.testing.assert_allclose(spatial["b"], [[4, 0], [0, 0]])


def test_nearest_tubes() -> None:
    rng = np.random.default_rng(0)
    base = rng.random((4, 3, 3))
    maps = {
        "base": base,
        "louder": 7 * base,
        "close": base + 0.1 * rng.random(base.shape),
        "reversed": base[::-1] * (base[::-1] > 0.5),
        "other grid": rng.random((2, 3, 3)),
    }
    found = patterns.nearest(table_of(maps, ["a"] * 5), "base", 3)
    assert found.index.tolist() == ["louder", "close", "reversed"]
    assert found["similarity"].iloc[0] == pytest.approx(1, abs=1e-3)
    with pytest.raises(KeyError, match="no explained clip 'nobody'"):
        patterns.nearest(table_of(maps, ["a"] * 5), "nobody")


def test_patterns_of_a_store(tmp_path: Path) -> None:
    store = swept(tmp_path / "store", 16)
    assert set(store.profiles().index) == set(store.index["label"])
    assert set(store.profiles(by="correct").index) <= {True, False}
    assert all(plane.shape == (8, 8) for plane in store.spatial_maps("prediction").values())
    assert store.nearest("clip_003", 5).columns.tolist() == [
        "similarity", "label", "prediction", "probability",
    ]  # fmt: skip
    assert store.index["centre"].between(0, 1).all()
    most = store.index.nlargest(1, "focus").index[0]
    low = store[most].tube().map
    assert patterns.focused_share(low) == pytest.approx(store.index["focus"].max(), rel=1e-2)
