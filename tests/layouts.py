"""UCF-101 and EPIC-Kitchens as a user has them on the disk, with small videos and untrained networks.

The lists and rows are the official ones; the pixels are made here.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from videos import write_video

import workbench as wb
from workbench.studies.randomisation import reinitialised

TRAIN = ("SoccerJuggling/v_SoccerJuggling_g23_c01", "TaiChi/v_TaiChi_g08_c01",
         "TaiChi/v_TaiChi_g09_c01", "YoYo/v_YoYo_g08_c01", "YoYo/v_YoYo_g09_c01")  # fmt: skip
TEST = ("TaiChi/v_TaiChi_g01_c01", "YoYo/v_YoYo_g01_c01")
SEGMENTS = ["0", "1", "50"]  # open door, turn on light, stir courgette
SECONDS = 280  # of P01_01 that the video here holds, up to the first stirring
RATE = Fraction(60000, 1001)
SIDE = 12  # pixels of the object
PERIOD = 1200  # frames; slow, so that an annotated box fits a quarter of a second around it


def moving_square(frames: int, height: int, width: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield pictures (H, W, 3) of a square that goes around in front of noise."""
    rng = np.random.default_rng(seed)
    still = rng.integers(60, 160, (height, width, 3), dtype=np.uint8)
    cycle = []
    for number in range(min(frames, PERIOD)):
        row, column = corner(number, height, width)
        picture = still.copy()
        picture[row : row + SIDE, column : column + SIDE] = (230, 60, 30)
        cycle.append(picture)
    for number in range(frames):
        yield cycle[number % PERIOD]


def corner(number: int, height: int, width: int) -> tuple[int, int]:
    """Return row and column of the square's upper left corner in a frame."""
    angle = 2 * np.pi * number / PERIOD
    row = (height - SIDE) * (0.5 + 0.4 * np.sin(angle))
    column = (width - SIDE) * (0.5 + 0.4 * np.cos(angle))
    return int(row), int(column)


def ucf101_layout(folder: Path, annotations: Path, clips: Path) -> Path:
    """Write a part of UCF-101: all the official lists, and a few of the videos."""
    shutil.copytree(
        annotations / "ucf101" / "ucfTrainTestlist",
        folder / "ucfTrainTestlist",
        copy_function=shutil.copyfile,
    )
    for number, name in enumerate((*TRAIN, *TEST)):
        path = folder / "UCF-101" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        real = clips / "ucf101" / "UCF-101" / f"{name}.avi"
        if real.is_file():
            shutil.copyfile(real, path)
        else:
            write_video(path, moving_square(60, 240, 320, number), codec="mpeg4")
    return folder


def epic_layout(folder: Path, annotations: Path) -> Path:
    """Write P01_01 of EPIC-Kitchens-55, at 59.94 frames a second, with its first official segments."""
    official = annotations / "epic-kitchens-55"
    notes = folder / "annotations"
    shutil.copytree(official, notes, copy_function=shutil.copyfile)
    rows = pd.read_csv(official / "EPIC_train_action_labels.csv", dtype=str)
    rows = rows[rows["uid"].isin(SEGMENTS)]
    rows.to_csv(notes / "EPIC_train_action_labels.csv", index=False)
    write_boxes(notes, rows)
    path = folder / "EPIC-KITCHENS" / "P01" / "videos" / "P01_01.MP4"
    path.parent.mkdir(parents=True)
    pictures = moving_square(int(SECONDS * RATE), 72, 128)
    write_video(path, pictures, rate=RATE, gop=60, b_frames=0)
    return folder


def write_boxes(notes: Path, rows: pd.DataFrame) -> None:
    """Write the square's box in every 30th frame of the segments, as the official files do."""
    labels, times = [], []
    for _, row in rows.iterrows():
        start, stop = (pd.Timedelta(row[f"{end}_timestamp"]) for end in ("start", "stop"))
        first, last = (int(end.total_seconds() * RATE) for end in (start, stop))
        for frame in range(first // 30 * 30 + 1, last, 30):
            top, left = corner(frame - 1, 72, 128)
            box = [int(value * 1080 / 72) for value in (top, left, SIDE, SIDE)]
            labels.append(
                (row["noun_class"], row["noun"], "P01", "P01_01", frame, f"[{tuple(box)}]")
            )
            stamp = pd.Timestamp(0) + pd.Timedelta(seconds=float((frame - 1) / RATE))
            times.append((frame, frame, "P01", f"{stamp:%H:%M:%S.%f}"[:-4], "P01_01"))
    columns = pd.read_csv(notes / "EPIC_train_object_labels.csv").columns
    pd.DataFrame(labels, columns=columns).to_csv(
        notes / "EPIC_train_object_labels.csv", index=False
    )
    columns = pd.read_csv(notes / "EPIC_test_s1_object_action_correspondence.csv").columns[1:]
    table = pd.DataFrame(times, columns=columns).drop_duplicates("object_frame")
    table.to_csv(notes / "EPIC_train_object_action_correspondence.csv")


def write_mfnet(path: Path, classes: int) -> Path:
    """Write a checkpoint of MFNet-3D with random weights, as the published ones are."""
    network = wb.load_model("mfnet3d", classes=[str(n) for n in range(classes)], device="cpu")
    frames = np.stack(list(moving_square(16, 256, 256)))
    network = reinitialised(network, [wb.Clip(frames, 25.0)])  # activations as large as usual
    state = {f"module.{name}": value for name, value in network.module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {}}, path)
    return path


def write_tsn(path: Path) -> Path:
    """Write a checkpoint of a TSN with random weights, as EPIC-Kitchens-55's are."""
    heads = {"verb": 125, "noun": 352}
    network = wb.load_model("tsn/resnet50", weights=None, heads=heads, device="cpu")
    state = {
        name.replace("backbone.", "base_model.", 1): value
        for name, value in network.module.state_dict().items()
    }
    content = {
        "model_type": "tsn",
        "arch": "resnet50",
        "modality": "RGB",
        "segment_count": 8,
        "consensus_type": "avg",
        "args": argparse.Namespace(dropout=0.7),
        "state_dict": state,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
