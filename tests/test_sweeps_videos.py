"""Whole videos: windows, stitching, and where the tube finds what was spliced in."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from sweep_material import CLASSES, Several, tiny
from videos import write_video

import workbench as wb
from workbench.sweeps.command import add_sweep_command, run_sweep_command
from workbench.sweeps.whole_videos import _Grid, _windows

SPEC = wb.InputSpec(frames=8, resize=(32, 32), stride=2)


def noise(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "noise.mp4", noise(100), gop=10)


def test_windows_overlap_by_half_and_reach_the_end(video: Path) -> None:
    index = _windows(video, tiny(spec=SPEC), window=None, start=None, stop=None).index
    length = 8 * 2 / 25
    assert index["duration"].tolist() == pytest.approx([length] * len(index))
    np.testing.assert_allclose(np.diff(index["start"])[:-1], length / 2)
    assert 0 < np.diff(index["start"])[-1] <= length / 2 + 1e-9
    assert index["start"].iloc[0] == 0
    assert index["stop"].iloc[-1] == pytest.approx(4.0)
    part = _windows(video, tiny(spec=SPEC), window=1.0, start=1.0, stop=2.25).index
    assert part["start"].tolist() == pytest.approx([1.0, 1.25])
    whole = _windows(video, tiny(spec=SPEC), window=100, start=None, stop=None).index
    assert whole[["start", "stop"]].to_numpy().tolist() == [[0.0, 4.0]]
    with pytest.raises(ValueError, match=r"expected a part within the video, 0 to 4\.000 s"):
        _windows(video, tiny(spec=SPEC), window=None, start=3.0, stop=9.0)


def test_overlaps_are_averaged(video: Path, tmp_path: Path) -> None:
    """The stitched maps are the plain mean, cell by cell, of all windows over a cell."""
    model = tiny(spec=SPEC)
    ex = wb.explain_video(model, video, tmp_path / "store", batch=3, progress=False)
    cell = 8 * 2 / 25 / 4  # windows have 4 steps in time
    count = round(4.0 / cell)
    expected = torch.zeros(12, count, 8, 8)
    for place in range(count):
        centre = (place + 0.5) * 4.0 / count
        over = []
        for name, row in ex.windows.iterrows():
            if row["start"] <= centre < row["stop"]:
                step = int((centre - row["start"]) / (row["stop"] - row["start"]) * 4)
                over.append(ex.store[name].maps[0][:, step])
        assert len(over) in (1, 2, 3)
        expected[:, place] = torch.stack(over).mean(0)
    torch.testing.assert_close(ex.maps[0], expected, rtol=1e-4, atol=1e-5)
    assert len(ex.clip) == count
    np.testing.assert_allclose(ex.clip.times, (np.arange(count) + 0.5) * 4.0 / count)


def test_the_stitched_explanation_is_exact(video: Path, tmp_path: Path) -> None:
    ex = wb.explain_video(tiny(spec=SPEC), video, tmp_path / "store", progress=False)
    assert ex.exact
    for name in CLASSES:
        number = ex.class_id(name)
        assert ex.tube(name).map.mean() + ex.bias[number] == pytest.approx(
            float(ex.logits[number]), abs=1e-5
        )
    timeline = ex.timeline
    assert timeline.columns.tolist() == CLASSES
    np.testing.assert_allclose(timeline.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(timeline.index, ex.windows[["start", "stop"]].mean(axis=1))
    first = ex.store[ex.windows.index[0]].probabilities
    np.testing.assert_allclose(timeline.iloc[0], first, rtol=1e-5)


def test_a_video_behind_a_layer_norm_is_exact_and_independent(video: Path) -> None:
    model = wb.wrap_model(Several().eval(), SPEC, CLASSES[:5], device="cpu", output="noun")
    ex = wb.explain_video(model, video, progress=False)
    assert ex.exact
    assert ex.independent
    assert ex.place == 1.0
    for number in range(5):
        mean = ex.tube(number).map.mean()
        assert mean + ex.bias[number] == pytest.approx(float(ex.logits[number]), abs=1e-5)
    first = ex.store[ex.windows.index[0]].probabilities  # sigmoids: they do not add up to 1
    np.testing.assert_allclose(ex.timeline.iloc[0], first, rtol=1e-5)


def test_there_are_no_seams(tmp_path: Path) -> None:
    """Where every window sees the same, so does every moment of the whole."""
    still = next(noise(1))
    path = write_video(tmp_path / "still.mp4", (still for _ in range(120)), gop=10)
    model = tiny(spec=SPEC)
    ex = wb.explain_video(model, path, progress=False)
    maps = ex.maps[0]
    # A window's outer steps see its padding; windows half a window apart mix them all alike.
    inner = maps[:, 2:-2].unfold(1, 2, 2).mean(-1)
    assert float(inner.std(1).max()) < 0.05 * float(maps.std())  # what H.264 adds


def test_a_stretch_shows_the_video(video: Path, tmp_path: Path) -> None:
    ex = wb.explain_video(tiny(spec=SPEC), video, tmp_path / "store", progress=False)
    part = ex.stretch(1.0, 2.0)
    assert part.clip.size == (32, 32)
    assert part.clip.times[0] == pytest.approx(1.0)
    assert part.clip.times[-1] == pytest.approx(1.96)
    assert len(part.clip) == 25
    assert part.maps[0].shape[1] == round(1.0 / 0.16)
    assert part.tube("a").volume.shape == (25, 32, 32)
    assert len(ex.stretch(0.0, 4.0, frames=10).clip) == 10
    torch.testing.assert_close(ex.stretch(0.0, 4.0).maps[0], ex.maps[0])


def test_the_overview_is_bounded(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = wb.explain_video(tiny(spec=SPEC), video, progress=False)
    monkeypatch.setattr("workbench.sweeps.whole_videos.CELLS", 7)
    small = wb.explain_video(tiny(spec=SPEC), video, progress=False)
    assert len(small.clip) <= 7
    steps = -(-len(full.clip) // 7)
    whole = len(full.clip) // steps
    expected = full.maps[0][:, : whole * steps].unflatten(1, (whole, steps)).mean(2)
    torch.testing.assert_close(small.maps[0][:, :whole], expected, rtol=1e-4, atol=1e-5)


def test_gradient_weights_of_a_video(video: Path) -> None:
    model = tiny(linear=False, spec=SPEC)
    ex = wb.explain_video(model, video, weights="gradient", top=8, progress=False)
    assert not ex.exact
    tube = ex.tube("c")
    assert tube.volume.shape[0] == len(ex.clip)
    one = ex.windows.index[0]
    start, stop = ex.windows.loc[one, ["start", "stop"]]
    alone = wb.explain_video(
        model, video, weights="gradient", top=8, progress=False, start=start, stop=stop
    )
    expected = ex.store[one].tube("c").map
    np.testing.assert_allclose(alone.tube("c").map, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ex.class_weights("c").shape, ex.activations.shape)


def test_an_interrupted_video_resumes(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    first = wb.explain_video(tiny(spec=SPEC), video, path, progress=False)
    times = {file: file.stat().st_mtime_ns for file in (path / "shards").iterdir()}
    again = wb.explain_video(tiny(spec=SPEC), video, path, progress=False)
    assert {file: file.stat().st_mtime_ns for file in (path / "shards").iterdir()} == times
    torch.testing.assert_close(first.maps[0], again.maps[0])


def test_one_window_gives_each_cell_its_own_step() -> None:
    grid = _Grid.over(0.0, 2.0, 0.5)
    windows = pd.DataFrame({"start": [0.0], "stop": [2.0]})
    (row,) = windows.itertuples()
    reached, weights = grid.matrix(row, 4, grid.shares(windows))
    assert (reached.start, reached.stop) == (0, 4)
    torch.testing.assert_close(weights, torch.eye(4))


def spliced(clip: wb.Clip, frames: int, at: int) -> Iterator[np.ndarray]:
    """A still picture, with a clip from frame `at` on."""
    for number in range(frames):
        inside = at <= number < at + len(clip)
        yield clip.frames[number - at] if inside else clip.frames[0]


@pytest.mark.slow
def test_a_ten_minute_video_takes_flat_memory_and_finds_the_action(tmp_path: Path) -> None:
    clip = wb.samples.make_clip("rotate", 5, size=(112, 112), fps=60)
    at = 60 * 437
    path = write_video(tmp_path / "long.mp4", spliced(clip, 36_000, at), fps=60, gop=60)
    model = wb.load_model("samples/mfnet", device="cpu")
    wb.explain_video(model, path, stop=60, progress=False)  # what the first use of all loads
    process = psutil.Process()
    levels = []
    from workbench.sweeps import engine

    make_shard = engine.Engine.make_shard

    def measured(self, shard, clips):  # type: ignore[no-untyped-def]
        levels.append(process.memory_info().rss)
        return make_shard(self, shard, clips)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Engine, "make_shard", measured)
        ex = wb.explain_video(model, path, tmp_path / "store", progress=False)
    assert len(ex.windows) == 599
    early, late = np.median(levels[10:30]), np.median(levels[-20:])
    print(f"memory: {early / 2**20:.0f} MB early, {late / 2**20:.0f} MB late")
    assert late - early < 60 * 2**20
    start, stop = at / 60 + np.array(clip.action)
    tube = ex.tube("rotate")
    assert start - 0.5 < tube.times[tube.peak[0]] < stop + 0.5
    assert abs(ex.timeline["rotate"].idxmax() - (start + stop) / 2) < 1.1
    near = ex.stretch(start - 2, stop + 2).tube("rotate")
    assert start - 0.2 < near.times[near.peak[0]] < stop + 0.2


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sweep_command(parser.add_subparsers(dest="command"))
    return parser.parse_args(["sweep", *arguments])


def test_the_command_sweeps_a_folder_of_videos(
    tmp_path: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos" / "more").mkdir(parents=True)
    for name in ("one.mp4", "more/two.mp4"):
        (tmp_path / "videos" / name).write_bytes(video.read_bytes())
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    store = tmp_path / "store"
    assert run_sweep_command(parsed(str(tmp_path / "videos"), str(store), "--batch", "2")) == 0
    printed = capsys.readouterr().out
    assert "2 clips explained by samples/mfnet, 1 failed" in printed
    assert "failed: broken.mp4: ClipError" in printed
    assert sorted(wb.open_store(store).names) == ["more/two.mp4", "one.mp4"]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_sweep_command(parsed(str(tmp_path / "nowhere"), str(tmp_path / "store"))) == 1
    assert "expected samples, ucf101, epic-kitchens, or a folder" in capsys.readouterr().err
    assert run_sweep_command(parsed("samples", str(tmp_path / "store"), "--model", "nothing")) == 1
    assert "no model 'nothing'" in capsys.readouterr().err
