"""The command line: `python -m workbench --help` lists the commands."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Commands = Any  # what argparse's add_subparsers returns; its type is private


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without Unicode shows τ as \u03c4, which is better than an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog="python -m workbench", description="The Saliency Tubes workbench."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in ADDERS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\nInterrupted. No file is left half-written.", file=sys.stderr)
        return 130


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="explain a video headless, into results/quickstart")
    parser.add_argument("video", nargs="?", help="your own video (default: a shipped sample)")
    parser.set_defaults(run=demo)


def demo(options: argparse.Namespace) -> int:
    """Execute the quickstart on a video, and print what it found and where the files are."""
    from .studies.notebooks import NotebookError, run_notebook, save_notebook

    results = ROOT / "results" / "quickstart"
    try:
        source = _quickstart()
        _check_writable(results)
        video = _readable_video(options.video)
    except (OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1

    def report(number: int, total: int, title: str) -> None:
        print(f"[{number}/{total}] {title}", flush=True)

    try:
        notebook = run_notebook(source, {"video": video}, report=report)
    except NotebookError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    try:
        executed = save_notebook(notebook, results / "quickstart.ipynb")
    except OSError as error:
        print(f"demo: cannot write the executed notebook: {error}", file=sys.stderr)
        return 1
    printed = [
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stdout"
    ]
    print(f"\n{printed[-1]}  executed notebook     {executed}")
    return 0


def _quickstart() -> Path:
    source = ROOT / "notebooks" / "00_quickstart.ipynb"
    if not source.is_file():
        raise FileNotFoundError(f"no notebook at {source}; the demo runs in a checkout")
    return source


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror}): free it, or use a copy of the "
            "checkout in a folder of your own"
        ) from error


def _readable_video(name: str | None) -> str | None:
    from .clips.reading import read_clip

    if name is None:
        return None
    path = Path(name).expanduser().resolve()
    read_clip(path, frames=16)
    return str(path)


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser(
        "evaluate", help="accuracy and pointing of the sample network on unseen clips"
    )
    parser.add_argument("--clips", type=int, default=400, help="clips per split (default: 400)")
    parser.add_argument("--seed", type=int, default=2, help="seed of the clips (default: 2)")
    parser.set_defaults(run=evaluate)


def evaluate(options: argparse.Namespace) -> int:
    """Print accuracy and pointing on all splits, and write the rows to results/samples."""
    import pandas as pd

    from .clips.files import whole_file
    from .datasets import samples
    from .models.zoo import load_model
    from .studies import evaluation

    model = load_model("samples/mfnet")
    folder = ROOT / "results" / "samples"
    columns = {}
    for split in samples.SPLITS:
        rows = evaluation.evaluate(model, samples.dataset(split, options.clips, options.seed))
        columns[split] = evaluation.summary(rows)
        with whole_file(folder / f"{split}.csv") as temporary:
            rows.to_csv(temporary, index=False)
    table = pd.DataFrame(columns)
    with whole_file(folder / "summary.csv") as temporary:
        table.to_csv(temporary)
    print(f"\n{model}\n{options.clips} clips per split, seed {options.seed}\n")
    print(f"{table.round(3).to_string()}\n\nRows: {folder}")
    return 0


def _add_score(commands: Commands) -> None:
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
    parser.set_defaults(run=score)


def score(options: argparse.Namespace) -> int:
    """Score a model's tubes and append one row of means to a table."""
    from .studies.scoring import score_command

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


def _add_sweep(commands: Commands) -> None:
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
    parser.add_argument("--weights", help="gradient, gradient++ or layer (default: the head's)")
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
    parser.set_defaults(run=sweep)


def sweep(options: argparse.Namespace) -> int:
    """Explain a data set into a store, or resume it, and print what came of it."""
    from .sweeps.command import run_sweep_command

    return run_sweep_command(options)


def _add_study(commands: Commands) -> None:
    parser = commands.add_parser(
        "study", help="faithfulness of tubes and baselines on unseen clips; takes an hour"
    )
    parser.add_argument("--clips", type=int, default=200, help="clips per split (default: 200)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--seed", type=int, help="of other clips, to see whether the record replicates"
    )
    parser.add_argument(
        "--steps", type=int, help="of deletion and insertion; 0 leaves them out (default: 8)"
    )
    parser.add_argument(
        "--tables", nargs="+", help="only these (default: all; methods with --seed)"
    )
    parser.set_defaults(run=study)
    parser = commands.add_parser(
        "study-attributions", help="methods of attribution on sample pairs; takes an hour"
    )
    parser.add_argument("folder", nargs="?", default="results/attributions", help="of the rows")
    parser.add_argument(
        "--costs", action="store_true", help="only what each method costs, on an idle machine"
    )
    parser.set_defaults(run=study_attributions)
    parser = commands.add_parser(
        "study-transformers", help="where small transformers' tubes point; takes half an hour"
    )
    parser.add_argument("folder", nargs="?", default="results/transformers", help="of the rows")
    parser.add_argument("--families", nargs="+", default=[], help="(default: all)")
    parser.add_argument("--clips", type=int, default=100, help="clips a family (default: 100)")
    parser.set_defaults(run=study_transformers)
    parser = commands.add_parser(
        "study-conservation",
        help="by how much relevance misses the logit of small transformers; takes two minutes",
    )
    parser.add_argument("families", nargs="*", help='such as "VideoMAE, mean" (default: all)')
    parser.set_defaults(run=study_conservation)
    parser = commands.add_parser(
        "study-training",
        help="train 2-D and 3-D networks alike and compare their tubes; takes an hour and a half",
    )
    parser.add_argument("folder", nargs="?", default="results/training", help="of weights and rows")
    parser.add_argument("--clips", type=int, default=100, help="clips per split (default: 100)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.set_defaults(run=study_training)


def study(options: argparse.Namespace) -> int:
    """Measure the study of faithfulness, or resume it, and print the means of its methods.

    On other clips than the record's, print how the means differ from the recorded ones.
    """
    from .studies import study as part
    from .studies.replication import replicated, replication_text

    folder = ROOT / "results" / "study"
    print(f"Rows go to {folder}; if interrupted, the same command resumes from them.")
    steps = part.STEPS if options.steps is None else options.steps
    if options.seed not in (None, part.SEED):
        tables = options.tables or ["methods"]
        found = part.run(
            folder, options.clips, options.workers, seed=options.seed, steps=steps, tables=tables
        )
        if "methods" in found:
            print(replication_text(replicated(found["methods"], part.recorded("methods"))))
        return 0
    tables = options.tables or part.TABLES
    measured = part.run(folder, options.clips, options.workers, steps=steps, tables=tables)
    if "methods" not in measured:
        return 0
    rows = measured["methods"]
    columns = ["points", "points ±5%", "energy inside", "temporal AUC", "deletion", "insertion"]
    columns = [name for name in columns if name in rows]
    means = rows.groupby(["data", "method"], sort=False)[columns].mean()
    print(f"\n{options.clips} clips per split\n\n{means.round(3).to_string()}\n\nRows: {folder}")
    return 0


def study_attributions(options: argparse.Namespace) -> int:
    """Score every method of attribution, or resume it, and print the summary."""
    from .studies.attribution_study import COSTS, measure_attributions, measure_costs

    if options.costs:
        folder = Path(options.folder)
        folder.mkdir(parents=True, exist_ok=True)
        costs = measure_costs()
        costs.round(4).to_csv(folder / COSTS.name)
        print(costs.round(3).to_string())
    else:
        print(measure_attributions(options.folder).summary().to_string())
    return 0


def study_training(options: argparse.Namespace) -> int:
    """Train and measure the training matrix, or resume it, and print means over the seeds."""
    from .studies.training_matrix import matrix_means, measure_matrix

    rows = measure_matrix(options.folder, options.clips, options.workers)
    print(f"{matrix_means(rows).round(3).to_string()}\n\nWeights and rows: {options.folder}")
    return 0


def study_transformers(options: argparse.Namespace) -> int:
    """Measure where every method points on the small transformers, or resume, and print it."""
    from .studies import transformer_study

    rows = transformer_study.measure_transformers(options.folder, options.families, options.clips)
    table = transformer_study.pointing_table(rows)
    print(table.round(2).to_string())
    return 0


def study_conservation(options: argparse.Namespace) -> int:
    """Print by how much Σ relevance misses the logits of the small transformers."""
    from .studies.conservation import conservation_table

    table = conservation_table(options.families)
    print(table.to_string(float_format="{:.2g}".format))
    return 0


def _add_check_data(commands: Commands) -> None:
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
    parser.set_defaults(run=check_data)


def check_data(options: argparse.Namespace) -> int:
    """Print which data are present and what is wrong with them; the status is 1 if anything is."""
    from .datasets import checks, find_data

    if options.folder is None:
        print(*find_data().values(), sep="\n")
    report = checks.check_data(
        options.folder, options.annotations, decode=options.decode, workers=options.workers
    )
    print(f"\n{report.text(None if options.all else 10)}")
    return 0 if report.ok else 1


def _add_fine_tune(commands: Commands) -> None:
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
    parser.set_defaults(run=fine_tune)


def fine_tune(options: argparse.Namespace) -> int:
    """Fine-tune a network, or resume it, test it, and write to results/ucf101 or epic_kitchens."""
    from .datasets.places import find_data
    from .models.zoo import load_model
    from .studies import joint_recipe, recipes

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
    output = ROOT / "results" / options.data.replace("-", "_")
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


def _add_makers(commands: Commands) -> None:
    parser = commands.add_parser("make-samples", help="build data/samples from its seeds")
    parser.set_defaults(run=make_samples)
    parser = commands.add_parser("train-sample", help="train a shipped network again; an hour")
    parser.add_argument("name", choices=("mfnet", "tsn", "mfnet-iid"))
    parser.set_defaults(run=train_sample)
    parser = commands.add_parser(
        "train-transformers", help="train the study's small transformers; half an hour"
    )
    parser.add_argument("families", nargs="*", help='such as "VideoMAE, mean" (default: all)')
    parser.add_argument("--folder", help="of the weights (default: those that are shipped)")
    parser.set_defaults(run=train_transformers)


def make_samples(options: argparse.Namespace) -> int:
    """Build the shipped sample clips again and print their folder."""
    from .studies.sample_files import build

    print(build())
    return 0


def train_sample(options: argparse.Namespace) -> int:
    """Train a shipped sample network again and print the path of its weights."""
    from .training.sample_networks import retrain

    print(retrain(options.name, progress=True))
    return 0


def train_transformers(options: argparse.Namespace) -> int:
    """Train small transformers on gratings and print the folder of their weights."""
    from .training import small_transformers

    folder = options.folder or small_transformers.TRAINED
    print(small_transformers.train_small_transformers(options.families, folder))
    return 0


ADDERS = (
    _add_demo,
    _add_evaluate,
    _add_score,
    _add_sweep,
    _add_study,
    _add_fine_tune,
    _add_check_data,
    _add_makers,
)

if __name__ == "__main__":
    sys.exit(main())
