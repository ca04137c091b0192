"""UCF101-24, JHMDB and VISOR: boxes and masks land on the right frame and the right pixels."""

from __future__ import annotations

import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from videos import picture, read_numbers, write_video

import workbench as wb
from workbench.datasets import actor_boxes, visor
from workbench.datasets.actor_boxes import read_actors
from workbench.datasets.array_pickles import load_arrays
from workbench.datasets.puppet_masks import boxes_of

NAME = "Biking/v_Biking_g01_c01"
COUNT = 60
# Frame times in seconds, to the millisecond; the last is a phone's variable rate.
TIMES = {
    "25": np.arange(COUNT) / 25,
    "29.97": np.arange(COUNT) * 1001 / 30000,
    "50": np.arange(COUNT) / 50,
    "59.94": np.arange(COUNT) * 1001 / 60000,
    "variable": np.cumsum(np.tile([0.033, 0.050, 0.017, 0.040], COUNT // 4)) - 0.033,
}


def write_frames(path: Path, rate: str, size: tuple[int, int] = (240, 320)) -> Path:
    """A video whose pictures show their numbers, whatever its name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    film = path.with_suffix(".mp4")
    write_video(film, (picture(n, *size) for n in range(COUNT)), times=TIMES[rate])
    return film.rename(path)


def numbered_tube(first: int, count: int) -> np.ndarray:
    """Boxes (x, y, w, h), 1-based, whose left edge is the frame's number."""
    numbers = np.arange(first, first + count)
    return np.stack([numbers + 1, 0 * numbers + 11, 0 * numbers + 30, 0 * numbers + 50], axis=1)


def write_pyannot(path: Path, tubes: list[tuple[int, np.ndarray]], name: str = NAME) -> Path:
    label = actor_boxes.CLASSES.index(name.split("/")[0])
    annotations = [
        {"label": label, "sf": first, "ef": first + len(boxes), "boxes": boxes.astype(np.uint8)}
        for first, boxes in tubes
    ]
    path.write_bytes(
        pickle.dumps({name: {"annotations": annotations, "numf": np.uint8(COUNT), "label": label}})
    )
    return path


@pytest.mark.parametrize("rate", TIMES)
def test_ucf_boxes_land_on_their_frames(tmp_path: Path, rate: str) -> None:
    write_frames(tmp_path / "UCF-101" / f"{NAME}.avi", rate)
    write_pyannot(tmp_path / "pyannot.pkl", [(7, numbered_tube(7, 40))])
    data = wb.ucf101_24(tmp_path)
    for clip in (data[0], data.read(0, frames=16), data.read(0, frames=8, stride=3)):
        numbers = read_numbers(clip.frames)
        boxes = clip.actions[0].boxes
        inside = (numbers >= 7) & (numbers < 47)
        assert (boxes[inside, 0] == numbers[inside]).all()
        assert np.isnan(boxes[~inside]).all()
        action = clip.actions[0]
        assert (clip.during((action.start, action.stop)) == inside).all()
    assert data.index.loc["v_Biking_g01_c01", "present"]


def test_each_actor_is_an_action_with_its_own_interval(tmp_path: Path) -> None:
    write_frames(tmp_path / "UCF-101" / f"{NAME}.avi", "25")
    write_pyannot(
        tmp_path / "pyannot.pkl", [(0, numbered_tube(0, 20)), (30, numbered_tube(30, 30))]
    )
    clip = wb.ucf101_24(tmp_path)[0]
    assert [(a.label, a.start, a.stop) for a in clip.actions] == [
        ("Biking", 0.0, pytest.approx(0.8)),
        ("Biking", pytest.approx(1.2), pytest.approx(2.4)),
    ]
    assert clip.actions[0].boxes[3].tolist() == [3, 10, 33, 60]


def test_uint8_boxes_do_not_overflow(tmp_path: Path) -> None:
    boxes = np.array([[200, 150, 120, 90]])  # 200 + 120 is 64 in uint8
    actors = read_actors(write_pyannot(tmp_path / "pyannot.pkl", [(0, boxes)]))
    assert actors[NAME][0].boxes.tolist() == [[199, 149, 319, 239]]


def test_boxes_follow_resizing_and_cropping(tmp_path: Path) -> None:
    write_frames(tmp_path / "UCF-101" / f"{NAME}.avi", "25")
    write_pyannot(tmp_path / "pyannot.pkl", [(0, numbered_tube(0, COUNT))])
    clip = wb.ucf101_24(tmp_path)[0]
    assert clip.resize(120, 160).actions[0].boxes[10].tolist() == [5, 5, 20, 30]
    assert clip.crop(5, 20, 100, 100).actions[0].boxes[10].tolist() == [0, 5, 20, 55]


def corners(annotated: dict) -> dict:
    """UCF101v2-GT.pkl's content from pyannot.pkl's: 1-based frames and corners, x2 = x + w."""
    tubes: dict = {}
    for video, entry in annotated.items():
        for actor in entry["annotations"]:
            numbers = np.arange(actor["sf"], actor["ef"], dtype=np.float32) + 1
            x, y, w, h = actor["boxes"].astype(np.float32).T
            rows = np.column_stack([numbers, x, y, x + w, y + h])
            tubes.setdefault(video, {}).setdefault(actor["label"], []).append(rows)
    return {"labels": list(actor_boxes.CLASSES), "gttubes": tubes, "nframes": {}, "resolution": {}}


def test_both_formats_give_the_same_boxes(tmp_path: Path, annotations_folder: Path) -> None:
    source = annotations_folder / "ucf101-24" / "pyannot.pkl"
    original = read_actors(source)
    path = tmp_path / "UCF101v2-GT.pkl"
    path.write_bytes(pickle.dumps(corners(load_arrays(source)), protocol=2))
    again = read_actors(path)
    assert again.keys() == original.keys()
    for video, actors in original.items():
        assert len(again[video]) == len(actors)
        for one, other in zip(actors, again[video]):
            assert (one.label, one.first) == (other.label, other.first)
            np.testing.assert_array_equal(one.boxes, other.boxes)


def test_all_of_ucf101_24(annotations_folder: Path, clips_folder: Path) -> None:
    notes = annotations_folder / "ucf101-24"
    started = time.perf_counter()
    data = wb.ucf101_24(clips_folder / "ucf101", notes, subset=None)
    assert time.perf_counter() - started < 3
    assert (len(data), data.index["actors"].sum(), data.index["boxes"].sum()) == (
        3194, 4458, 573862,
    )  # fmt: skip
    test = wb.ucf101_24(clips_folder / "ucf101", notes)
    listed = (notes / "testlist01.txt").read_text().split()
    assert set(test.index["class"] + "/" + test.index.index) == set(listed)
    boxes = np.concatenate([a.boxes for tubes in data.reader.actors.values() for a in tubes])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 320
    assert boxes[:, 3].max() <= 240
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    clip = data.present()[0]
    # facts.md: x, y, w, h = 135, 55, 64, 124, counted from 1.
    assert (len(clip), clip.actions[0].boxes[0].tolist()) == (240, [134, 54, 198, 178])


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, (f"touch '{self.path}'",)


def with_bombs(value: object, bomb: Bomb):  # type: ignore[no-untyped-def]
    """The value with one part replaced by the bomb, for every part."""
    yield bomb
    if isinstance(value, dict):
        for key, inner in value.items():
            for changed in with_bombs(inner, bomb):
                yield {**value, key: changed}
            yield {**value, "first": bomb}
    if isinstance(value, list):
        for place, inner in enumerate(value):
            for changed in with_bombs(inner, bomb):
                yield [*value[:place], changed, *value[place + 1 :]]
        yield [*value, bomb]
    if isinstance(value, np.ndarray):
        objects = value.astype(object)
        objects.flat[0] = bomb
        yield objects


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_at_every_position(tmp_path: Path, protocol: int) -> None:
    write_pyannot(tmp_path / "good.pkl", [(0, numbered_tube(0, 3))])
    good = pickle.loads((tmp_path / "good.pkl").read_bytes())
    variants = [*with_bombs(good, Bomb(tmp_path / "ran"))]
    variants += [*with_bombs(corners(good), Bomb(tmp_path / "ran"))]
    assert len(variants) > 20
    path = tmp_path / "bad.pkl"
    for variant in variants:
        path.write_bytes(pickle.dumps(variant, protocol=protocol))
        with pytest.raises(ValueError, match=r"system, which is refused"):
            load_arrays(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'idna'\ntR.",
        b"P1\n.",
        b"not a pickle",
        b"",
    ],
)
def test_other_functions_codecs_and_references_are_refused(tmp_path: Path, code: bytes) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(code)
    with pytest.raises(ValueError, match=r"is no pickle of arrays"):
        load_arrays(path)


def test_arrays_of_every_protocol_are_read(tmp_path: Path) -> None:
    content = {"a": np.arange(5, dtype=np.uint8), "b": [np.float32(2.5), ("x", None)]}
    path = tmp_path / "good.pkl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        found = load_arrays(path)
        assert found["a"].tolist() == [0, 1, 2, 3, 4]
        assert found["b"] == content["b"]


def test_annotations_of_another_layout_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pyannot.pkl"
    path.write_bytes(pickle.dumps({NAME: {"boxes": []}}))
    with pytest.raises(ValueError, match=r"pyannot\.pkl: expected the layout"):
        read_actors(path)
    with pytest.raises(FileNotFoundError, match=r"no pyannot\.pkl; looked in"):
        wb.ucf101_24(tmp_path / "..", tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"official split 1"):
        wb.ucf101_24(tmp_path, split=2)


# JHMDB


def write_jhmdb(root: Path, rate: str, masks: np.ndarray) -> None:
    name = "April_09_brush_hair_u_nm_np1_ba_goo_0"
    write_frames(root / "ReCompress_Videos" / "brush_hair" / f"{name}.avi", rate)
    (root / "splits").mkdir()
    (root / "splits" / "brush_hair_test_split1.txt").write_text(f"{name}.avi 2\nother.avi 1\n")
    file = root / "puppet_mask" / "brush_hair" / name / "puppet_mask.mat"
    file.parent.mkdir(parents=True)
    scipy.io.savemat(file, {"part_mask": masks})


def numbered_masks(count: int) -> np.ndarray:
    """(H, W, T) uint8 part masks of two parts; the square's left edge is the frame's number."""
    masks = np.zeros((240, 320, count), dtype=np.uint8)
    for n in range(count):
        masks[10:30, n : n + 20, n] = 1
        masks[30:50, n : n + 20, n] = 4
    return masks


@pytest.mark.parametrize("rate", TIMES)
def test_jhmdb_masks_land_on_their_frames(tmp_path: Path, rate: str) -> None:
    write_jhmdb(tmp_path, rate, numbered_masks(COUNT))
    data = wb.jhmdb(tmp_path)
    for clip in (data[0], data.read(0, frames=16), data.read(0, frames=8, stride=3)):
        numbers = read_numbers(clip.frames)
        action = clip.actions[0]
        assert action.boxes.tolist() == [[n, 10, n + 20, 50] for n in numbers]
        assert action.masks.sum(axis=(1, 2)).tolist() == [20 * 40] * len(clip)
        assert action.annotated.all()
        assert clip.during((action.start, action.stop)).all()


def test_jhmdb_frames_beyond_the_masks_are_marked(tmp_path: Path) -> None:
    write_jhmdb(tmp_path, "25", numbered_masks(40))
    data = wb.jhmdb(tmp_path)
    assert data.index["group"].tolist() == ["April_09_brush_hair"]
    assert (data.classes, len(wb.jhmdb(tmp_path, subset=None))) == (["brush_hair"], 2)
    action = data[0].actions[0]
    assert action.annotated.tolist() == [n < 40 for n in range(COUNT)]
    assert not action.masks[40:].any()
    assert np.isnan(action.boxes[40:]).all()


def test_masks_follow_selecting_resizing_and_cropping() -> None:
    masks = np.zeros((3, 8, 12), dtype=bool)
    masks[1, 2:6, 4:10] = True
    action = wb.Action(
        "x", 0, 3, boxes_of(masks), masks, np.array([True, True, False]), np.zeros(3, bool)
    )
    clip = wb.Clip(np.zeros((3, 8, 12, 3), np.uint8), 1.0, actions=(action,))
    moved = clip.resize(4, 6).crop(1, 2, 2, 4).select([1, 2])
    found = moved.actions[0]
    assert found.masks.shape == (2, 2, 4)
    assert found.masks[0].all(0).tolist() == [True, True, True, False]
    assert found.annotated.tolist() == [True, False]
    np.testing.assert_array_equal(boxes_of(found.masks), found.boxes)
    assert moved.action_masks()[0].sum() == 6
    assert replace(clip, actions=(replace(action, stop=1.0),)).action_masks().sum() == 0
    with pytest.raises(ValueError, match=r"has no masks"):
        clip.action_masks(3)


# VISOR


def square(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def entity(name: str, segments: list, number: int, **more: object) -> dict:
    return {"id": name, "name": name, "class_id": number, "segments": segments, **more}


def write_kitchen(root: Path, rate: str, size: tuple[int, int] = (240, 320)) -> Path:
    """A kitchen of one video and one segment, which holds all of it; returns VISOR's folder."""
    from workbench.datasets.samples import FOLDER

    write_frames(root / "EPIC-KITCHENS" / "P01" / "videos" / "P01_101.MP4", rate, size)
    notes = root / "annotations"
    notes.mkdir()
    shipped = FOLDER / "epic-kitchens" / "annotations"
    for kind in ("verb", "noun"):
        file = f"EPIC_100_{kind}_classes.csv"
        (notes / file).write_text((shipped / file).read_text())
    table = pd.read_csv(shipped / "EPIC_100_validation.csv").head(1)
    stop = TIMES[rate][-1] + 0.01
    table = table.assign(
        narration_id="P01_101_0", video_id="P01_101", start_timestamp="00:00:00.00",
        stop_timestamp=f"00:00:{stop:06.3f}", noun_class=2,
    )  # fmt: skip
    table.to_csv(notes / "EPIC_100_validation.csv", index=False)
    folder = root / "visor"
    (folder / "val").mkdir(parents=True)
    return folder


def write_visor(path: Path, times: dict[str, float], frames: dict[str, list[dict]], **more) -> None:  # type: ignore[no-untyped-def]
    entries = [{"image": {"name": name}, "annotations": a, **more} for name, a in frames.items()]
    path.write_text(json.dumps({"video_annotations": entries}))
    home = path.parents[1] / "frames_to_timestamps.json"
    home.write_text(json.dumps({"info": "", "timestamps": times}))


@pytest.mark.parametrize("rate", TIMES)
def test_visor_masks_land_on_their_frames(tmp_path: Path, rate: str) -> None:
    folder = write_kitchen(tmp_path, rate)
    # The left edge, in 1920 pixels, is 6 times the number of the frame shown at that time.
    shown = {n: float(TIMES[rate][n]) for n in (4, 17, 31, 50)}
    names = {n: f"P01_101_frame_{n + 1:010d}.jpg" for n in shown}
    times = {names[n]: round(t, 3) for n, t in shown.items()}
    frames = {
        names[n]: [entity("cup", [square(6 * n, 90, 120, 180)], 2)] for n in shown
    }  # 4.5 pixels a row, 6 a column
    write_visor(folder / "val" / "P01_101.json", times, frames)
    clip = wb.epic_kitchens(tmp_path, frames=None, visor=folder)[0]
    action = clip.actions[0]
    assert (action.label, clip.actions[1].label) == (clip.label, "cup")
    numbers = read_numbers(clip.frames)
    assert numbers[action.annotated].tolist() == [4, 17, 31, 50]
    boxes = boxes_of(action.masks)[action.annotated]
    assert boxes.tolist() == [[n, 20, n + 20, 60] for n in (4, 17, 31, 50)]
    assert not action.masks[~action.annotated].any()
    assert not action.interpolated.any()


def test_visor_dense_masks_have_their_own_size_and_types(tmp_path: Path) -> None:
    folder = write_kitchen(tmp_path, "50")
    names = [f"P01_101_frame_{n + 1:010d}.jpg" for n in range(10, 14)]
    left, top, width, height = 854 / 320 * 40, 480 / 240 * 10, 854 / 320 * 20, 480 / 240 * 30
    cup = square(left, top, width, height)
    frames = {name: [entity("cup", [cup], 2)] for name in names}
    path = folder / "val" / "P01_101_interpolations.json"
    entries = [
        {"image": {"name": name}, "annotations": [{**each[0], "type": int(name in names[::3])}]}
        for name, each in frames.items()
    ]
    path.write_text(json.dumps({"video_annotations": entries}))
    clip = wb.epic_kitchens(tmp_path, frames=None, visor=folder)[0]  # times: (n - 1) / 50
    action = clip.actions[0]
    assert np.flatnonzero(action.annotated).tolist() == [10, 11, 12, 13]
    assert np.flatnonzero(action.interpolated).tolist() == [11, 12]
    assert boxes_of(action.masks)[11].tolist() == [40, 10, 60, 40]


def test_visor_names_hands_and_the_active_object(tmp_path: Path) -> None:
    folder = write_kitchen(tmp_path, "50")
    name = "P01_101_frame_0000000001.jpg"
    hole = [square(0, 0, 600, 450), square(150, 90, 300, 180)]
    annotations = [
        entity("left hand", [square(900, 0, 60, 45)], 300, in_contact_object="board"),
        entity("board", hole, 7, in_contact_object=None),
        entity("pan", [square(1200, 0, 60, 45)], 8),
    ]
    write_visor(folder / "val" / "P01_101.json", {name: 0.0}, {name: annotations})
    clip = wb.epic_kitchens(tmp_path, frames=4, visor=folder)[0]
    labels = [action.label for action in clip.actions]
    assert labels == [clip.label, "left hand", "board", "pan"]
    board = clip.actions[2].masks[0]
    np.testing.assert_array_equal(clip.actions[0].masks[0], board)
    assert board.sum() == 100 * 100 - 50 * 40
    # The segment's own noun goes before what is touched.
    annotations.append(entity("cup", [square(0, 900, 60, 45)], 2))
    write_visor(folder / "val" / "P01_101.json", {name: 0.0}, {name: annotations})
    visor.masked_frames.cache_clear()
    visor._times.cache_clear()
    clip = wb.epic_kitchens(tmp_path, frames=4, visor=folder)[0]
    assert clip.actions[0].masks.sum() == 10 * 10


def test_visor_takes_official_times_before_the_formula(annotations_folder: Path) -> None:
    folder = annotations_folder / "visor"
    official = json.loads((folder / "frames_to_timestamps.json").read_text())["timestamps"]
    off = [name for name, t in official.items() if abs(t - formula(name)) > 1e-3]
    assert len(off) == 120
    for name in off:
        assert visor._time(folder, name) == official[name]


def formula(name: str) -> float:
    video, number = name.removesuffix(".jpg").split("_frame_")
    return (int(number) - 1) / (50 if len(video.split("_")[1]) == 3 else 60)


def test_visor_files_of_another_layout_are_named(tmp_path: Path) -> None:
    folder = write_kitchen(tmp_path, "25")
    (folder / "val" / "P01_101.json").write_text("{}")
    with pytest.raises(ValueError, match=r"P01_101\.json: expected JSON with video_annotations"):
        wb.epic_kitchens(tmp_path, visor=folder)[0]
    with pytest.raises(FileNotFoundError, match=r"no folder"):
        wb.epic_kitchens(tmp_path, visor=tmp_path / "nothing")
