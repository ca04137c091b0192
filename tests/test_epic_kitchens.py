"""EPIC-Kitchens as it is downloaded: both releases, videos and frames of them, times, boxes."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from videos import picture, read_numbers, write_video

import workbench as wb
from workbench.datasets import samples, scenes
from workbench.datasets.csv_files import clock_times
from workbench.studies import sample_files

VERBS, NOUNS = ("take", "put", "stir"), ("tap", "spoon")
NTSC = Fraction(60000, 1001)  # 59.94 frames a second


def stamp(seconds: float) -> str:
    return f"00:{int(seconds) // 60:02d}:{seconds % 60:06.3f}"


def segment(number: int, start: float, stop: float, video: str = "P01_01", **more) -> dict:
    return {
        "narration_id": f"{video}_{number}", "uid": number, "participant_id": video[:3],
        "video_id": video, "narration_timestamp": stamp(start), "start_timestamp": stamp(start),
        "stop_timestamp": stamp(stop), "start_frame": max(1, int(60 * start)),
        "stop_frame": int(60 * stop), "narration": "stir tap",
        "verb": "stir-in", "verb_class": 2, "noun": "tap", "noun_class": 0, "all_nouns": "['tap']",
        "all_noun_classes": "[0]", **more,
    }  # fmt: skip


def annotate(folder: Path, rows: list[dict], release: int = 100) -> Path:
    """Write the segments and the class lists of a release."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    if release == 100:
        table.drop(columns="uid").to_csv(folder / "EPIC_100_validation.csv", index=False)
        for kind, names in (("verb", VERBS), ("noun", NOUNS)):
            classes = pd.DataFrame(
                {"id": range(len(names)), "key": names, "instances": "[]", "category": "any"}
            )
            classes.to_csv(folder / f"EPIC_100_{kind}_classes.csv", index=False)
    else:
        older = table.drop(columns=["narration_id", "narration_timestamp"])
        older.to_csv(folder / "EPIC_train_action_labels.csv", index=False)
        for kind, names in (("verb", VERBS), ("noun", NOUNS)):
            classes = pd.DataFrame(
                {f"{kind}_id": range(len(names)), "class_key": names, f"{kind}s": "[]"}
            )
            classes.to_csv(folder / f"EPIC_{kind}_classes.csv", index=False)
    return folder


def jpegs(times: np.ndarray, rate: float, stop: float) -> list[bytes]:
    """What is extracted from a video at a constant rate: picture n is what it shows at n / rate."""
    shown = np.searchsorted(times, np.arange(int(stop * rate)) / rate + 1e-9, side="right") - 1
    encoded = []
    for number in shown:
        buffer = io.BytesIO()
        Image.fromarray(picture(round(1000 * times[number]))).save(buffer, "JPEG", quality=92)
        encoded.append(buffer.getvalue())
    return encoded


def write_tar(path: Path, pictures: list[bytes], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        folder = tarfile.TarInfo(".")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, content in enumerate(pictures, 1):
            member = tarfile.TarInfo(f"./frame_{number:010d}.jpg")
            member.size = len(content)
            member.mtime = 1.5  # type: ignore[assignment]  # writes a pax note
            tar.addfile(member, io.BytesIO(content))
    return path


def write_folder(path: Path, pictures: list[bytes]) -> Path:
    path.mkdir(parents=True)
    for number, content in enumerate(pictures, 1):
        (path / f"frame_{number:010d}.jpg").write_bytes(content)
    return path


# Every picture shows its own time in milliseconds. P01_01 has 59.94 frames a second, P01_02 a
# variable rate, and P01_101 fifty, as the videos that came with release 100.
LENGTH = 8.0


def frame_times(video: str) -> np.ndarray:
    if video == "P01_02":
        steps = np.random.default_rng(2).choice([0.016, 0.017, 0.02, 0.033, 0.042], 600)
        times = np.concatenate([[0], np.cumsum(steps)])
        return times[times < LENGTH].round(3)
    rate = NTSC if video == "P01_01" else 50
    return np.arange(int(LENGTH * rate)) / float(rate)


@pytest.fixture(scope="module")
def kitchens(tmp_path_factory) -> dict[str, Path]:
    """The same videos and segments in three homes: videos, folders of frames, tars of them."""
    base = tmp_path_factory.mktemp("kitchens")
    draw = np.random.default_rng(1)
    rows = []
    for video in ("P01_01", "P01_02", "P01_101"):
        times = frame_times(video)
        pictures = (picture(round(1000 * t)) for t in times)
        folder = base / "video" / "EPIC-KITCHENS" / "P01"
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        rate = {"P01_01": dict(fps=NTSC), "P01_02": dict(times=times), "P01_101": dict(fps=50)}[
            video
        ]
        write_video(folder / "videos" / f"{video}.MP4", pictures, options={"crf": "16"}, **rate)
        frames = jpegs(times, 50 if video == "P01_101" else 60, LENGTH)
        write_folder(base / "folder" / "EPIC-KITCHENS" / "P01" / "rgb_frames" / video, frames)
        write_tar(base / "tar" / "EPIC-KITCHENS" / "P01" / "rgb_frames" / f"{video}.tar", frames)
        for number in range(12):
            start = draw.uniform(0, LENGTH - 1.5)
            rows.append(segment(number, start, start + draw.uniform(0.5, 1.4), video))
    for home in base.iterdir():
        annotate(home, rows)
    return {home.name: home for home in base.iterdir()}


@pytest.mark.parametrize("home", ["video", "folder", "tar"])
def test_frames_read_are_those_of_the_segment(kitchens, home):
    """The time in each picture, the time of the clip, and the interval that was asked for."""
    data = wb.epic_kitchens(kitchens[home], frames=None)
    assert (len(data), len(data.present())) == (36, 36)
    for name, row in data.index.iterrows():
        clip, times = data[name], frame_times(row["video"])
        burnt = read_numbers(clip.frames) / 1000
        assert ((clip.times >= row["start"] - 1e-6) & (clip.times < row["stop"])).all()
        if home == "video":
            np.testing.assert_allclose(burnt, clip.times, atol=0.0011)
            wanted = times[(times >= row["start"]) & (times < row["stop"])]
            np.testing.assert_allclose(clip.times, wanted, atol=0.0011)
        else:
            shown = times[
                np.searchsorted(times, clip.times + 1e-9, side="right") - 1
            ]  # the latest by then
            np.testing.assert_allclose(burnt, shown, atol=0.0011)
            rate = 50 if row["video"] == "P01_101" else 60
            assert clip.fps == rate
            assert len(clip) == pytest.approx(row["duration"] * rate, abs=1)
            np.testing.assert_allclose(clip.indices / rate, clip.times)


@pytest.mark.parametrize("home", ["folder", "tar"])
def test_video_and_frames_show_the_same_moment(kitchens, home):
    videos, pictures = (wb.epic_kitchens(kitchens[each], frames=16) for each in ("video", home))
    worst = 0.0
    for name, row in videos.index.iterrows():
        seen = [read_numbers(data[name].frames) / 1000 for data in (videos, pictures)]
        frame = np.diff(frame_times(row["video"])).max()  # the longest, where it varies
        apart = np.abs(seen[0] - seen[1]) / frame
        if (
            row["video"] == "P01_02"
        ):  # 16 frames spread over a variable rate are not 16 moments spread evenly
            apart = apart[[0, -1]]
        worst = max(worst, apart.max())
    assert worst < 1.07  # of a frame; a millisecond for rounding


def test_folder_and_tar_give_the_same_clip_and_only_read_what_is_needed(kitchens):
    folder, tar = (wb.epic_kitchens(kitchens[each], stride=2) for each in ("folder", "tar"))
    for name in folder.index.index[::9]:
        np.testing.assert_array_equal(folder[name].frames, tar[name].frames)
        assert folder[name].indices.tolist() == tar[name].indices.tolist()
        assert set(np.diff(folder[name].indices)) == {2}


def test_the_index_has_what_people_filter_on(kitchens):
    data = wb.epic_kitchens(kitchens["video"], task="verb")
    row = data.index.loc["P01_02_3"]
    assert data.classes == list(VERBS)
    assert (row["class"], row["class_id"], row["verb"], row["noun"]) == (
        "stir",
        2,
        "stir-in",
        "tap",
    )
    assert (row["participant"], row["video"], row["narration"]) == ("P01", "P01_02", "stir tap")
    assert row["duration"] == pytest.approx(row["stop"] - row["start"])
    assert Path(row["path"]) == kitchens["video"] / "EPIC-KITCHENS/P01/videos/P01_02.MP4"
    clip = data["P01_02_3"]
    assert (len(clip), clip.label, clip.name, clip.boxes) == (16, "stir", "P01_02_3", None)
    assert clip.action == pytest.approx((row["start"], row["stop"]))
    nouns = wb.epic_kitchens(kitchens["video"], task="noun")
    assert nouns.classes == list(NOUNS)
    assert set(nouns.index["class"]) == {"tap"}
    part = data.subset(data.index[data.index["video"] == "P01_101"])
    assert pickle.loads(pickle.dumps(part))[0].frames.shape == (16, 32, 128, 3)


LAYOUTS = {
    "videos/train/P01/P01_01.MP4": None,
    "videos/test/P01/P01_01.mp4": None,
    "EPIC_KITCHENS_2018/videos/train/P01/P01_01.MP4": None,
    "P01/videos/P01_01.MP4": None,
    "EPIC-KITCHENS/P01/videos/P01_01.MP4": "EPIC-KITCHENS",
    "frames_rgb_flow/rgb/train/P01/P01_01": None,
    "frames_rgb_flow/rgb/test/P01/P01_01.tar": None,
    "EPIC-KITCHENS/P01/rgb_frames/P01_01.tar": "EPIC-KITCHENS",
}


@pytest.mark.parametrize("place", LAYOUTS)
@pytest.mark.parametrize("release", [55, 100])
def test_both_layouts_are_found(tmp_path, kitchens, place, release):
    source = {"": "folder", ".tar": "tar"}.get(Path(place).suffix, "video")
    (origin,) = kitchens[source].rglob(
        "P01_01" + {"video": ".MP4", "folder": "", "tar": ".tar"}[source]
    )
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).symlink_to(origin)
    annotate(tmp_path / "annotations", [segment(0, 1, 2)], release)
    for root in filter(None, (tmp_path, tmp_path / LAYOUTS[place] if LAYOUTS[place] else None)):
        data = wb.epic_kitchens(root, release, "train" if release == 55 else "validation")
        assert data.index["present"].all()
        assert Path(data.index["path"].iloc[0]) == tmp_path / place
        assert read_numbers(data[0].frames)[0] == pytest.approx(1000, abs=18)


def test_a_source_can_be_chosen(tmp_path, kitchens):
    for home, part in (("video", "videos"), ("tar", "rgb_frames")):
        (tmp_path / "EPIC-KITCHENS" / "P01").mkdir(parents=True, exist_ok=True)
        (tmp_path / "EPIC-KITCHENS" / "P01" / part).symlink_to(
            kitchens[home] / "EPIC-KITCHENS" / "P01" / part
        )
    notes = kitchens["video"]
    suffixes = {None: ".MP4", "video": ".MP4", "frames": ".tar"}
    for source, suffix in suffixes.items():
        data = wb.epic_kitchens(tmp_path, annotations=notes, source=source)
        assert Path(data.index["path"].iloc[0]).suffix == suffix
        assert len(data[0]) == 16
    with pytest.raises(ValueError, match="'video' or 'frames' or None, got 'flow'"):
        wb.epic_kitchens(tmp_path, annotations=notes, source="flow")


def test_a_video_that_is_not_there_is_told_with_all_its_places(tmp_path):
    annotate(tmp_path, [segment(0, 1, 2)])
    data = wb.epic_kitchens(tmp_path)
    assert len(data.present()) == 0
    assert "none of them on disk" in repr(data)
    with pytest.raises(FileNotFoundError) as error:
        data["P01_01_0"]
    for place in LAYOUTS:
        if not place.startswith(("EPIC_KITCHENS_2018", "P01")) and ".mp4" not in place:
            assert str(tmp_path / place) in str(error.value)
    assert Path(data.index["path"].iloc[0]) == tmp_path / "EPIC-KITCHENS/P01/videos/P01_01.MP4"


# Damage.


def test_a_tar_that_is_cut_off_is_read_up_to_there(tmp_path, kitchens):
    origin = kitchens["tar"] / "EPIC-KITCHENS/P01/rgb_frames/P01_01.tar"
    target = tmp_path / "EPIC-KITCHENS/P01/rgb_frames/P01_01.tar"
    content = origin.read_bytes()
    target.parent.mkdir(parents=True)
    target.touch()
    annotate(tmp_path, [segment(0, 0.5, 1.5), segment(1, 6, 7)])
    data = wb.epic_kitchens(tmp_path)
    with tarfile.open(origin) as tar:
        middle = next(member for member in tar if member.name.endswith("frame_0000000240.jpg"))
    block = middle.offset_data + -(-middle.size // 512) * 512
    for cut, last in (
        (len(content) // 2, None),
        (middle.offset_data + 5, 239),
        (block, 240),
        (block + 200, 240),
    ):
        target.write_bytes(content[:cut])
        assert read_numbers(data[0].frames)[0] == pytest.approx(500, abs=18)
        with pytest.raises(
            wb.ClipError, match=rf"P01_01.tar is cut off: .* after frame {last or ''}.*again"
        ):
            data[1]
    target.write_bytes(content)
    assert len(data[1]) == 16
    target.write_bytes(gzip.compress(content))
    with pytest.raises(wb.ClipError, match=r"is no tar.*gunzip"):
        data[0]
    target.write_bytes(b"")
    with pytest.raises(wb.ClipError, match=r"holds no frame_0000000001.jpg"):
        data[0]


def test_a_folder_with_gaps_or_broken_pictures_is_refused_where_it_matters(tmp_path):
    frames = jpegs(frame_times("P01_01"), 60, 2.0)
    folder = write_folder(tmp_path / "EPIC-KITCHENS/P01/rgb_frames/P01_01", frames)
    annotate(tmp_path, [segment(0, 0.1, 0.8), segment(1, 1, 1.8)])
    data = wb.epic_kitchens(tmp_path)
    (folder / "frame_0000000063.jpg").write_bytes(frames[0][:300])
    with pytest.raises(wb.ClipError, match=r"P01_01, frame 63 cannot be read as a picture"):
        data.read(1, stride=1)
    (folder / "frame_0000000063.jpg").unlink()
    with pytest.raises(wb.ClipError, match=r"frame_0000000063.jpg is missing \(119 of 120"):
        data.read(1, stride=1)
    assert len(data.read(0, stride=1)) == 42
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(wb.ClipError, match=r"holds no frame_0000000001.jpg"):
        data[0]


@pytest.mark.parametrize("home", ["video", "folder", "tar"])
def test_a_segment_beyond_the_end_is_an_error_and_one_at_the_end_is_not(tmp_path, kitchens, home):
    notes = annotate(tmp_path / "notes", [segment(0, 7, 9), segment(1, 20, 21), segment(2, 7, 8)])
    data = wb.epic_kitchens(kitchens[home], annotations=notes)
    for number in (0, 1):
        with pytest.raises(
            ValueError,
            match=r"P01_01.*expected a segment within the video, 0 to [78]\.\d+ s; got start=",
        ):
            data[number]
    assert len(data[2]) == 16


# Annotations.


def drop(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.drop(columns=column)


@pytest.mark.parametrize(
    ("release", "file", "change", "complaint"),
    [
        (
            100,
            "EPIC_100_validation.csv",
            drop("stop_timestamp"),
            r"no column stop_timestamp; it has narration_id, ",
        ),
        (
            100,
            "EPIC_100_verb_classes.csv",
            drop("key"),
            r"EPIC_100_verb_classes.csv: no column key; it has id, inst",
        ),
        (
            55,
            "EPIC_train_action_labels.csv",
            drop("verb_class"),
            r"no column verb_class; it has uid",
        ),
        (
            100,
            "EPIC_100_validation.csv",
            lambda t: t.assign(verb_class=3),
            r"verb_class 3 of segment P01_01_0 .* the 3",
        ),
        (
            100,
            "EPIC_100_validation.csv",
            lambda t: t.assign(start_timestamp="soon"),
            r"validation.csv, row 2: start_timestamp: .* as h:m:s, .*; got 'soon'",
        ),
        (100, "EPIC_100_verb_classes.csv", lambda t: t.iloc[::2], r"expected ids 0, 1, 2"),
    ],
)
def test_wrong_annotations_are_refused(tmp_path, release, file, change, complaint):
    annotate(tmp_path, [segment(0, 1, 2)], release)
    change(pd.read_csv(tmp_path / file)).to_csv(tmp_path / file, index=False)
    with pytest.raises(ValueError, match=complaint):
        wb.epic_kitchens(tmp_path, release, "train" if release == 55 else "validation")


@pytest.mark.parametrize("release", [55, 100])
def test_files_of_the_other_release_are_refused(tmp_path, release):
    names = {
        55: ("EPIC_train_action_labels.csv", "EPIC_verb_classes.csv", "train"),
        100: ("EPIC_100_validation.csv", "EPIC_100_verb_classes.csv", "validation"),
    }
    (segments, verbs, subset), (other_segments, other_verbs, _) = (
        names[release],
        names[155 - release],
    )
    for each in (55, 100):
        annotate(tmp_path, [segment(0, 1, 2)], each)
    own = (tmp_path / verbs).read_bytes()
    (tmp_path / verbs).write_bytes((tmp_path / other_verbs).read_bytes())
    with pytest.raises(
        ValueError, match=rf"{verbs} is a list of release {155 - release}: expected columns"
    ):
        wb.epic_kitchens(tmp_path, release, subset)
    (tmp_path / verbs).write_bytes(own)
    assert len(wb.epic_kitchens(tmp_path, release, subset)) == 1
    (tmp_path / segments).write_bytes((tmp_path / other_segments).read_bytes())
    with pytest.raises(ValueError, match=rf"{segments} is of release {155 - release}"):
        wb.epic_kitchens(tmp_path, release, subset)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        wb.epic_kitchens(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError,
        match=r"no EPIC_100_validation.csv; looked in(\n|.)*epic-kitchens-100-annot",
    ):
        wb.epic_kitchens(tmp_path)
    annotate(tmp_path, [segment(0, 1, 2)])
    (tmp_path / "EPIC_100_noun_classes.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no file .*EPIC_100_noun_classes.csv. The annotations are at"
    ):
        wb.epic_kitchens(tmp_path, task="noun")
    (tmp_path / "EPIC_100_validation.csv").write_text("")
    with pytest.raises(ValueError, match=r"EPIC_100_validation.csv cannot be read as CSV"):
        wb.epic_kitchens(tmp_path)


def test_wrong_requests_are_refused(tmp_path):
    requests = {
        "release: there are 55 and 100, got 200": dict(release=200),
        "'train', got 'validation'. Release 55 has no validation set": dict(release=55),
        "The labels of the test sets are not published": dict(release=55, subset="test_s1"),
        "'train' and 'validation', got 'test'. The labels": dict(subset="test"),
        "task: expected 'verb' or 'noun', got 'action'": dict(task="action"),
    }
    for complaint, request in requests.items():
        with pytest.raises(ValueError, match=complaint):
            wb.epic_kitchens(tmp_path, **request)


def test_segments_without_a_class_do_not_enter(tmp_path):
    rows = [segment(0, 1, 2), segment(1, 2, 3, verb_class=None), segment(2, 3, 4), segment(3, 4, 5)]
    annotate(tmp_path, rows, 55)
    pd.DataFrame([{"uid": 2}]).to_csv(tmp_path / "EPIC_train_invalid_labels.csv", index=False)
    for task in ("verb", "noun"):
        assert wb.epic_kitchens(tmp_path, 55, "train", task).index.index.tolist() == ["0", "3"]


# Boxes of objects.


def box_labels(
    folder: Path, rows: list[tuple[int, int, str]], times: dict[int, float] | None = None
) -> None:
    """Write rows (noun, object frame, boxes), and times of object frames to the correspondence."""
    table = pd.DataFrame(rows, columns=["noun_class", "frame", "bounding_boxes"])
    table["frame"] = table["frame"].map("{:06d}".format)
    table = table.assign(noun="tap", participant_id="P01", video_id="P01_01")
    table.to_csv(folder / "EPIC_train_object_labels.csv", index=False)
    info = {"video": ["P01_01"], "resolution": ["256x64"], "duration": [LENGTH], "fps": [59.94]}
    pd.DataFrame(info).to_csv(folder / "EPIC_video_info.csv", index=False)
    if times:
        joined = {
            "participant_id": "P01",
            "video_id": "P01_01",
            "object_frame": list(times),
            "action_frame": 0,
        }
        stamps = pd.Series(times.values()).map(stamp)
        pd.DataFrame({**joined, "timestamp": stamps}).to_csv(
            folder / "EPIC_train_object_action_correspondence.csv", index=False
        )


@pytest.mark.filterwarnings("ignore:no .*correspondence")
def test_boxes_are_those_of_the_nearest_annotated_frame_in_the_clips_pixels(tmp_path, kitchens):
    """The video has 128×32 pixels, its annotations were made at 256×64: everything is halved."""
    notes = annotate(tmp_path, [segment(0, 0.4, 2.4), segment(1, 5, 6)], 55)
    rows = [
        (0, 30, "[(8, 20, 16, 40)]"),  # 0.5005 s: top, left, height, width
        (0, 60, "[]"),
        (0, 90, "[(40, 200, 60, 100), (0, 0, 10, 20)]"),  # over the edge
        (1, 90, "[(2, 4, 8, 16)]"),
    ]
    box_labels(notes, rows)
    data = wb.epic_kitchens(kitchens["video"], 55, "train", annotations=notes, frames=None)
    clip = data["0"]
    assert clip.boxes.shape == (len(clip), 3, 4)
    near = np.abs(clip.times[:, None] - np.array([30, 60, 90]) / 59.94)
    nearest = np.where(near.min(1) <= 15 / 59.94, near.argmin(1), 3)
    assert {0, 1, 2, 3} == set(nearest)
    nothing = [np.nan] * 4
    expected = {
        0: [[10, 4, 30, 12], nothing, nothing],
        1: [nothing] * 3,
        2: [[100, 20, 128, 32], [0, 0, 10, 5], [2, 1, 10, 5]],  # the segment's own noun first
        3: [nothing] * 3,
    }
    np.testing.assert_allclose(clip.boxes, [expected[each] for each in nearest])
    half = clip.resize(16, 64)
    np.testing.assert_allclose(half.boxes, clip.boxes / 2)
    assert data["1"].boxes is None
    assert wb.epic_kitchens(kitchens["folder"], 55, "train", annotations=notes)[
        "0"
    ].boxes.shape == (16, 3, 4)


def test_boxes_placed_without_the_correspondence_file_come_with_a_warning(tmp_path, kitchens):
    notes = annotate(tmp_path, [segment(0, 0.1, 2)], 55)
    box_labels(notes, [(0, 30, "[(0, 0, 64, 256)]")])
    data = wb.epic_kitchens(kitchens["video"], 55, "train", annotations=notes)
    with pytest.warns(UserWarning, match="object_action_correspondence.csv: .*2 s off"):
        assert data["0"].boxes is not None


def test_boxes_go_by_the_times_of_the_correspondence_file(tmp_path, kitchens):
    notes = annotate(tmp_path, [segment(0, 0.1, 2)], 55)
    box_labels(notes, [(0, 30, "[(0, 0, 64, 256)]"), (0, 90, "[(0, 0, 64, 128)]")], {30: 1.0})
    clip = wb.epic_kitchens(kitchens["video"], 55, "train", annotations=notes, frames=None)[0]
    right = clip.boxes[:, 0, 2]
    assert (right[np.abs(clip.times - 1.0) < 0.24] == 128).all()
    assert (right[np.abs(clip.times - 90 / 59.94) < 0.24] == 64).all()
    assert np.isnan(right[clip.times < 0.74]).all()


@pytest.mark.filterwarnings("ignore:no .*correspondence")
@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (
            "EPIC_train_object_labels.csv",
            "noun_class,video_id,frame,bounding_boxes\n0,P01_01,30,[(1;2;3)]\n",
            "expected box",
        ),
        (
            "EPIC_video_info.csv",
            "video,resolution\nP07_01,256x64\n",
            "expected a resolution such as 1920x1080 for P01_01",
        ),
        (
            "EPIC_train_object_labels.csv",
            "noun_class,video_id,frame\n0,P01_01,30\n",
            "no column bounding_boxes",
        ),
    ],
)
def test_wrong_boxes_are_refused(tmp_path, kitchens, file, text, complaint):
    notes = annotate(tmp_path, [segment(0, 0.1, 2)], 55)
    box_labels(notes, [(0, 30, "[(0, 0, 64, 256)]")])
    (notes / file).write_text(text)
    with pytest.raises(ValueError, match=complaint):
        wb.epic_kitchens(kitchens["video"], 55, "train", annotations=notes)[0]


# What is shipped, and what is official.


def test_the_shipped_samples_have_their_scenes_boxes():
    root = samples.FOLDER / "epic-kitchens"
    assert len(wb.epic_kitchens(root, 100)) == 9
    data = wb.epic_kitchens(root, 55, "train")
    assert data.classes == list(samples.CLASSES)
    compared = 0
    for name, row in data.index.iterrows():
        clip, video = data[name], list(sample_files.KITCHENS).index(row["video"])
        scene = sample_files._kitchen(
            sample_files.KITCHENS[row["video"]], sample_files.SEED + 1000 + video
        )
        (actor,) = (each for each in scene.acting if each.start == row["start"])
        assert clip.label == actor.action
        for position, moment in enumerate(clip.times):
            annotated = moment * 59.94 / 30
            time_of_box = round(annotated) * 30 / 59.94
            if abs(annotated % 1 - 0.5) > 0.05 and actor.start <= time_of_box < actor.stop:
                drawn = scenes.boxes(actor, scene, np.array([time_of_box]), clip.size)[0]
                np.testing.assert_allclose(clip.boxes[position, 0], drawn, atol=1.1)
                compared += 1
    assert compared > 9 * 8


def test_the_official_annotations_have_all_their_rows(annotations_folder, tmp_path):
    data = wb.epic_kitchens(tmp_path, annotations=annotations_folder)
    assert (len(data), len(data.classes), data.classes[:2]) == (9668, 97, ["take", "put"])
    assert (
        len(wb.epic_kitchens(tmp_path, task="noun", annotations=annotations_folder).classes) == 300
    )
    first = data.index.loc["P01_11_1"]
    assert (first["start"], first["stop"], first["class"], first["verb"]) == (
        1.56,
        2.45,
        "put",
        "put-down",
    )
    older = wb.epic_kitchens(
        tmp_path, 55, "train", annotations=annotations_folder / "epic-kitchens-55"
    )
    assert (len(older), len(older.classes)) == (1000, 125)
    assert older.index["class_id"].between(0, 124).all()
    invalid = pd.read_csv(annotations_folder / "epic-kitchens-55" / "EPIC_train_invalid_labels.csv")
    assert len(invalid) == 116
    assert not set(invalid["uid"].astype(str)) & set(older.index.index)
    assert (
        len(wb.epic_kitchens(tmp_path, 55, "train", "noun", annotations=annotations_folder).classes)
        == 352
    )
    for part in (
        data,
        older,
    ):  # start_frame counts pictures at 60 a second, whatever the video's own rate
        assert (part.index["start_frame"] - 60 * part.index["start"]).abs().max() < 1.001
        assert (part.index["stop_frame"] - 60 * part.index["stop"]).abs().max() < 1.001


def test_the_official_rows_without_a_verb_do_not_enter(annotations_folder, tmp_path):
    official = annotations_folder / "epic-kitchens-55"
    for name in ("EPIC_train_action_labels.csv", "EPIC_train_invalid_labels.csv"):
        table = pd.read_csv(official / name)
        table.to_csv(tmp_path / name, index=False)
    for name in ("EPIC_verb_classes.csv", "EPIC_noun_classes.csv"):
        (tmp_path / name).write_bytes((official / name).read_bytes())
    both = pd.concat([pd.read_csv(official / "EPIC_train_action_labels.csv"), table])
    both.to_csv(tmp_path / "EPIC_train_action_labels.csv", index=False)
    assert (len(both), len(wb.epic_kitchens(tmp_path, 55, "train"))) == (1116, 1000)


@pytest.mark.slow
def test_a_table_of_a_hundred_thousand_segments_takes_less_than_three_seconds(tmp_path):
    videos = [f"P{p:02d}_{v:02d}" for p in range(1, 38) for v in range(1, 20)]
    rows = [
        segment(number, number % 3000, number % 3000 + 2, videos[number % len(videos)])
        for number in range(100_000)
    ]
    annotate(tmp_path, rows)
    for video in videos[::2]:
        path = tmp_path / "EPIC-KITCHENS" / video[:3] / "videos" / f"{video}.MP4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before, clock = time.process_time(), time.perf_counter()
    data = wb.epic_kitchens(tmp_path)
    elapsed, clock = time.process_time() - before, time.perf_counter() - clock
    assert len(data) == 100_000
    assert 0.4 < data.index["present"].mean() < 0.6
    assert elapsed < 3, f"{elapsed:.2f} s of one processor"
    print(f"{elapsed:.2f} s of one processor, {clock:.2f} s in all")


@pytest.mark.slow
def test_a_long_tar_is_listed_once_and_then_read_at_once(tmp_path):
    """A quarter of an hour, 54,000 frames: listing is seconds, a read is not."""
    content = jpegs(np.array([0.0]), 60, 1 / 60)[0]
    path = write_tar(tmp_path / "EPIC-KITCHENS/P01/rgb_frames/P01_01.tar", [content] * 54_000)
    assert path.is_file()
    annotate(tmp_path, [segment(0, 1, 3), segment(1, 890, 892)])
    data = wb.epic_kitchens(tmp_path)
    spent = []
    for name in (0, 0, 1, 1):
        before = time.perf_counter()
        assert len(data[name]) == 16
        spent.append(time.perf_counter() - before)
    assert spent[0] < 5
    assert max(spent[1:]) < 0.5
    print(*(f"{each:.3f} s" for each in spent))


def test_clock_times_by_hand() -> None:
    table = pd.DataFrame({"start": ["00:00:00.14", "00:01:02.70", "01:02:03", "00:59:59.99"]})
    seconds = clock_times(Path("times.csv"), table, "start")
    assert seconds.tolist() == [0.14, 62.7, 3723.0, 3599.99]
