"""The command `python -m workbench sweep`: a data set, a model and a folder by their names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from ..clips.clip import Clip
    from ..datasets.table import Dataset
    from .store import Store

__all__ = ["add_sweep_command", "run_sweep_command"]


FAILURES = 5  # that are printed
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm"}


def add_sweep_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `sweep` to those of `python -m workbench`."""
    parser = commands.add_parser(
        "sweep",
        help="explain a whole data set into a folder; the same command resumes",
        epilog="example: … sweep ucf101 results/ucf101 --model torchvision/r3d_18",
    )
    parser.add_argument(
        "data", help="samples, ucf101, epic-kitchens, or a folder of videos without labels"
    )
    parser.add_argument("store", help="the folder to fill, or an address such as s3://bucket/store")
    parser.add_argument("--model", default="samples/mfnet", help="a name of wb.list_models()")
    parser.add_argument("--checkpoint", help="file of the model's weights, if it takes one")
    parser.add_argument("--scheduler", help="address of a Dask scheduler (default: this process)")
    parser.add_argument("--batch", type=int, default=8, help="clips a forward pass (default: 8)")
    parser.add_argument(
        "--weights", help="gradient, gradient++, layer or relevance (default: as wb.explain)"
    )
    parser.add_argument(
        "--top", type=int, default=5, help="classes whose gradient weights are kept (default: 5)"
    )
    parser.add_argument("--full", action="store_true", help="keep maps in full precision")
    parser.add_argument("--root", help="folder of ucf101 or epic-kitchens, if it is not found")
    parser.add_argument("--annotations", help="folder of their lists or CSV files")
    parser.add_argument("--subset", help="test or train (ucf101), validation or train")
    parser.add_argument("--split", type=int, default=1, help="of ucf101 (default: 1)")
    parser.add_argument("--release", type=int, default=100, help="of epic-kitchens (default: 100)")
    parser.add_argument("--task", default="verb", help="of epic-kitchens: verb (default) or noun")
    parser.set_defaults(run=run_sweep_command)


def run_sweep_command(options: argparse.Namespace) -> int:
    """Sweep, and print what came of it; 1 if something is wrong, 130 if it was interrupted."""
    from ..models.zoo import load_model
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
            data,
            model,
            options.store,
            client,
            batch=options.batch,
            weights=options.weights,
            top=options.top,
            full=options.full,
        )
    except KeyboardInterrupt:
        print("\nInterrupted. The same command resumes.", file=sys.stderr)
        return 130
    except KeyError as error:  # whose text is in quotes
        print(f"sweep: {error.args[0]}", file=sys.stderr)
        return 1
    # ImportError: object storage needs a package, whose name the message says.
    except (OSError, ValueError, ImportError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 1
    finally:
        if client is not None:
            client.close()
    _report(store)
    return 0


def _report(store: Store) -> None:
    """Print what is in a store, how many labels were found, and the first failures."""
    index = store.index
    print(store)
    labelled = index.dropna(subset=["label", "correct"])
    if len(labelled) and not labelled["label"].isin(store.classes).any():
        first = labelled["label"].iloc[0]
        print(f"no label of the data is a class of the model, {first!r} for example")
    elif len(labelled):
        right = labelled["correct"].astype(float).mean()
        print(f"{right:.1%} of {len(labelled)} labelled clips are right")
    failed = index.loc[index["status"] != "ok", "error"]
    for name, reason in failed.head(FAILURES).items():
        print(f"failed: {name}: {reason}")
    if len(failed) > FAILURES:
        print(f"… and {len(failed) - FAILURES} more: wb.open_store({str(store.folder)!r}).index")


def _data_set(options: argparse.Namespace) -> Dataset:
    from ..datasets import samples
    from ..datasets.epic import epic_kitchens
    from ..datasets.places import find_data
    from ..datasets.ucf import ucf101

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
    import pandas as pd

    from ..datasets.table import Dataset

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS)
    if not paths:
        raise ValueError(f"{folder} holds no videos ({', '.join(sorted(VIDEOS))})")
    names = [path.relative_to(folder).as_posix() for path in paths]
    index = pd.DataFrame({"path": list(map(str, paths))}, index=pd.Index(names, name="name"))
    return Dataset(index, [], _read_whole, title=folder.name)


def _read_whole(row: pd.Series, frames: int | None, stride: int | None) -> Clip:
    from ..clips.reading import read_clip

    return read_clip(row["path"], frames, stride, name=str(row.name))
