"""`check-data`: everything that can be wrong with a data set is reported, and nothing stops it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_epic_kitchens import annotate, box_labels, jpegs, segment, write_folder, write_tar
from test_ucf101 import make_ucf
from videos import write_video

from workbench import __main__ as command
from workbench.datasets import checks, samples


def kinds(report: checks.Report) -> dict[str, int]:
    return report.problems["problem"].value_counts().to_dict()


def what(report: checks.Report, kind: str) -> str:
    rows = report.problems[report.problems["problem"] == kind]
    return "\n".join(rows["where"] + ": " + rows["what"])


def check(root: Path, **options) -> checks.Report:
    return checks.check_data(root, progress=False, **options)


@pytest.fixture
def ucf(tmp_path) -> Path:
    return make_ucf(tmp_path / "ucf101")


@pytest.fixture
def kitchen(tmp_path) -> Path:
    """A video, a folder and a tar of frames of two seconds; segments of them in both releases."""
    root = tmp_path / "epic-kitchens"
    home = root / "EPIC-KITCHENS" / "P01"
    (home / "videos").mkdir(parents=True)
    write_video(home / "videos" / "P01_01.MP4", 50)
    frames = jpegs(np.arange(50) / 25, 60, 2.0)
    write_folder(home / "rgb_frames" / "P01_02", frames)
    write_tar(home / "rgb_frames" / "P01_03.tar", frames)
    rows = [segment(n, 0.5, 1.5, video) for n, video in enumerate(("P01_01", "P01_02", "P01_03"))]
    for release in (55, 100):
        annotate(root / "annotations", rows, release)
    told = pd.DataFrame(
        {
            "video_id": ["P01_01", "P01_02", "P01_03"],
            "duration": 2.0,
            "fps": 25,
            "resolution": "128x32",
        }
    )
    told.to_csv(root / "annotations" / "EPIC_100_video_info.csv", index=False)
    box_labels(root / "annotations", [(0, 30, "[(0, 0, 10, 10)]")])
    told.rename(columns={"video_id": "video"}).to_csv(
        root / "annotations" / "EPIC_video_info.csv", index=False
    )
    return root


@pytest.mark.filterwarnings("ignore:no .*correspondence")
def test_whole_data_sets_have_no_problems(ucf, kitchen):
    report = check(ucf.parent, decode=True)
    assert report.ok, report.text()
    assert report.summary.index.tolist() == [
        "UCF-101 train, split 1", "UCF-101 test, split 1", "EPIC-Kitchens-55 train, verbs",
        "EPIC-Kitchens-55 train, nouns", "EPIC-Kitchens-100 validation, verbs",
        "EPIC-Kitchens-100 validation, nouns",
    ]  # fmt: skip
    assert report.summary.loc["UCF-101 test, split 1"].tolist() == [3, 3, 3, 0, 0, 0]
    assert report.summary.loc["EPIC-Kitchens-100 validation, nouns"].tolist() == [3, 2, 3, 0, 0, 0]
    assert "Nothing is wrong." in report.text()


def test_everything_wrong_with_ucf_is_reported(ucf):
    videos = ucf / "UCF-101"
    (videos / "TaiChi/v_TaiChi_g01_c01.avi").unlink()
    (videos / "TaiChi/v_TaiChi_g02_c01.avi").write_bytes(b"no video")
    whole = (videos / "Archery/v_Archery_g01_c01.avi").read_bytes()
    (videos / "Archery/v_Archery_g01_c01.avi").write_bytes(whole[: len(whole) * 9 // 10])
    (ucf / "ucfTrainTestlist/trainlist02.txt").write_text("Archery/v_Archery_g01_c01.avi 1\n")
    report = check(ucf)
    assert kinds(report) == {"missing": 1, "unreadable": 1, "annotations": 1}
    assert "v_TaiChi_g01_c01.avi" in what(report, "missing")
    assert "v_TaiChi_g02_c01.avi cannot be read as a video" in what(report, "unreadable")
    assert "UCF-101 test, split 2: no file" in what(report, "annotations")
    assert report.summary.loc["UCF-101 test, split 1", "missing"] == 1
    assert "v_Archery_g01_c01.avi" in what(check(ucf, decode=True), "unreadable"), (
        "only its header is whole"
    )


def test_everything_wrong_with_epic_kitchens_is_reported(kitchen):
    home, notes = kitchen / "EPIC-KITCHENS" / "P01", kitchen / "annotations"
    tar = home / "rgb_frames" / "P01_03.tar"
    tar.write_bytes(tar.read_bytes()[:60_000])
    (home / "rgb_frames" / "P01_02" / "frame_0000000007.jpg").unlink()
    shutil.copy(notes / "EPIC_100_verb_classes.csv", notes / "EPIC_verb_classes.csv")
    rows = [
        segment(0, 1.5, 2.5),
        segment(1, 1, 2.02),
        segment(2, 1.5, 1.2),
        segment(3, 0, 1, "P02_01"),
    ]
    rows += [segment(4, 0, 0.4, "P01_02"), segment(5, 0, 0.4, "P01_03")]
    annotate(notes, rows, 100)
    (notes / "EPIC_train_object_labels.csv").write_text("noun_class,noun,frame\n")
    report = check(kitchen)
    assert kinds(report) == {"annotations": 2, "unreadable": 2, "missing": 1, "outside": 4}
    assert "EPIC-Kitchens-55 train, verbs: " in what(report, "annotations")
    assert "is a list of release 100" in what(report, "annotations")
    assert "no column video_id, bounding_boxes" in what(report, "annotations")
    assert "P01_03.tar: it is cut off after frame" in what(report, "unreadable")
    assert "1 of 120 frames are missing, the first is 7" in what(report, "unreadable")
    outside = what(report, "outside")
    assert "P01_01_0: ends at 2.50 s, its video" in outside
    assert "\n2: ends at 1.50 s" in f"\n{outside}", (
        "release 55's segment of the tar that is cut off"
    )
    assert "at 2.00 s by the file" in outside
    assert "at 2.00 s by EPIC video info" in outside
    assert "P01_01_2: ends at 1.20 s, before it starts at 1.50 s" in outside
    assert "P01_01_1" not in outside, (
        "half a frame over the end is forgiven, as it is when clips are read"
    )
    assert "P02/videos/P02_01.MP4" in what(report, "missing")


@pytest.mark.parametrize("place", ["nowhere", "empty", "lists", "notes"])
def test_a_wrong_root_is_reported(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "lists" / "ucfTrainTestlist").mkdir(parents=True)
    (tmp_path / "notes" / "EPIC-KITCHENS").mkdir(parents=True)
    report = check(tmp_path / place)
    said = {
        "nowhere": "there is no such folder", "empty": "holds none of UCF-101",
        "lists": "no classInd.txt",
        "notes": "expected one of EPIC_train_action_labels.csv",
    }  # fmt: skip
    assert len(report.problems) == 1
    assert said[place] in report.text()


@pytest.mark.filterwarnings("ignore:no .*correspondence")
def test_lists_without_splits_and_columns_that_lack_are_reported(ucf, kitchen):
    for name in ("trainlist01.txt", "testlist01.txt"):
        (ucf / "ucfTrainTestlist" / name).unlink()
    info = kitchen / "annotations" / "EPIC_100_video_info.csv"
    pd.read_csv(info).drop(columns="duration").to_csv(info, index=False)
    said = what(check(ucf.parent), "annotations")
    assert "no list of a split" in said
    assert "EPIC_100_video_info.csv: no column duration" in said


@pytest.mark.slow
def test_many_files_are_read_in_processes_of_their_own(ucf, monkeypatch):
    monkeypatch.setattr(checks, "_ALONE", 2)
    (ucf / "UCF-101/TaiChi/v_TaiChi_g02_c01.avi").write_bytes(b"no video")
    report = check(ucf, workers=2)
    assert kinds(report) == {"unreadable": 1}


def _crash_at_tai_chi(path: str, decode: bool) -> checks._File:
    if "TaiChi" in path:
        os._exit(7)
    return checks._File(1, 25, "")


@pytest.mark.slow
def test_a_file_that_crashes_its_process_is_named_and_the_others_are_read(monkeypatch):
    monkeypatch.setattr(checks, "_ALONE", 0)
    monkeypatch.setattr(checks, "_inspect", _crash_at_tai_chi)
    files = ["a/Archery.avi", "b/TaiChi.avi", "c/Stir.avi", "d/Lift.avi"]
    seen = checks._inspect_all(files, False, 2, None)
    assert [bool(seen[file].wrong) for file in files] == [False, True, False, False]
    assert "crashes" in seen["b/TaiChi.avi"].wrong


def test_the_command_prints_a_table_and_exits_with_one_where_something_is_wrong(
    ucf, capsys, monkeypatch
):
    assert command.main(["check-data", str(ucf)]) == 0
    said = capsys.readouterr()
    assert "UCF-101 train, split 1" in said.out
    assert "Nothing is wrong." in said.out
    assert "6/6" in said.err
    for path in (ucf / "UCF-101").rglob("*.avi"):
        path.unlink()
    assert command.main(["check-data", str(ucf), "--annotations", str(ucf)]) == 1
    assert "ucf101, missing: 6" in capsys.readouterr().out
    for name in ("WORKBENCH_UCF101", "WORKBENCH_EPIC_KITCHENS"):
        monkeypatch.setenv(
            name, str(samples.FOLDER / ("ucf101" if "UCF" in name else "epic-kitchens"))
        )
    assert command.main(["check-data", "--decode"]) == 0
    assert "from WORKBENCH_UCF101" in capsys.readouterr().out


def test_long_lists_are_cut_unless_all_is_asked_for():
    problems = pd.DataFrame(
        [("ucf101", "missing", f"{n}.avi", "there is no such file") for n in range(15)],
        columns=["data set", "problem", "where", "what"],
    )
    report = checks.Report(pd.DataFrame(), problems)
    assert "… and 5 more" in report.text()
    assert "14.avi" in report.text(None)
    assert "Problems: 15." in report.text()
