"""Scores on phantoms: a red square moves through a video, and is annotated in each data set's format."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from test_attribution import RedDetector
from test_truth_data import COUNT, TIMES, write_kitchen, write_pyannot
from videos import write_video

import workbench as wb
from workbench.studies.scoring import BASELINES, optical_flow, read_scores, score_command

FRAMES = 16
SAMPLED = np.linspace(0, COUNT - 1, FRAMES).astype(int)  # the authors' sampling
TOP, HEIGHT, WIDTH = 100, 40, 40
SHIFT = 4  # pixels a frame
CENTRE = (119, 159)  # of 240×320, the first of the two middle pixels
LOCATION = ("points", "points in space", "points ±15 px", "points in space ±15 px", "energy inside")


def left(number: int) -> int:
    """Left edge of the square; it covers the centre of the picture in frames 26 to 35."""
    return 20 + SHIFT * number


def phantom(first: int, beyond: int) -> list[np.ndarray]:
    """Pictures of a grey wall, and of the square from frame `first` up to `beyond`."""
    pictures = []
    for number in range(COUNT):
        picture = np.full((240, 320, 3), 90, dtype=np.uint8)
        if first <= number < beyond:
            picture[TOP : TOP + HEIGHT, left(number) : left(number) + WIDTH] = 240, 10, 10
        pictures.append(picture)
    return pictures


def write_phantom(path: Path, first: int = 10, beyond: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    film = path.with_suffix(".mp4")
    write_video(film, phantom(first, beyond), options={"crf": "1"})
    film.rename(path)


def red(clip: wb.Clip, label: str = "") -> np.ndarray:
    """The perfect tube: the pixels that are red, whatever the annotations say."""
    frames = clip.frames.astype(int)
    return ((frames[..., 0] - frames[..., 2]) > 100).astype(np.float32)


TRUTH = {
    "perfect": red,
    "inverted": lambda clip, label: 1 - red(clip),
    "late": lambda clip, label: np.broadcast_to(
        1 - red(clip).max((1, 2), keepdims=True), clip.frames.shape[:3]
    ),
}


def network(classes: list[str]) -> wb.VideoModel:
    return wb.wrap_model(RedDetector(), wb.InputSpec(frames=FRAMES), classes)


def ucf(root: Path, first: int = 10, beyond: int = 50, name: str = "Biking/v_Biking_g01_c01"):  # type: ignore[no-untyped-def]
    write_phantom(root / "UCF-101" / f"{name}.avi", first, beyond)
    tube = [[left(n) + 1, TOP + 1, WIDTH, HEIGHT] for n in range(first, beyond)]
    write_pyannot(root / "pyannot.pkl", [(first, np.array(tube))], name)
    return wb.ucf101_24(root)


def jhmdb(root: Path) -> wb.Dataset:
    name = "film_walk_u_nm_np1_ba_goo_0"
    write_phantom(root / "ReCompress_Videos" / "walk" / f"{name}.avi", 0, COUNT)
    (root / "splits").mkdir()
    (root / "splits" / "walk_test_split1.txt").write_text(f"{name}.avi 2\n")
    masks = np.zeros((240, 320, COUNT), dtype=np.uint8)
    for n in range(COUNT):
        masks[TOP : TOP + HEIGHT, left(n) : left(n) + WIDTH, n] = 3
    file = root / "puppet_mask" / "walk" / name / "puppet_mask.mat"
    file.parent.mkdir(parents=True)
    scipy.io.savemat(file, {"part_mask": masks})
    return wb.jhmdb(root)


def kitchen(root: Path) -> wb.Dataset:
    """Masks at four of the sampled frames only (7, 19, 31, 55), the square in all of the video."""
    folder = write_kitchen(root, "25")
    film = root / "EPIC-KITCHENS" / "P01" / "videos" / "P01_101.MP4"
    film.unlink()
    write_phantom(film, 0, COUNT)
    times, entries = {}, []
    for n in SAMPLED[[2, 5, 8, 14]].tolist():
        x0, y0 = 6 * left(n), 4.5 * TOP  # 1920×1080 from 320×240
        x1, y1 = x0 + 6 * WIDTH, y0 + 4.5 * HEIGHT
        image = f"P01_101_frame_{n:010d}.jpg"
        times[image] = float(TIMES["25"][n])
        polygon = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
        cup = {"id": "1", "name": "cup", "class_id": 2, "segments": [polygon]}
        entries.append({"image": {"name": image}, "annotations": [cup]})
    (folder / "val" / "P01_101.json").write_text(json.dumps({"video_annotations": entries}))
    (folder / "frames_to_timestamps.json").write_text(json.dumps({"timestamps": times}))
    return wb.epic_kitchens(root, visor=folder)


FORMATS = {"UCF101-24": ucf, "JHMDB": jhmdb, "VISOR": kitchen}


def scored(data: wb.Dataset, **more) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    model = network(data.classes if len(data.classes) == 2 else [data.index["class"].iloc[0], "no"])
    return wb.score(data, model, {**TRUTH, **more}, progress=False).set_index("method")


@pytest.mark.parametrize("name", FORMATS)
def test_a_perfect_tube_scores_one_and_an_inverted_one_zero(tmp_path: Path, name: str) -> None:
    rows = scored(FORMATS[name](tmp_path))
    assert rows.loc["perfect", list(LOCATION)].astype(float).tolist() == [1] * len(LOCATION)
    strict = ["points", "points in space", "energy inside"]
    assert rows.loc["inverted", strict].astype(float).tolist() == [0] * len(strict)
    assert rows.loc["perfect", "evidence on the background"] == 0
    assert rows.loc["inverted", "evidence on the actor"] == 0
    if name == "UCF101-24":  # in the others the action fills the clip
        assert rows.loc["perfect", ["temporal AUC", "temporal IoU"]].tolist() == [1, 1]
        assert rows.loc["late", ["temporal AUC", "temporal IoU"]].tolist() == [0, 0]
        assert rows.loc["perfect", "points in time"]
        assert not rows.loc["late", "points in time"]
    else:
        assert np.isnan(rows.loc["perfect", "temporal AUC"])
        assert not rows["informative"].any()
        assert rows["fills the clip"].all()


def test_centre_baselines_score_what_pencil_and_paper_say(tmp_path: Path) -> None:
    # The middle frame is the 8th of 16: frame 27, where the square spans 128 to 168 and
    # 100 to 140. The centre, column 159 and row 119, lies in it.
    assert (SAMPLED[7], left(27)) == (27, 128)
    flat = np.ones((FRAMES, 240, 320))
    rows = scored(ucf(tmp_path), flat=lambda clip, label: flat)
    middle = rows.loc["centre of the middle frame"]
    assert middle["points"]
    assert middle["centre hits"]
    assert not middle["informative"]
    assert middle["energy inside"] == 1
    peak = ["peak time", "peak x", "peak y"]
    assert middle[peak].tolist() == pytest.approx([27 / 25, CENTRE[1] + 0.5, CENTRE[0] + 0.5])
    assert rows.loc["flat", peak].isna().all()
    # 10 ≤ n < 50: frames 11, 15, 19, …, 47, which are 10 of the 16 sampled.
    inside = (SAMPLED >= 10) & (SAMPLED < 50)
    assert inside.sum() == 10
    assert middle["box share"] == pytest.approx(10 / 16 * 40 * 40 / (240 * 320))
    assert middle["temporal IoU"] == pytest.approx(1 / 10)
    # Its frame beats the 6 outside; the 9 others inside tie with them.
    assert middle["temporal AUC"] == pytest.approx((6 + 0.5 * 9 * 6) / 60)
    # The square covers column 159 from left = 120 to 159: frames 25 to 34, sampled 27 and 31.
    covered = [n for n in SAMPLED if left(n) <= CENTRE[1] < left(n) + WIDTH]
    assert covered == [27, 31]
    centre = rows.loc["frame centre"]
    assert centre["energy inside"] == pytest.approx(2 / 16)
    assert not centre["points"]
    assert centre["temporal AUC"] == 0.5
    # A baseline that does not see the clip: the Gaussian's energy, by a slow loop.
    total = within = 0.0
    for t, n in enumerate(SAMPLED):
        for y in range(240):
            for x in range(320):
                distances = ((t - 7) / 16, (y - 119) / 240, (x - 159) / 320)
                value = np.exp(-0.5 * sum((d / 0.25) ** 2 for d in distances))
                total += value
                at_square = TOP <= y < TOP + HEIGHT and left(n) <= x < left(n) + WIDTH
                within += value if inside[t] and at_square else 0
    assert rows.loc["centre Gaussian", "energy inside"] == pytest.approx(within / total, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "middle", "column"),
    [
        # All 16 frames are annotated. The middle one, 27, and 31 have the square on the centre.
        ("JHMDB", 1, 2 / 16),
        # Of 7, 19, 31 and 55 the square is on the centre in 31. The middle frame is not annotated.
        ("VISOR", 0, 1 / 4),
    ],
)
def test_centre_baselines_on_masks(tmp_path: Path, name: str, middle: int, column: float) -> None:
    rows = scored(FORMATS[name](tmp_path))
    scores = ["points", "points in space", "energy inside"]
    centre = rows.loc["centre of the middle frame"]
    assert centre[scores].astype(float).tolist() == [middle] * 3
    assert centre["centre hits"] == bool(middle)
    assert rows.loc["frame centre", "energy inside"] == pytest.approx(column)
    assert centre["box share"] == pytest.approx(40 * 40 / (240 * 320))


def test_a_clip_whose_centre_misses_is_informative(tmp_path: Path) -> None:
    rows = scored(ucf(tmp_path, 36, 58))
    assert rows["informative"].all()
    assert not rows.loc["centre of the middle frame", "points"]


def test_masks_and_boxes_of_one_square_score_the_same(tmp_path: Path) -> None:
    data = jhmdb(tmp_path)

    def boxes_only(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
        clip = data.reader(row, frames=frames, stride=stride)
        return replace(clip, actions=(replace(clip.actions[0], masks=None, annotated=None),))

    by_mask = scored(data)
    by_box = scored(replace(data, reader=boxes_only))
    measured = by_mask.columns.drop("seconds")
    pd.testing.assert_frame_equal(by_mask[measured], by_box[measured])


def test_what_nobody_looked_at_is_not_scored(tmp_path: Path) -> None:
    """A tube that is wrong in frames without annotation loses nothing by it."""

    def elsewhere(clip: wb.Clip, label: str) -> np.ndarray:
        volume = red(clip)
        volume[~clip.actions[0].annotated] = 5 - 5 * volume[~clip.actions[0].annotated]
        return volume

    rows = scored(kitchen(tmp_path), elsewhere=elsewhere)
    assert rows.loc["elsewhere", list(LOCATION)].astype(float).tolist() == [1] * len(LOCATION)


def test_baselines_methods_and_costs_are_all_there(tmp_path: Path) -> None:
    data = ucf(tmp_path)
    model = network(["Biking", "no"])
    scores = wb.score(model, data, ("tube", "integrated-gradients"), progress=False)
    assert isinstance(scores, pd.DataFrame)
    rows = scores.set_index("method")
    assert rows.index.tolist() == ["tube", "integrated-gradients", *BASELINES]
    assert rows["forward passes"].tolist() == [1, 21, 0, 0, 0, 0, 0, 0, 1, 2]
    assert (rows["seconds"] > 0).all()
    assert rows["kind"].tolist() == ["method"] * 2 + ["baseline"] * 8
    assert rows["group"].unique().tolist() == ["Biking/1"]
    assert rows.loc["tube", "points"]
    # The detector sees red, and nothing else moves: flow and difference find the square's edges.
    assert rows.loc["frame difference", "points in space ±15 px"]


def test_flow_is_where_something_moves() -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 255, (1, 64, 64, 3), dtype=np.uint8), 3, axis=0)
    patch = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
    for t in range(3):
        frames[t, 10:30, 10 + t : 30 + t] = patch
    flow = optical_flow(wb.Clip(frames, 25.0))
    assert flow.shape == (3, 64, 64)
    assert flow[:, 14:26, 16:26].mean() == pytest.approx(1, abs=0.2)
    assert flow[:, 40:, 40:].max() < 0.05


def three_groups(root: Path) -> wb.Dataset:
    """Four clips of three groups; the pickle of all of them."""
    names = [f"Biking/v_Biking_g0{g}_c0{c}" for g, c in ((1, 1), (1, 2), (2, 1), (3, 1))]
    content = {}
    for place, name in enumerate(names):
        ucf(root, 10 + 6 * place, 50, name)
        content |= pickle.loads((root / "pyannot.pkl").read_bytes())
    (root / "pyannot.pkl").write_bytes(pickle.dumps(content))
    return wb.ucf101_24(root)


def test_a_run_resumes_and_keeps_its_provenance(tmp_path: Path) -> None:
    data = three_groups(tmp_path)
    model = network(["Biking", "no"])
    path = tmp_path / "scores.parquet"
    calls = []

    def counting(clip: wb.Clip, label: str) -> np.ndarray:
        calls.append(clip.name)
        if len(set(calls)) == 3:
            raise KeyboardInterrupt
        return red(clip)

    methods = {"red": counting}
    with pytest.raises(KeyboardInterrupt):
        wb.score(data, model, methods, path=path, progress=False)
    assert read_scores(path)["clip"].nunique() == 2
    calls[:] = ["x", "y", "z"]  # no interruption this time
    scores = wb.score(data, model, methods, path=path, progress=False)
    assert set(calls) & set(data.index.index) == set(data.index.index[2:])
    again = read_scores(path)
    pd.testing.assert_frame_equal(pd.DataFrame(scores), pd.DataFrame(again))
    assert again.attrs == scores.attrs
    assert scores["clip"].nunique() == 4
    some = data.subset(data.index.index[1:3])
    part = wb.score(some, model, methods, path=path, progress=False)
    assert part["clip"].unique().tolist() == some.index.index.tolist()
    assert read_scores(path)["clip"].nunique() == 4
    assert {"date", "weights", "workbench", "torch", "methods", "tolerance"} <= set(scores.attrs)
    with torch.no_grad():
        model.module.head.weight.mul_(2)
    with pytest.raises(ValueError, match="holds another run: its weights is"):
        wb.score(data, model, methods, path=path, progress=False)


def test_intervals_are_over_groups(tmp_path: Path) -> None:
    scores = wb.score(three_groups(tmp_path), network(["Biking", "no"]), TRUTH, progress=False)
    summary = scores.summary()
    row = summary.loc[("all", "perfect", "points")]
    assert (row["mean"], row["low"], row["high"], row["rows"], row["groups"]) == (1, 1, 1, 4, 3)
    # The centre hits in clips of groups 1, 1 and 2; drawing group 3 thrice gives 0.
    centre = summary.loc[("all", "centre of the middle frame", "points")]
    assert (centre["mean"], centre["low"]) == (0.75, 0)
    uninformative = summary.loc[("uninformative", "perfect", "points")]
    assert (uninformative["rows"], uninformative["groups"]) == (3, 2)
    informative = summary.loc[("informative", "perfect", "points")]
    assert informative["rows"] == 1
    assert np.isnan(informative["low"])


def test_clips_without_a_visible_actor_are_counted(tmp_path: Path) -> None:
    data = three_groups(tmp_path)

    def hidden(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
        clip = data.reader(row, frames=frames, stride=stride)
        if row.name != "v_Biking_g03_c01":
            return clip
        return replace(clip, actions=(replace(clip.actions[0], boxes=None),))

    with pytest.warns(UserWarning, match=r"1 of 4 clips have no actor .*v_Biking_g03_c01"):
        scores = wb.score(
            replace(data, reader=hidden), network(["Biking", "no"]), TRUTH, progress=False
        )
    assert scores["clip"].nunique() == 3


def test_mistakes_are_named(tmp_path: Path) -> None:
    data = ucf(tmp_path)
    model = network(["Biking", "no"])
    with pytest.raises(ValueError, match="no 'lime'; there are tube"):
        wb.score(data, model, ("lime",))
    with pytest.raises(ValueError, match="frame centre are baselines"):
        wb.score(data, model, {"frame centre": "tube"})
    with pytest.raises(ValueError, match=r"method 'small': expected the clip's size"):
        wb.score(data, model, {"small": lambda clip, label: np.zeros((1, 2, 3))}, progress=False)
    bare = replace(data, reader=lambda row, frames, stride: wb.read_clip(row["path"], frames))
    with pytest.raises(ValueError, match="has no annotated action"):
        wb.score(bare, model, progress=False)
    absent = replace(data, index=data.index.assign(present=False))
    with pytest.raises(FileNotFoundError, match=r"1 of 1 clips are not on the disk"):
        wb.score(absent, model)


def test_the_command_appends_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "results.csv"
    for _ in range(2):
        assert score_command("samples/pair", "samples/mfnet", clips=2, table=table) == 0
    rows = pd.read_csv(table)
    assert rows["data"].tolist() == ["samples, pair"] * 2
    assert rows["clips"].tolist() == [2, 2]
    assert rows["all: energy inside, tube"].between(0, 1).all()
    assert "Row appended to" in capsys.readouterr().out


def test_the_fresh_network_does_not_depend_on_other_clips(tmp_path: Path) -> None:
    data = three_groups(tmp_path)
    model = network(["Biking", "no"])
    both = wb.score(data.subset(data.index.index[:2]), model, {"red": red}, progress=False)
    last = wb.score(data.subset(data.index.index[1:2]), model, {"red": red}, progress=False)
    columns = both.columns.drop("seconds")
    rows = both[both["clip"] == data.index.index[1]][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.DataFrame(rows), pd.DataFrame(last[columns]))


@pytest.mark.slow
def test_a_real_clip_from_file_to_table(
    annotations_folder: Path, clips_folder: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("1 Basketball\n2 SoccerJuggling\n")
    assert score_command(
        str(clips_folder / "ucf101"),
        "mfnet3d",
        annotations=str(annotations_folder / "ucf101-24"),
        subset="train",
        classes=str(names),
        table=tmp_path / "scores.csv",
    ) == 0  # fmt: skip
    (row,) = pd.read_csv(tmp_path / "scores.csv").to_dict("records")
    assert (row["model"], row["clips"], row["data"]) == ("mfnet3d", 1, "UCF101-24 train, split 1")
    (kept,) = tmp_path.glob("*.parquet")
    scores = read_scores(kept)
    assert scores["method"].tolist() == ["tube", *BASELINES]
    assert scores["class"].unique().tolist() == ["SoccerJuggling"]
    assert scores["fills the clip"].all()
    # The box is about as large as in the first frame: 64×124 of 320×240, of which 256 columns and
    # rows are cropped to 224.
    share = 64 * 124 / (320 * 240) * (256 / 224) ** 2
    assert scores["box share"].iloc[0] == pytest.approx(share, rel=0.5)


def test_a_folder_without_clips_is_named(annotations_folder: Path, clips_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none of the 910 clips of UCF101-24 test"):
        score_command(
            str(clips_folder / "ucf101"), "samples/mfnet",
            annotations=str(annotations_folder / "ucf101-24"),
        )  # fmt: skip
