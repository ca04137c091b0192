"""Builds the sample clips in `data/samples`, files in the layouts of UCF-101 and EPIC-Kitchens.

`python -m workbench.studies.sample_files` builds the folder anew. Everything follows from seeds:
the pictures, boxes and intervals come from the scenes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..clips.writing import save_video
from ..datasets import samples
from ..datasets.samples import CLASSES, DURATION, FOLDER, FPS, draw_scene
from ..datasets.scenes import APPEARANCES, ASPECT, Actor, Scene, boxes, render

__all__ = ["build"]

SEED = 2019
SPLIT_OF_TAKE = ("decorrelated", "edge", "pair")  # groups g01, g02 and g03 of each class
OBJECT_RATE = 59.94  # EPIC-Kitchens-55 numbers frames at this rate
NOUNS = [shape for shape, _, _ in APPEARANCES]
KITCHENS = {
    "P01_01": ("open", "stir", "close"),
    "P01_02": ("lift", "shake", "lower"),
    "P02_01": ("pound", "rotate", "open"),
}


def build(folder: str | Path = FOLDER) -> Path:
    """Write the sample clips, annotations and hashes into a folder; returns it.

    The folder is replaced once everything is written; its README.md is kept.
    """
    folder = Path(folder)
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _write_ucf(fresh)
    _write_kitchens(fresh / "epic-kitchens")
    sums = ""
    for path in sorted(path for path in fresh.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sums += f"{digest}  {path.relative_to(fresh).as_posix()}\n"
    (fresh / "SHA256SUMS").write_text(sums)
    if (folder / "README.md").is_file():
        shutil.copy(folder / "README.md", fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def _write_ucf(folder: Path) -> None:
    """Write UCF-101's layout (videos in a folder per class, `ucfTrainTestlist`), and clips.csv."""
    rows, train, test = [], "", ""
    for class_id, label in enumerate(CLASSES):
        for take, split in enumerate(SPLIT_OF_TAKE, start=1):
            seed = SEED + 10 * class_id + take
            name = f"v_{label.title()}_g{take:02d}_c01"
            file = f"{label.title()}/{name}.avi"
            clip = samples.make_clip(label, seed, split=split)
            save_video(folder / "ucf101" / "UCF-101" / file, clip.frames, clip.fps, quality=6)
            rows.append(
                {
                    "name": name,
                    "class": label,
                    "class_id": class_id,
                    "start": 0.0,
                    "stop": DURATION,
                    "duration": DURATION,
                    "split": split,
                    "seed": seed,
                    "path": f"ucf101/UCF-101/{file}",
                }
            )
            if take == 1:
                test += f"{file}\n"
            else:
                train += f"{file} {class_id + 1}\n"
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    lists = folder / "ucf101" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    numbered = [f"{number} {label.title()}\n" for number, label in enumerate(CLASSES, start=1)]
    (lists / "classInd.txt").write_text("".join(numbered))
    (lists / "trainlist01.txt").write_text(train)
    (lists / "testlist01.txt").write_text(test)


def _write_kitchens(folder: Path) -> None:
    """Write EPIC-Kitchens' layout: videos with several segments each, and both releases' CSVs."""
    notes = folder / "annotations"
    notes.mkdir(parents=True)
    segments, objects, videos = [], [], []
    for number, (video, labels) in enumerate(KITCHENS.items()):
        scene = _kitchen(labels, SEED + 1000 + number)
        clip = render(scene, np.arange(round(scene.duration * FPS)), FPS)
        file = folder / "EPIC-KITCHENS" / video[:3] / "videos" / f"{video}.MP4"
        save_video(file, clip.frames, clip.fps, quality=27)
        videos.append(
            {
                "video": video,
                "resolution": "320x240",
                "duration": f"{scene.duration:.6f}",
                "fps": FPS,
            }
        )
        segments += [_segment(video, actor) for actor in scene.acting]
        objects += _objects(video, scene, clip.size)
    _write_actions(notes, pd.DataFrame(segments))
    for names, kind in ((CLASSES, "verb"), (NOUNS, "noun")):
        _write_classes(notes, names, kind)
    boxed = pd.DataFrame(objects)
    boxed.drop(columns=["timestamp"]).to_csv(notes / "EPIC_train_object_labels.csv", index=False)
    joined = boxed.rename(columns={"frame": "object_frame"}).assign(action_frame=boxed["frame"])
    columns = ["participant_id", "video_id", "object_frame", "action_frame", "timestamp"]
    joined[columns].to_csv(notes / "EPIC_train_object_action_correspondence.csv", index=False)
    info = pd.DataFrame(videos)
    info.to_csv(notes / "EPIC_video_info.csv", index=False)
    newer = info.rename(columns={"video": "video_id"})[
        ["video_id", "duration", "fps", "resolution"]
    ]
    newer.to_csv(notes / "EPIC_100_video_info.csv", index=False)


def _kitchen(labels: tuple[str, ...], seed: int) -> Scene:
    """Return a longer scene: several actors side by side, each acting after the one before."""
    rng = np.random.default_rng(seed)
    looks = rng.choice(len(APPEARANCES), len(labels), replace=False)
    actors, now = [], 0.4
    for place, (label, look) in enumerate(zip(labels, looks)):
        actor = draw_scene(label, seed + 100 * (place + 1)).acting[0]
        shape, colour, texture = APPEARANCES[look]
        actor = replace(
            actor,
            shape=shape,
            colour=colour,
            texture=texture,
            opened=float(label == "close"),
            size=0.11,
        )
        x = ASPECT * (0.19 + 0.62 * place / (len(labels) - 1))
        span = rng.uniform(1.0, 1.4)
        actors.append(replace(actor, x=x, start=round(now, 2), stop=round(now + span, 2)))
        now += span + rng.uniform(0.2, 0.5)
    return replace(draw_scene(labels[0], seed), actors=tuple(actors), duration=round(now + 0.3, 2))


def _segment(video: str, actor: Actor) -> dict[str, object]:
    noun = NOUNS.index(actor.shape)
    return {
        "participant_id": video[:3],
        "video_id": video,
        "narration": f"{actor.action} {actor.shape}",
        "start_timestamp": _stamp(actor.start),
        "stop_timestamp": _stamp(actor.stop),
        "start_frame": round(actor.start * OBJECT_RATE),
        "stop_frame": round(actor.stop * OBJECT_RATE),
        "verb": actor.action,
        "verb_class": CLASSES.index(str(actor.action)),
        "noun": actor.shape,
        "noun_class": noun,
        "all_nouns": f"['{actor.shape}']",
        "all_noun_classes": f"[{noun}]",
    }


def _objects(video: str, scene: Scene, size: tuple[int, int]) -> list[dict[str, object]]:
    """Return object boxes (top, left, height, width) of whoever acts, for every 30th frame."""
    rows: list[dict[str, object]] = []
    for frame in range(30, round(scene.duration * OBJECT_RATE), 30):
        time = frame / OBJECT_RATE
        for actor in scene.acting:
            if not actor.start <= time < actor.stop:
                continue
            x0, y0, x1, y1 = boxes(actor, scene, np.array([time]), size)[0].round().astype(int)
            rows.append(
                {
                    "noun_class": NOUNS.index(actor.shape),
                    "noun": actor.shape,
                    "participant_id": video[:3],
                    "video_id": video,
                    "frame": frame,
                    "timestamp": _stamp(time),
                    "bounding_boxes": f"[({y0}, {x0}, {y1 - y0}, {x1 - x0})]",
                }
            )
    return rows


def _write_actions(notes: Path, actions: pd.DataFrame) -> None:
    actions.rename_axis("uid").to_csv(notes / "EPIC_train_action_labels.csv")
    numbers = actions.groupby("video_id").cumcount().astype(str)
    newer = actions.drop(columns=["narration"])
    newer.insert(0, "narration_id", actions["video_id"] + "_" + numbers)
    newer.insert(3, "narration_timestamp", actions["start_timestamp"])
    newer.insert(8, "narration", actions["narration"])
    newer.to_csv(notes / "EPIC_100_validation.csv", index=False)


def _write_classes(notes: Path, names: Sequence[str], kind: str) -> None:
    instances = [f"['{name}']" for name in names]
    older = pd.DataFrame(
        {f"{kind}_id": range(len(names)), "class_key": names, f"{kind}s": instances}
    )
    older.to_csv(notes / f"EPIC_{kind}_classes.csv", index=False)
    newer = pd.DataFrame(
        {"id": range(len(names)), "key": names, "instances": instances, "category": kind}
    )
    newer.to_csv(notes / f"EPIC_100_{kind}_classes.csv", index=False)


def _stamp(seconds: float) -> str:
    return f"00:00:{seconds:05.2f}"


if __name__ == "__main__":
    print(build())
