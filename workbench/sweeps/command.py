"""The command `python -m workbench sweep`: a data set, a model and a folder by their names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from ..clips.clip import Clip
from ..clips.reading import read_clip
from ..datasets import samples
from ..datasets.epic import epic_kitchens
from ..datasets.places import find_data
from ..datasets.table import Dataset
from ..datasets.ucf import ucf101
from ..models.zoo import load_model

__all__ = ["run_sweep_command"]

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm"}


def run_sweep_command(options: argparse.Namespace) -> int:
    """Sweep, and print what came of it; 1 if something is wrong, 130 if it was interrupted."""
    from .sweeping import sweep

    client = None
    try:
        data = _data_set(options)
        given = {} if options.checkpoint is None else {"checkpoint": options.checkpoint}
        model = load_model(options.model, **given)
        if options.scheduler:
            import distributed

            client = distributed.Client(options.scheduler)
        store = sweep(
            data, model, options.store, client,
            batch=options.batch, weights=options.weights, top=options.top, full=options.full,
        )  # fmt: skip
    except KeyboardInterrupt:
        print("\nInterrupted. The same command resumes.", file=sys.stderr)
        return 130
    except (OSError, ValueError, KeyError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 1
    finally:
        if client is not None:
            client.close()
    index = store.index
    print(store)
    labelled = index["correct"].dropna()
    if len(labelled):
        print(f"{labelled.astype(float).mean():.1%} of {len(labelled)} labelled clips are right")
    failed = index.loc[index["status"] != "ok", "error"]
    for name, reason in failed.head(5).items():
        print(f"failed: {name}: {reason}")
    return 0


def _data_set(options: argparse.Namespace) -> Dataset:
    if options.data == "samples":
        return samples.shipped()
    if options.data in ("ucf101", "epic-kitchens"):
        root = options.root or find_data(options.data)
        if options.data == "ucf101":
            data = ucf101(
                root, options.split, options.subset or "test", annotations=options.annotations
            )
        else:
            subset = options.subset or "validation"
            data = epic_kitchens(root, options.release, subset, options.task, options.annotations)
        return data.present()
    folder = Path(options.data)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: expected samples, ucf101, epic-kitchens, or a folder of videos"
        )
    return _folder_of_videos(folder)


def _folder_of_videos(folder: Path) -> Dataset:
    """Return the videos in a folder and below, each as one clip, named by their paths in it."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS)
    if not paths:
        raise ValueError(f"{folder} holds no videos ({', '.join(sorted(VIDEOS))})")
    names = [path.relative_to(folder).as_posix() for path in paths]
    index = pd.DataFrame({"path": list(map(str, paths))}, index=pd.Index(names, name="name"))
    return Dataset(index, [], _read_whole, title=folder.name)


def _read_whole(row: pd.Series, frames: int | None, stride: int | None) -> Clip:
    return read_clip(row["path"], frames, stride, name=str(row.name))
