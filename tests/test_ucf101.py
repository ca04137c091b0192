"""UCF-101 as it is unpacked: splits, classes, files that are there and files that are not."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from videos import read_numbers, write_video

import workbench as wb
from workbench.datasets import places, samples

CLASSES = ("Archery", "HandstandPushups", "TaiChi")


def make_ucf(root: Path, videos: bool = True) -> Path:
    """Three classes of two groups, group 1 for the test; HandstandPushups has odd file names."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(
        b"".join(f"{i} {c}\r\n".encode() for i, c in enumerate(CLASSES, 1))
    )
    rows = {"train": [], "test": []}
    for number, label in enumerate(CLASSES, 1):
        named = "HandStandPushups" if label == "HandstandPushups" else label
        for group, subset in ((1, "test"), (2, "train")):
            file = f"{label}/v_{named}_g{group:02d}_c01.avi"
            rows[subset].append(f"{file} {number}" if subset == "train" else file)
            if videos:
                path = root / "UCF-101" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, 20, codec="mpeg4", b_frames=0)
    for subset, lines in rows.items():
        (lists / f"{subset}list01.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def ucf(tmp_path_factory) -> Path:
    return make_ucf(tmp_path_factory.mktemp("data") / "ucf")


def test_a_split_is_a_table_that_reads_clips(ucf):
    data = wb.ucf101(ucf, split=1, subset="train")
    assert data.classes == list(CLASSES)
    assert data.index.index.tolist() == [
        "v_Archery_g02_c01",
        "v_HandStandPushups_g02_c01",
        "v_TaiChi_g02_c01",
    ]
    assert data.index["class"].tolist() == list(CLASSES)
    assert data.index["class_id"].tolist() == [0, 1, 2]
    assert data.index["group"].tolist() == [2, 2, 2]
    assert data.index["present"].all()
    assert (
        Path(data.index["path"].iloc[1])
        == ucf / "UCF-101/HandstandPushups/v_HandStandPushups_g02_c01.avi"
    )
    clip = data["v_HandStandPushups_g02_c01"]
    assert (clip.name, clip.label, len(clip)) == (
        "v_HandStandPushups_g02_c01",
        "HandstandPushups",
        20,
    )
    assert read_numbers(clip.frames).tolist() == list(range(20))
    assert read_numbers(data.read(1, frames=4, stride=2).frames).tolist() == [6, 8, 10, 12]


def test_sampling_belongs_to_the_data_set_or_to_a_read(ucf):
    data = wb.ucf101(ucf, frames=4, stride=3)
    assert read_numbers(data[0].frames).tolist() == [5, 8, 11, 14]
    assert len(data.subset(data.index["class"] == "TaiChi")[0]) == 4
    assert len(data.read(0, frames=5)) == 5
    assert data.read(0, frames=5).indices.tolist() == [0, 4, 9, 14, 19]


def test_a_row_with_another_interval_reads_that_stretch(ucf):
    data = wb.ucf101(ucf)
    row = data.index.iloc[0].copy()
    row["start"], row["stop"] = 0.2, 0.4  # at 25 fps: frames 5 to 9
    assert read_numbers(data.reader(row, frames=None, stride=None).frames).tolist() == [
        5,
        6,
        7,
        8,
        9,
    ]


@pytest.mark.parametrize("inside", [True, False])
def test_the_folder_of_videos_is_a_root_too(tmp_path, inside):
    root = make_ucf(tmp_path)
    if inside:
        (root / "ucfTrainTestlist").rename(root / "UCF-101" / "ucfTrainTestlist")
    data = wb.ucf101(root / "UCF-101")
    assert data.index["present"].all()
    assert len(data[0]) == 20


def test_lists_may_be_elsewhere(tmp_path, ucf):
    moved = tmp_path / "lists"
    moved.mkdir()
    for path in (ucf / "ucfTrainTestlist").iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "UCF-101").symlink_to(ucf / "UCF-101", target_is_directory=True)
    for place in (moved, str(ucf)):
        assert len(wb.ucf101(tmp_path / "videos", annotations=place).present()) == 3


def test_what_is_not_on_the_disk_is_told_and_named(tmp_path):
    root = make_ucf(tmp_path)
    (root / "UCF-101/TaiChi/v_TaiChi_g01_c01.avi").unlink()
    data = wb.ucf101(root)
    assert data.index["present"].tolist() == [True, True, False]
    assert len(data.present()) == 2
    assert "2 of them on disk" in repr(data)
    with pytest.raises(
        FileNotFoundError, match=r"expected .*/UCF-101/TaiChi/v_TaiChi_g01_c01.avi.*present\(\)"
    ):
        data["v_TaiChi_g01_c01"]


def test_it_can_be_sent_to_a_worker(ucf):
    data = pickle.loads(pickle.dumps(wb.ucf101(ucf)))
    assert len(data[0]) == 20


def test_wrong_requests_are_refused(ucf, tmp_path):
    with pytest.raises(ValueError, match="'train' and 'test', got 'validation'"):
        wb.ucf101(ucf, subset="validation")
    with pytest.raises(ValueError, match="1, 2 and 3, got 4"):
        wb.ucf101(ucf, split=4)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        wb.ucf101(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file"):
        wb.ucf101(ucf / "ucfTrainTestlist" / "classInd.txt")
    with pytest.raises(
        FileNotFoundError, match=r"no classInd.txt; looked in(\n|.)*ucfTrainTestlist(\n|.)*zip"
    ):
        wb.ucf101(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"testlist02.txt"):
        wb.ucf101(ucf, split=2)


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("classInd.txt", "Archery", r"classInd.txt:4: expected a number and a class"),
        ("classInd.txt", "7 Archery", r"classInd.txt:4: expected classes numbered 1, 2, 3"),
        (
            "trainlist01.txt",
            "v_TaiChi_g01_c01.avi 3",
            r"trainlist01.txt:4: expected '<Class>/v_<Class>_gNN_cNN.avi'",
        ),
        (
            "trainlist01.txt",
            "Dance/v_Dance_g01_c01.avi 3",
            r"trainlist01.txt:4: expected a class of classInd.txt",
        ),
        (
            "trainlist01.txt",
            "TaiChi/v_TaiChi_g07_c01.avi 2",
            r"trainlist01.txt:4: expected the number that classInd",
        ),
    ],
)
def test_a_wrong_line_is_shown(tmp_path, file, line, complaint):
    root = make_ucf(tmp_path, videos=False)
    with (root / "ucfTrainTestlist" / file).open("a") as lists:
        lists.write(f"{line}\n")
    with pytest.raises(ValueError, match=complaint) as error:
        wb.ucf101(root, subset="train")
    assert line in str(error.value)


def test_the_shipped_samples_are_such_a_data_set():
    for subset, count in (("train", 16), ("test", 8)):
        data = wb.ucf101(samples.FOLDER / "ucf101", subset=subset)
        assert (len(data), len(data.present()), len(data.classes)) == (count, count, 8)
    assert data["v_Stir_g01_c01"].label == "Stir"


def test_find_data_takes_the_environment_first_and_samples_last(monkeypatch, tmp_path, ucf):
    monkeypatch.setattr(places, "DATA", tmp_path)
    monkeypatch.delenv("WORKBENCH_UCF101", raising=False)
    monkeypatch.delenv("WORKBENCH_EPIC_KITCHENS", raising=False)
    with pytest.raises(FileNotFoundError, match="WORKBENCH_UCF101 is not set"):
        wb.find_data("ucf101")
    for name in ("ucf101", "epic-kitchens"):
        (tmp_path / "samples" / name).mkdir(parents=True)
    assert {name: place.real for name, place in wb.find_data().items()} == {
        "ucf101": False,
        "epic-kitchens": False,
    }
    assert "shipped samples; data/README.md" in repr(wb.find_data("epic_kitchens"))
    (tmp_path / "ucf101").mkdir()
    assert not wb.find_data("ucf101").real, "an empty folder is no data set"
    (tmp_path / "ucf101" / "UCF-101").mkdir()
    assert wb.find_data("ucf101").root == tmp_path / "ucf101"
    monkeypatch.setenv("WORKBENCH_UCF101", str(ucf))
    place = wb.find_data("UCF101")
    assert (place.root, place.real, place.source) == (ucf, True, "WORKBENCH_UCF101")
    assert len(wb.ucf101(place)) == 3
    monkeypatch.setenv("WORKBENCH_UCF101", str(ucf / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"WORKBENCH_UCF101 is .*nowhere"):
        wb.find_data("ucf101")
    with pytest.raises(KeyError, match="ucf101, epic-kitchens"):
        wb.find_data("kinetics")


def test_the_official_lists_have_all_their_rows(annotations_folder, tmp_path):
    train, test = (
        wb.ucf101(tmp_path, 1, s, annotations=annotations_folder / "ucf101")
        for s in ("train", "test")
    )
    assert (len(train), len(test), len(train.classes)) == (9537, 3783, 101)
    assert not set(train.index.index) & set(test.index.index)
    assert not set(train.index["group"]) & set(test.index["group"])
    assert set(train.index["class_id"]) == set(test.index["class_id"]) == set(range(101))
    assert train.classes[0] == "ApplyEyeMakeup"
    odd = test.index[test.index["class"] == "HandstandPushups"]
    assert odd.index.str.startswith("v_HandStandPushups_").all()
    assert len(odd) == 28
    assert not test.index["present"].any()
    assert (
        test.index["path"].iloc[0].endswith("/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
    )
