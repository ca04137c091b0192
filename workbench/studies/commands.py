"""Commands of `python -m workbench`: evaluate, score, fine-tune, check-data, the samples' makers.

Those of data sets and training are here, too: to import their rooms takes seconds, which `--help`
has not got.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..clips import files

__all__ = [
    "add_check_data_command",
    "add_evaluate_command",
    "add_fine_tune_command",
    "add_maker_commands",
    "add_score_command",
]


def add_evaluate_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `evaluate` to those of `python -m workbench`."""
    parser = commands.add_parser(
        "evaluate", help="accuracy and pointing of the sample network on unseen clips"
    )
    parser.add_argument("--clips", type=int, default=400, help="clips per split (default: 400)")
    parser.add_argument("--seed", type=int, default=2, help="seed of the clips (default: 2)")
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(options: argparse.Namespace) -> int:
    """Print accuracy and pointing on all splits, and write the rows to results/samples."""
    import pandas as pd

    from ..datasets import samples
    from ..models.zoo import load_model
    from . import evaluation

    model = load_model("samples/mfnet")
    folder = files.ROOT / "results" / "samples"
    columns = {}
    for split in samples.SPLITS:
        rows = evaluation.evaluate(model, samples.dataset(split, options.clips, options.seed))
        columns[split] = evaluation.summary(rows)
        with files.whole_file(folder / f"{split}.csv") as temporary:
            rows.to_csv(temporary, index=False)
    table = pd.DataFrame(columns)
    with files.whole_file(folder / "summary.csv") as temporary:
        table.to_csv(temporary)
    print(f"\n{model}\n{options.clips} clips per split, seed {options.seed}\n")
    print(f"{table.round(3).to_string()}\n\nRows: {folder}")
    return 0


def add_score_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `score` to those of `python -m workbench`."""
    parser = commands.add_parser(
        "score", help="a model's tubes against human ground truth: one row of a results table"
    )
    parser.add_argument(
        "--data",
        required=True,
        help="samples[/split], or a folder of UCF-101, JHMDB, EPIC-Kitchens",
    )
    parser.add_argument("--model", required=True, help="a name of wb.list_models()")
    parser.add_argument("--annotations", help="UCF101-24's boxes, or the folder of VISOR")
    parser.add_argument("--subset", help="train, test or validation (default: what is for testing)")
    parser.add_argument("--checkpoint", help="the weights, for a model that takes them")
    parser.add_argument("--classes", help="a file with a class name on each line")
    parser.add_argument("--methods", nargs="+", default=["tube"], help="of wb.attribute")
    parser.add_argument("--clips", type=int, help="only the first clips (default: all)")
    parser.add_argument("--table", default="results/scores.csv", help="CSV file that gets the row")
    parser.set_defaults(run=_run_score)


def _run_score(options: argparse.Namespace) -> int:
    """Score a model's tubes and append one row of means to a table."""
    from .scoring import score_command

    return score_command(
        options.data,
        options.model,
        annotations=options.annotations,
        subset=options.subset,
        checkpoint=options.checkpoint,
        classes=options.classes,
        methods=options.methods,
        clips=options.clips,
        table=options.table,
    )


def add_fine_tune_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `fine-tune` to those of `python -m workbench`."""
    parser = commands.add_parser(
        "fine-tune",
        help="make the figures' checkpoints from MFNet-3D, or a TSN for verbs and nouns",
    )
    parser.add_argument("data", choices=("ucf101", "epic-kitchens"))
    parser.add_argument(
        "--network",
        default="mfnet3d",
        help="mfnet3d (default), or tsn/resnet50 for EPIC's verbs and nouns together",
    )
    parser.add_argument(
        "--checkpoint",
        help="to start from: MFNet-3D trained on Kinetics; a TSN may start from ImageNet's weights",
    )
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--batch", type=int, default=16, help="clips in a step (default: 16)")
    parser.add_argument("--clips", type=int, default=10, help="windows per test clip (default: 10)")
    parser.set_defaults(run=_run_fine_tune)


def _run_fine_tune(options: argparse.Namespace) -> int:
    """Fine-tune a network, or resume it, test it, and write to results/ucf101 or epic_kitchens."""
    from ..datasets.places import find_data
    from ..models.zoo import load_model
    from . import joint_recipe, recipes

    deep = options.network == "mfnet3d"
    problem = None
    if not find_data(options.data).real:
        problem = f"no {options.data} here; data/README.md says how"
    elif deep and options.checkpoint is None:
        problem = "mfnet3d starts from a checkpoint: --checkpoint MFNet3D_Kinetics-400.pth"
    elif not deep and options.data != "epic-kitchens":
        problem = f"verbs and nouns are epic-kitchens', got {options.data}"
    if problem:
        print(f"fine-tune: {problem}", file=sys.stderr)
        return 1
    output = files.ROOT / "results" / options.data.replace("-", "_")
    settings = {"epochs": options.epochs, "batch": options.batch}
    result: Any
    try:
        parts = recipes.parts_of(options.data)
        if deep:
            model = load_model("mfnet3d", checkpoint=options.checkpoint)
            result = recipes.train_and_test(model, parts, output, clips=options.clips, **settings)
        else:
            labels = joint_recipe.nouns()
            classes = {"verb": parts[0].classes, "noun": labels.classes}
            model = joint_recipe.two_headed_tsn(options.network, classes, options.checkpoint)
            result = joint_recipe.train_tsn(model, parts, labels, output, **settings)
    except (KeyError, OSError, ValueError) as error:
        print(f"fine-tune: {error}", file=sys.stderr)
        return 1
    print(f"\n{result.round(3).to_string()}\n\nCheckpoint and tables: {output}")
    return 0


def add_check_data_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `check-data` to those of `python -m workbench`."""
    parser = commands.add_parser("check-data", help="are UCF-101 and EPIC-Kitchens complete?")
    parser.add_argument(
        "folder", nargs="?", help="holds one or both data sets (default: as `wb.find_data` finds)"
    )
    parser.add_argument("--annotations", help="folder of lists or CSV files kept elsewhere")
    parser.add_argument(
        "--decode", action="store_true", help="decode 16 frames of each video, not only its header"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per processor)")
    parser.add_argument(
        "--all", action="store_true", help="list every problem, not the first ten of a kind"
    )
    parser.set_defaults(run=_run_check_data)


def _run_check_data(options: argparse.Namespace) -> int:
    """Print which data are present and what is wrong with them; the status is 1 if anything is."""
    from ..datasets import checks, find_data

    if options.folder is None:
        print(*find_data().values(), sep="\n")
    report = checks.check_data(
        options.folder, options.annotations, decode=options.decode, workers=options.workers
    )
    print(f"\n{report.text(None if options.all else 10)}")
    return 0 if report.ok else 1


def add_maker_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add what makes the samples and trains their networks to those of `python -m workbench`."""
    parser = commands.add_parser("make-samples", help="build data/samples from its seeds")
    parser.set_defaults(run=_run_make_samples)
    parser = commands.add_parser("train-sample", help="train a shipped network again; an hour")
    parser.add_argument("name", choices=("mfnet", "tsn", "mfnet-iid"))
    parser.set_defaults(run=_run_train_sample)
    parser = commands.add_parser(
        "train-transformers", help="train the study's small transformers; half an hour"
    )
    parser.add_argument("families", nargs="*", help='such as "VideoMAE, mean" (default: all)')
    parser.add_argument("--folder", help="of the weights (default: those that are shipped)")
    parser.set_defaults(run=_run_train_transformers)


def _run_make_samples(options: argparse.Namespace) -> int:
    """Build the shipped sample clips again and print their folder."""
    from .sample_files import build

    print(build())
    return 0


def _run_train_sample(options: argparse.Namespace) -> int:
    """Train a shipped sample network again and print the path of its weights."""
    from ..training.sample_networks import retrain

    print(retrain(options.name, progress=True))
    return 0


def _run_train_transformers(options: argparse.Namespace) -> int:
    """Train small transformers on gratings and print the folder of their weights."""
    from ..training import small_transformers

    folder = options.folder or small_transformers.TRAINED
    print(small_transformers.train_small_transformers(options.families, folder))
    return 0
