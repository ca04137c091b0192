from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.datasets.samples import make_clip
from workbench.datasets.table import Dataset
from workbench.models.checkpoints import read_checkpoint
from workbench.models.input_spec import InputSpec
from workbench.models.networks.mfnet import MFNet3d
from workbench.models.video_model import VideoModel
from workbench.training.augmentation import random_view, random_window, sided_classes
from workbench.training.batches import Feed, Plan, loader
from workbench.training.heads import copy_for
from workbench.training.run_checkpoints import read_state, write_state
from workbench.training.settings import Settings

SPEC = InputSpec(frames=4, resize=(32, 32), stride=2, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
FPS = 25.0


class Reader:
    """Reads dark and light clips; honours start and stop, and records the frames that were read."""

    def __init__(self, frames: int = 25, *, honest: bool = True) -> None:
        video = make_clip("stir", size=(48, 64))
        self.video = video.select(np.arange(frames) % len(video.frames))
        self.video = replace(self.video, times=np.arange(frames) / FPS, indices=np.arange(frames))
        self.honest = honest
        self.reads: list[np.ndarray] = []
        self.before_read: Any = None

    def __call__(self, row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
        if self.before_read is not None:
            self.before_read(row)
        clip = self.video
        if self.honest:
            clip = clip.select(
                np.flatnonzero(
                    (clip.times > row["start"] - 1e-6) & (clip.times < row["stop"] - 1e-6)
                )
            )
        if frames is not None:
            clip = clip.sample(frames, stride)
        self.reads.append(clip.indices)
        shade = 0.35 if row["class"] == "dark" else 1.0
        return replace(clip, frames=(clip.frames * shade).astype(np.uint8), name=str(row.name))


def toy(count: int = 8, classes: tuple[str, ...] = ("dark", "light"), **options: Any) -> Dataset:
    labels = [classes[i % len(classes)] for i in range(count)]
    index = pd.DataFrame(
        {
            "class": labels,
            "class_id": [classes.index(label) for label in labels],
            "start": 0.2,
            "stop": 0.92,
            "duration": 0.72,
        },
        index=[f"clip_{i}" for i in range(count)],
    )
    return Dataset(index, list(classes), Reader(**options), title="toy")


def tiny(classes: tuple[str, ...] = ("dark", "light"), spec: InputSpec = SPEC) -> VideoModel:
    torch.manual_seed(1)
    module = MFNet3d(
        len(classes), widths=(8, 16, 16, 16, 16), units=(1, 1, 1, 1), groups=4, last_stride=1
    )
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.momentum = 0.5  # so that its statistics keep up with so few steps
    return wb.wrap_model(module, spec, classes, name="tiny")


def tune(
    data: Dataset | None = None, model: VideoModel | None = None, **options: Any
) -> wb.Training:
    options = {"epochs": 2, "batch": 3, "workers": 0, "progress": False, "rate": 3e-3, **options}
    return wb.fine_tune(
        tiny() if model is None else model, toy() if data is None else data, **options
    )


# What it learns, and what it leaves alone


def test_it_learns_and_says_so() -> None:
    model, data = tiny(), toy()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    model.module.train()
    random_state = torch.get_rng_state()
    done = tune(data, model, epochs=8, rate=2e-2, batch=4, validation=data)
    assert done.curve["loss"].tail(4).mean() < 0.7 * done.curve["loss"].head(4).mean()
    assert done.curve["accuracy"].tail(4).mean() == 1
    assert done.epochs["validation accuracy"].max() == 1
    assert list(done.curve["step"]) == list(range(1, 17))
    assert list(done.epochs.index) == list(range(1, 9))
    assert done.curve["rate"].max() <= 2e-2
    assert done.curve["rate"].iloc[0] < done.curve["rate"].iloc[2] > done.curve["rate"].iloc[-1]
    assert not done.model.module.training
    assert {p.grad is None for p in done.model.module.parameters()} == {True}
    assert done.model.classes == ["dark", "light"]
    assert wb.explain(done.model, data[0]).exact
    assert "validation 100.0%" in repr(done)
    # the model handed in, and the random state, are as before
    assert model.module.training
    assert all(
        torch.equal(value, before[name]) for name, value in model.module.state_dict().items()
    )
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_model_returned_is_of_the_best_epoch() -> None:
    data = toy()
    done = tune(data, epochs=4, rate=1e-2, validation=data)
    scores = done.epochs["validation accuracy"]
    assert scores[done.epoch] == scores.max()
    hits = [
        done.model.logits(clip).argmax() == number
        for clip, number in zip(data, data.index["class_id"])
    ]
    assert np.mean(hits) == pytest.approx(scores.max())


def test_the_weights_returned_are_those_of_the_best_epoch_not_of_the_last() -> None:
    """The better it learns, the worse it is on labels that are exchanged."""
    data = toy()
    index = data.index.assign(class_id=1 - data.index["class_id"])
    exchanged = Dataset(index, data.classes, data.reader)
    done = tune(data, epochs=4, rate=1e-2, validation=exchanged)
    losses = done.epochs["validation loss"]
    assert done.epoch < 4
    assert losses[done.epoch] < 0.95 * losses[4]
    logits = torch.stack([done.model.logits(clip) for clip in exchanged])
    loss = nn.functional.cross_entropy(logits, torch.tensor(index["class_id"].to_numpy()))
    assert float(loss) == pytest.approx(losses[done.epoch], rel=1e-3)


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine_to_0() -> None:
    settings = Settings(
        epochs=1, batch=1, rate=2.0, warmup=0.2, decay=0.0, flip=False, head_only=False,
        new_head=False, seed=0, data="",
    )  # fmt: skip
    rates = [settings.rate_at(step, 10) for step in (0, 1, 2, 6, 10)]
    np.testing.assert_allclose(rates, [2 / 3, 4 / 3, 2, 1, 0], atol=1e-12)


def test_a_reader_that_cannot_be_sent_is_read_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where workers are not forked: on macOS and Windows."""
    data = toy()
    local = Dataset(
        data.index,
        data.classes,
        lambda row, frames, stride: data.reader(row, frames, stride),
        "toy",
    )
    feed = Feed(local, SPEC, seed=None)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.warns(
        UserWarning, match=r"read in this process, not by 2 workers: .* cannot be sent"
    ):
        batches = loader(feed, [[(0, 0), (0, 1)]], workers=2)
    assert batches.num_workers == 0
    ((frames, targets),) = batches
    assert frames.shape == (2, 4, 32, 32, 3)
    assert targets.tolist() == [0, 1]
    assert loader(Feed(data, SPEC, seed=None), [], workers=2).num_workers == 2


def test_workers_give_the_same_curve() -> None:
    alone, helped = tune(), tune(workers=2)
    pd.testing.assert_frame_equal(alone.curve, helped.curve, atol=1e-5)


def test_head_only_changes_nothing_else() -> None:
    model = tiny()
    done = tune(model=model, head_only=True)
    for name, value in done.model.module.state_dict().items():
        assert torch.equal(value, model.module.state_dict()[name]) == (
            not name.startswith("classifier")
        ), name
    assert all(parameter.requires_grad for parameter in done.model.module.parameters())


# Heads


def test_another_number_of_classes_gets_a_new_head() -> None:
    done = tune(toy(6, ("dark", "light", "other")), epochs=1)
    assert done.model.module.classifier.out_features == 3
    assert done.model.classes == ["dark", "light", "other"]


def test_other_names_get_a_new_head_and_numbers_do_not() -> None:
    named, numbered = tiny(("a", "b")), tiny()
    numbered.classes = ["0", "1"]
    kept = tune(model=numbered, epochs=1, rate=1e-12).model.module.classifier.weight
    new = tune(model=named, epochs=1, rate=1e-12).model.module.classifier.weight
    assert torch.allclose(kept, numbered.module.classifier.weight, atol=1e-6)
    assert not torch.allclose(new, named.module.classifier.weight, atol=1e-3)


class Convolved(nn.Module):
    """Ends in a 1×1×1 convolution, as S3D does, and has another one before it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv3d(3, 4, 1)
        self.ends = nn.Sequential(nn.Dropout(0.5), nn.Conv3d(4, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ends(self.body(x)).mean((2, 3, 4))


class Twice(Convolved):
    """Gives every logit twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).repeat(1, 2)


def test_a_convolution_is_a_head_too() -> None:
    model = wb.wrap_model(Convolved(5), SPEC, list("abcde"))
    done = tune(model=model, epochs=1)
    assert done.model.module.ends[1].out_channels == 2


def test_a_head_that_is_none_is_refused() -> None:
    model = wb.wrap_model(Convolved(5), SPEC, list("abcde"))
    with pytest.raises(
        ValueError, match=r"'ends.0' is no linear head .* body \(4 outputs\), ends.1 \(5 outputs\)"
    ):
        tune(model=model, head="ends.0")
    with pytest.raises(KeyError, match="no layer 'end'"):
        tune(model=model, head="end")
    with pytest.raises(ValueError, match=r"Name with head=.*: none"):
        tune(model=wb.wrap_model(nn.Flatten(), SPEC))
    twice = wb.wrap_model(Twice(2), SPEC)
    with pytest.raises(
        ValueError, match=r"expected the network to return logits \(3, 2\), got \(3, 4\)"
    ):
        tune(model=twice)


# Windows, cut-outs, flips


@pytest.mark.parametrize("stride", [1, 2, 3, None])
@pytest.mark.parametrize("honest", [True, False])
def test_windows_lie_in_the_segment_and_reach_all_of_it(stride: int | None, honest: bool) -> None:
    data = toy(honest=honest)
    data.index["start"], data.index["stop"] = (0.2, 0.92) if honest else (0.0, 1.0)
    first, last = (5, 22) if honest else (0, 24)
    spec = replace(SPEC, stride=stride)
    seen = set()
    for seed in range(60):
        clip = random_window(data, seed % 8, spec, np.random.default_rng(seed))
        assert len(clip) == 4
        if stride:
            assert (np.diff(clip.indices) == stride).all()
        seen |= set(clip.indices.tolist())
    assert (min(seen), max(seen)) == (first, last)
    if honest:  # no frame is even looked at beyond it
        assert min(map(min, data.reader.reads)) >= first
        assert max(map(max, data.reader.reads)) <= last


def test_a_segment_shorter_than_the_window_is_read_as_the_data_set_reads_it() -> None:
    data = toy()
    data.index["stop"] = 0.36  # 4 frames, the window spans 7
    with pytest.raises(ValueError, match="the clip has 4 frames; 4 frames at stride 2 takes 7"):
        random_window(data, 0, SPEC, np.random.default_rng(0))
    with pytest.raises(wb.ClipError, match=r"clip 'clip_\d' of toy: the clip has 4 frames"):
        tune(data)
    with pytest.raises(wb.ClipError, match=r"clip 'clip_\d' of toy: the clip has 4 frames"):
        tune(data, workers=1)


@pytest.mark.parametrize(
    ("resize", "crop", "size"),
    [
        ((32, 32), None, (32, 32)),
        ((40, 40), 32, (32, 32)),
        (36, (20, 32), (20, 32)),
        (None, None, (48, 64)),
    ],
)
def test_views_have_the_size_that_the_network_takes(
    resize: Any, crop: Any, size: tuple[int, int]
) -> None:
    clip = make_clip("stir", size=(48, 64)).select(range(4))
    kept = clip.frames.copy()
    spec = InputSpec(frames=4, resize=resize, crop=crop)
    views = [random_view(clip, spec, np.random.default_rng(seed), flip=True) for seed in range(12)]
    assert {view.shape for view in views} == {(4, *size, 3)}
    assert spec.view(clip).frames.shape == (4, *size, 3)
    assert len({view.tobytes() for view in views}) == 12
    assert (clip.frames == kept).all()
    with pytest.raises(ValueError, match="give InputSpec a resize"):
        random_view(clip, InputSpec(frames=4, crop=64), np.random.default_rng(0), flip=True)


def test_flips_mirror_half_of_the_clips_or_none() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None] * 3, (4, 48, 64, 3))
    clip, spec = wb.Clip(ramp, 25), InputSpec(frames=4, resize=(32, 32))

    def mirrored(flip: bool) -> float:
        views = [
            random_view(clip, spec, np.random.default_rng(seed), flip=flip) for seed in range(100)
        ]
        return float(np.mean([view[0, 0, 0, 0] > view[0, 0, -1, 0] for view in views]))

    assert 0.35 < mirrored(True) < 0.65
    assert mirrored(False) == 0


def test_left_and_right_are_found_among_the_words() -> None:
    sided = [
        "turn left",
        "SwipeRight",
        "push_leftward",
        "Left-Handed",
        "RotateClockwise",
        "anticlockwise",
    ]
    others = ["BrightLight", "cleft", "take leftovers", "write", "copyright", "clock"]
    assert sided_classes([*others, *sided]) == sided


def test_no_flips_where_left_and_right_are_classes() -> None:
    data = toy(4, ("dark", "turn left"))
    model = tiny(("dark", "turn left"))
    with pytest.warns(UserWarning, match="no clip is mirrored.*: turn left") as caught:
        assert tune(data, model, epochs=1).flip is False
    assert caught[0].filename == __file__  # it is told where fine_tune was called
    assert (
        tune(data, model, epochs=1, flip=True).flip is True
    )  # no warning: it would be an error here
    assert tune(epochs=1).flip is True
    assert tune(epochs=1, flip=False).flip is False


def test_a_plan_shows_every_clip_once_an_epoch_and_resumes() -> None:
    plan = Plan(clips=10, batch=4, total=6, seed=3)
    batches = list(plan)
    assert [len(batch) for batch in batches] == [4, 3, 3] * 2
    for epoch in (0, 1):
        assert sorted(clip for batch in batches for e, clip in batch if e == epoch) == list(
            range(10)
        )
    orders = [[clip for batch in part for _, clip in batch] for part in (batches[:3], batches[3:])]
    assert orders[0] != orders[1]
    assert list(replace(plan, first=4)) == batches[4:]
    shares = [list(replace(plan, process=rank, processes=2)) for rank in (0, 1)]
    for whole, one, two in zip(batches, *shares):
        assert len(one) == len(two)
        assert set(one) | set(two) == set(whole)


# Checkpoints


class Killed(RuntimeError):
    """Stands for what ends a process."""


def stop_after(data: Dataset, reads: int, how: Any) -> None:
    def count(_row: pd.Series) -> None:
        nonlocal reads
        reads -= 1
        if reads == 0:
            how()

    data.reader.before_read = count


@pytest.mark.parametrize("every", [1, 2])
def test_a_killed_run_goes_on_with_the_same_curve(
    tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy()
    whole = tune(data, epochs=3, validation=data, batch=2)

    import workbench.training.runs as runs

    steps = []
    learn = runs.Run._learn

    def dying(self: Any, *args: Any) -> None:
        if len(steps) == 6:  # in the middle of the second epoch, a step after a checkpoint or two
            raise Killed
        steps.append(self.step)
        learn(self, *args)

    monkeypatch.setattr(runs.Run, "_learn", dying)
    with pytest.raises(Killed):
        tune(data, epochs=3, validation=data, batch=2, output=tmp_path, every=every)
    assert read_state(tmp_path / "latest.pt", {"step"})["step"] == 6

    monkeypatch.setattr(runs.Run, "_learn", learn)
    data.reader.reads.clear()
    resumed = tune(data, epochs=3, validation=data, batch=2, output=tmp_path, every=every)
    pd.testing.assert_frame_equal(resumed.curve, whole.curve, rtol=0, atol=1e-5)
    assert resumed.epoch == whole.epoch
    for name, value in resumed.model.module.state_dict().items():
        assert torch.allclose(value, whole.model.module.state_dict()[name], atol=1e-5), name
    again = tune(data, epochs=3, validation=data, batch=2, output=tmp_path)  # nothing left to do
    pd.testing.assert_frame_equal(again.curve, resumed.curve)


@pytest.mark.slow
def test_a_process_that_is_killed_resumes(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_tuning import stop_after, toy, tune
        data = toy()
        stop_after(data, 21, lambda: os.kill(os.getpid(), signal.SIGKILL))
        tune(data, epochs=3, batch=2, output={str(tmp_path)!r}, every=1)
        """
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert read_state(tmp_path / "latest.pt", {"step"})["step"] == 6
    resumed, whole = tune(epochs=3, batch=2, output=tmp_path, every=1), tune(epochs=3, batch=2)
    pd.testing.assert_frame_equal(resumed.curve, whole.curve, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["signal", "exception"])
def test_ctrl_c_writes_a_checkpoint_and_passes_on(
    tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = toy()
    handler = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        if how == "exception":
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    stop_after(data, 21, interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune(data, epochs=3, batch=2, output=tmp_path, progress=True)
    assert signal.getsignal(signal.SIGINT) == handler
    assert "epoch 2/3" in capfd.readouterr().err.splitlines()[-1]
    step = read_state(tmp_path / "latest.pt", {"step"})["step"]
    assert step == 6
    resumed = tune(toy(), epochs=3, batch=2, output=tmp_path)
    pd.testing.assert_frame_equal(resumed.curve, tune(epochs=3, batch=2).curve, rtol=0, atol=1e-5)


def test_checkpoints_load_as_models(tmp_path: Path) -> None:
    data = toy()
    done = tune(data, validation=data, output=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "best.pt", "latest.pt"]
    for name in ("best.pt", "latest.pt"):
        state = read_checkpoint(tmp_path / name)
        assert state.keys() == done.model.module.state_dict().keys()
    best = read_checkpoint(tmp_path / "best.pt")
    assert all(
        torch.equal(value, best[name]) for name, value in done.model.module.state_dict().items()
    )
    with pytest.raises(ValueError, match="other shape"):
        wb.load_model(
            "mfnet3d", checkpoint=tmp_path / "best.pt", classes=data.classes
        )  # of the published widths


@pytest.mark.slow
def test_a_checkpoint_of_the_published_network_is_loaded_by_name(tmp_path: Path) -> None:
    model = wb.load_model("mfnet3d", device="cpu")
    model.input = replace(model.input, frames=4, resize=(32, 32), crop=None)
    done = tune(toy(2), model, epochs=1, head_only=True, output=tmp_path)
    loaded = wb.load_model(
        "mfnet3d", checkpoint=tmp_path / "latest.pt", classes=["dark", "light"], device="cpu"
    )
    loaded.input = model.input
    clip = toy()[0]
    assert torch.allclose(loaded.logits(clip), done.model.logits(clip), atol=1e-5)


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "latest.pt"
    write_state(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # what a full disk does
    try:
        with pytest.raises(OSError, match=r"cannot be written .* the one before is as it was"):
            write_state(path, {"step": 2, "large": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [each.name for each in tmp_path.iterdir()] == ["latest.pt"]
    assert read_state(path, {"step"}) == {"step": 1}


def test_an_interrupted_write_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latest.pt"
    write_state(path, {"step": 1})

    def interrupted(_content: Any, temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_state(path, {"step": 2})
    assert [each.name for each in tmp_path.iterdir()] == ["latest.pt"]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    tune(output=tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"another training \(epochs 1, now 2\)"):
        tune(output=tmp_path, epochs=2)
    with pytest.raises(ValueError, match=r"another training .*data 8 clips, \w+, now 6 clips, \w+"):
        tune(toy(6), output=tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"no checkpoint of Convolved: .* missing: body"):
        tune(model=wb.wrap_model(Convolved(2), SPEC, ["dark", "light"]), output=tmp_path, epochs=1)
    assert len(tune(output=tmp_path, epochs=2, resume=False).epochs) == 2
    (tmp_path / "latest.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"cannot resume: .*latest\.pt .*resume=False"):
        tune(output=tmp_path)
    write_state(tmp_path / "latest.pt", {"state_dict": {}})
    with pytest.raises(ValueError, match=re.escape("no checkpoint of wb.fine_tune")):
        tune(output=tmp_path)


# The output folder


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    data = toy()
    refused = []

    def second(_row: pd.Series) -> None:
        data.reader.before_read = None
        with pytest.raises(
            RuntimeError, match=r"another training is writing to .*output="
        ) as caught:
            tune(output=tmp_path, resume=False)
        refused.append(caught)

    data.reader.before_read = second
    tune(data, output=tmp_path)
    assert len(refused) == 1
    pd.testing.assert_frame_equal(
        tune(output=tmp_path).curve, tune().curve
    )  # free again, and whole


def test_the_folder_is_free_after_a_failure(tmp_path: Path) -> None:
    data = toy()
    stop_after(data, 9, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tune(data, output=tmp_path)
    assert len(tune(output=tmp_path).epochs) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.slow
def test_workers_that_outlive_a_killed_training_do_not_hold_its_folder(tmp_path: Path) -> None:
    script = f"""
        import os, signal, sys, threading
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_tuning import toy, tune
        import workbench.training.runs as runs
        save = runs.Run.save
        def kill(self):
            save(self)
            os.kill(os.getpid(), signal.SIGKILL)
        runs.Run.save = kill
        tune(toy(), workers=2, every=1, output={str(tmp_path)!r})
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert ended.returncode == -signal.SIGKILL
    pd.testing.assert_frame_equal(tune(output=tmp_path).curve, tune().curve, rtol=0, atol=1e-5)


def test_the_best_network_of_another_run_is_not_returned(tmp_path: Path) -> None:
    data = toy()
    for name, seed in (("one", 0), ("two", 1)):
        tune(data, validation=data, output=tmp_path / name, seed=seed)
    for file in ("latest.pt", "best.pt"):
        assert (
            len({read_state(tmp_path / name / file, {"run"})["run"] for name in ("one", "two")})
            == 2
        )
    assert tune(data, validation=data, output=tmp_path / "one").epoch in (1, 2)
    shutil.copy(tmp_path / "two" / "best.pt", tmp_path / "one" / "best.pt")
    with pytest.raises(
        ValueError, match=r"one/best\.pt was written by another training .*resume=False"
    ):
        tune(data, validation=data, output=tmp_path / "one")
    (tmp_path / "one" / "best.pt").unlink()
    with pytest.raises(ValueError, match=r"cannot resume: no checkpoint at .*one/best\.pt"):
        tune(data, validation=data, output=tmp_path / "one")
    done = tune(data, validation=data, output=tmp_path / "one", resume=False)
    best = read_state(tmp_path / "one" / "best.pt", {"run"})
    assert best["run"] == read_state(tmp_path / "one" / "latest.pt", {"run"})["run"]
    assert best["epoch"] == done.epoch


def test_both_files_keep_the_id_of_the_run_that_is_resumed(tmp_path: Path) -> None:
    data = toy()
    stop_after(data, 30, lambda: (_ for _ in ()).throw(KeyboardInterrupt))  # in the second epoch
    with pytest.raises(KeyboardInterrupt):
        tune(data, epochs=3, validation=toy(), output=tmp_path)
    before = read_state(tmp_path / "latest.pt", {"run"})["run"]
    tune(epochs=3, validation=toy(), output=tmp_path)
    assert {read_state(tmp_path / f"{n}.pt", {"run"})["run"] for n in ("latest", "best")} == {
        before
    }


def test_temporary_files_of_killed_runs_are_removed_at_the_next_start(tmp_path: Path) -> None:
    orphans = ["latest.pt.4711.partial", "best.pt.1.partial", ".latest.0a1b2c3d.part.pt"]
    orphans += [".best.host-4711-0a1b2c3d.part.pt"]
    others = ["notes.partial", ".other.0a1b2c3d.part.pt", "mine.pt"]
    for name in orphans + others:
        (tmp_path / name).write_bytes(b"half")
    tune(epochs=1, output=tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {".lock", "latest.pt", *others}


KILLS = 30
# For each number on stdin, trains in a child process that is killed so many seconds after its
# first step could begin, and prints how the child ended.
KILLER = f"""
import os, signal, sys
import accelerate, torch._dynamo  # slow to import: here, not in every child
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tuning import doomed_run
for line in sys.stdin:
    child = os.fork()
    if not child:
        doomed_run(float(line), sys.argv[1])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def doomed_run(seconds: float, output: str) -> None:
    import workbench.training.runs as runs

    train = runs.Run.train

    def doomed(self: Any, **options: Any) -> None:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        train(self, **options)

    runs.Run.train = doomed  # type: ignore[method-assign]
    long_run(output)


def long_run(output: Any = None) -> wb.Training:
    return tune(epochs=30, batch=4, every=1, validation=toy(), output=output)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Killed anywhere, even in a write: no half file, no orphan after the next start, one curve."""
    out = tmp_path / "out"
    steps = [0]
    kills = 0
    longest = 0.15  # seconds until a kill
    rng = np.random.default_rng(0)
    with subprocess.Popen(
        [sys.executable, "-c", KILLER, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killer:
        assert killer.stdin is not None
        assert killer.stdout is not None
        for _ in range(KILLS):
            print(rng.uniform(0.0, longest), file=killer.stdin, flush=True)
            code = int(killer.stdout.readline())
            if code == 0:
                break  # a fast machine is done before the last kills
            assert code == -signal.SIGKILL
            kills += 1
            for path in out.glob("[!.]*"):  # whatever has a final name is whole
                assert path.name in ("latest.pt", "best.pt")
                assert read_state(path, {"run", "state_dict"})
            if (out / "latest.pt").exists():
                steps.append(read_state(out / "latest.pt", {"step"})["step"])
            if kills % 5 == 0 and steps[-1] == 0:
                longest *= 2  # a busy machine has not come to a step
        killer.stdin.close()
    assert steps == sorted(steps)
    assert kills >= 10
    assert steps[-1] > 5  # each start resumed
    (out / ".latest.0a1b2c3d.part.pt").write_bytes(b"half")
    resumed, whole = long_run(out), long_run()
    assert {path.name for path in out.iterdir()} == {".lock", "latest.pt", "best.pt"}
    pd.testing.assert_frame_equal(resumed.curve, whole.curve, rtol=0, atol=1e-5)
    assert resumed.epoch == whole.epoch


# How fast parts learn


def test_a_new_head_learns_ten_times_as_fast_and_an_old_one_does_not() -> None:
    """AdamW's first step moves a weight by the learning rate itself, whatever its gradient."""
    rate = 1e-4

    def moved(model: VideoModel) -> dict[str, float]:
        # One step, at the highest rate; without a warm-up and weight decay.
        done = tune(toy(2), model, epochs=1, batch=2, rate=rate, warmup=0.0, decay=0.0)
        assert len(done.curve) == 1
        torch.manual_seed(0)
        start = copy_for(model, toy(2), None)[0].module.state_dict()
        return {
            name: float((value.detach() - start[name]).abs().median()) / rate
            for name, value in done.model.module.named_parameters()
            if name in ("classifier.weight", "conv2.B01.conv_w1.conv.weight")
        }

    assert moved(tiny(("a", "b"))) == pytest.approx(
        {"conv2.B01.conv_w1.conv.weight": 1, "classifier.weight": 10}, rel=0.05
    )
    assert moved(tiny()) == pytest.approx(
        {"conv2.B01.conv_w1.conv.weight": 1, "classifier.weight": 1}, rel=0.05
    )


# What cannot be trained


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    class Breaks(Convolved):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x) * (float("nan") if self.calls == 4 else 1)

    model = wb.wrap_model(Breaks(2), SPEC, ["dark", "light"])
    with pytest.raises(
        ValueError,
        match=r"the loss is nan at step 4 of 6 \(epoch 2\): try a smaller rate than 0.003",
    ):
        tune(model=model, output=tmp_path)
    assert read_state(tmp_path / "latest.pt", {"step"})["step"] == 3
    assert all(value.isfinite().all() for value in read_checkpoint(tmp_path / "latest.pt").values())


def test_data_that_make_no_training_are_refused() -> None:
    data = toy()
    with pytest.raises(ValueError, match="toy has no clips"):
        tune(data.subset(data.index[:0]))
    with pytest.raises(ValueError, match="other classes"):
        tune(data, validation=toy(4, ("dark", "bright")))
    broken = toy()
    broken.index["class_id"] = [0, 1, 2, 1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="1 class ids are not 0 to 1, the first that of 'clip_2'"):
        tune(broken)
    away = toy()
    away.index["present"] = [True] * 7 + [False]
    with pytest.raises(ValueError, match="1 videos are not there, the first 'clip_7'"):
        tune(away)
    with pytest.raises(ValueError, match="epochs=0"):
        tune(epochs=0)
    with pytest.raises(ValueError, match="precision: expected"):
        tune(precision="half")
    frozen = tiny()
    frozen.module.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        tune(model=frozen)


def test_pictures_of_two_sizes_are_refused() -> None:
    model = tiny(spec=replace(SPEC, resize=None))
    data = toy()
    reader = data.reader

    def uneven(row: pd.Series, **how: Any) -> wb.Clip:
        clip = reader(row, **how)
        return clip if row.name != "clip_0" else clip.resize(40, 64)

    with pytest.raises(wb.ClipError, match="make no batch: give InputSpec a resize"):
        tune(Dataset(data.index, data.classes, uneven), model, batch=8)


def test_accelerate_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "saliency-workbench\[train\]"'):
        tune()


def test_bf16_on_a_cpu_is_refused_where_its_gradients_are_wrong() -> None:
    with pytest.raises(ValueError, match=r"bf16 gradients of 3-D convolutions .* precision='no'"):
        tune(precision="bf16")


def test_several_precisions_in_one_process() -> None:
    model = wb.wrap_model(Convolved(2), SPEC, ["dark", "light"])
    assert tune(model=model, epochs=1, precision="bf16").curve["loss"].notna().all()
    assert tune(model=model, epochs=1, precision="no").curve["loss"].notna().all()
    assert os.environ.get("ACCELERATE_MIXED_PRECISION") in (None, "no")
