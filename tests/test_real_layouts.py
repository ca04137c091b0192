"""The notebooks on the data sets as they are on a user's disk: nothing but paths is changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench import __main__ as command
from workbench.clips import files
from workbench.studies.notebooks import run_notebook
from workbench.studies.scoring import read_scores

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, annotations_folder: Path, clips_folder: Path
) -> Path:
    """Return a folder with both data sets, checkpoints where the notebooks expect them, notebooks."""
    folder = tmp_path_factory.mktemp("disk")
    layouts.ucf101_layout(folder / "ucf101", annotations_folder, clips_folder)
    layouts.epic_layout(folder / "epic", annotations_folder)
    layouts.write_mfnet(folder / "results/ucf101/mfnet3d.pth", 101)
    layouts.write_mfnet(folder / "results/epic_kitchens/mfnet3d.pth", 125)
    layouts.write_tsn(folder / "results/epic_kitchens/tsn.pth")
    shutil.copytree(NOTEBOOKS, folder / "notebooks")
    return folder


@pytest.fixture
def on_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_UCF101", str(place / "ucf101"))
    monkeypatch.setenv("WORKBENCH_EPIC_KITCHENS", str(place / "epic"))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    return place


def test_the_layouts_are_read_as_the_official_ones(on_disk: Path) -> None:
    ucf = wb.ucf101(wb.find_data("ucf101"), subset="test")
    assert len(ucf) == 3783
    assert set(ucf.present().index.index) == {name.split("/")[1] for name in layouts.TEST}
    epic = wb.epic_kitchens(wb.find_data("epic-kitchens"), release=55, subset="train")
    assert epic.index["class"].tolist() == ["open", "turn-on", "mix"]
    clip = epic.read("50")
    assert clip.fps == pytest.approx(59.94, abs=0.01)
    assert clip.times[-1] > 277
    boxes = clip.boxes[:, 0]
    known = np.flatnonzero(np.isfinite(boxes).all(1))
    assert len(known) == 16
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)
    colours = [clip.frames[frame, middle[frame, 1], middle[frame, 0]] for frame in known]
    assert np.abs(np.array(colours, int) - (230, 60, 30)).max() < 60  # on the square, all of them


@pytest.mark.parametrize(
    "name",
    [
        "20_fine_tune",
        "30_explore_ucf101",
        "31_explore_epic_kitchens",
        "50_whole_data_set",
        "figure1_method",
        "figure2_heat_and_focus",
        "figure3_2d_vs_3d",
    ],
)
def test_notebook_runs_on_the_data_sets_themselves(name: str, on_disk: Path) -> None:
    run_notebook(on_disk / "notebooks" / f"{name}.ipynb", timeout=240)
    if name.startswith("figure"):
        assert (on_disk / "results" / "figures" / f"{name}.png").stat().st_size > 10_000


def test_tubes_are_scored_on_the_boxes_that_lie_beside_ucf101(
    on_disk: Path, annotations_folder: Path, tmp_path: Path
) -> None:
    """The official boxes, on the clip that they cover; the notebook finds both by itself."""
    boxes = on_disk / "ucf101" / "ucf101-24" / "pyannot.pkl"
    boxes.parent.mkdir()
    shutil.copyfile(annotations_folder / "ucf101-24" / "pyannot.pkl", boxes)
    kept = tmp_path / "scores.parquet"
    own = layouts.write_mfnet(tmp_path / "mfnet3d.pth", 24)
    parameters = {"subset": "train", "clips": 1, "checkpoint": str(own), "kept": str(kept)}
    parameters["methods"] = ["tube"]
    try:
        run_notebook(on_disk / "notebooks/60_against_the_truth.ipynb", parameters, timeout=240)
    finally:
        shutil.rmtree(boxes.parent)
    rows = read_scores(kept)
    assert set(rows["clip"]) == {"v_SoccerJuggling_g23_c01"}
    assert (rows["method"] == "tube").sum() == rows["actor"].nunique() >= 1
    assert rows["box share"].between(0.01, 0.9).all()


def test_the_fine_tuning_command_runs_at_full_size(
    on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """MFNet-3D as published, 16x224x224, from a checkpoint with Kinetics' 400 classes."""
    monkeypatch.setattr(files, "ROOT", tmp_path)
    kinetics = layouts.write_mfnet(tmp_path / "kinetics.pth", 400)
    options = ["--checkpoint", str(kinetics), "--epochs", "1", "--batch", "2", "--clips", "2"]
    assert command.main(["fine-tune", "ucf101", *options]) == 0
    assert "top-5" in capsys.readouterr().out
    written = tmp_path / "results" / "ucf101"
    classes = wb.ucf101(wb.find_data("ucf101"), subset="test").classes
    tuned = wb.load_model("mfnet3d", checkpoint=written / "mfnet3d.pth", classes=classes)
    predicted = pd.read_csv(written / "predictions.csv")
    assert set(predicted["clip"]) == {name.split("/")[1] for name in layouts.TEST}
    # Two of the classes were learnt, and both steps and their checkpoint are those of the command.
    assert tuned.module.classifier.out_features == 101
    before = torch.load(kinetics, weights_only=True)["state_dict"]["module.conv1.conv.weight"]
    assert not torch.equal(before, tuned.module.state_dict()["conv1.conv.weight"].cpu())
