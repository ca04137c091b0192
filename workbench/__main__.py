"""The command line: `python -m workbench demo [VIDEO]`, `… evaluate`, `… study` and `… check-data [FOLDER]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench", description="The Saliency Tubes workbench."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo_parser = commands.add_parser(
        "demo", help="explain a video headless, into results/quickstart"
    )
    demo_parser.add_argument(
        "video", nargs="?", help="your own video; without it, a shipped sample"
    )
    table = commands.add_parser(
        "evaluate", help="the shipped network and its tubes on unseen sample clips"
    )
    table.add_argument("--clips", type=int, default=400, help="clips a split (default: 400)")
    table.add_argument("--seed", type=int, default=2, help="of the clips (default: 2)")
    study_parser = commands.add_parser(
        "study", help="faithfulness of tubes and baselines on unseen sample clips, an hour"
    )
    study_parser.add_argument("--clips", type=int, default=200, help="clips a split (default: 200)")
    study_parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    check = commands.add_parser(
        "check-data", help="whether UCF-101 and EPIC-Kitchens are whole on the disk"
    )
    check.add_argument(
        "folder",
        nargs="?",
        help="of one or both data sets; without it, where `wb.find_data` finds them",
    )
    check.add_argument(
        "--annotations", help="folder of the lists or CSV files, where they are not with the data"
    )
    check.add_argument(
        "--decode", action="store_true", help="decode 16 frames of each video, not its header alone"
    )
    check.add_argument(
        "--workers", type=int, help="processes that read videos (default: one a processor)"
    )
    check.add_argument(
        "--all", action="store_true", help="list every problem, not the first ten of a kind"
    )
    options = parser.parse_args(arguments)
    if options.command == "demo":
        return demo(options.video)
    if options.command == "evaluate":
        return evaluate(options.clips, options.seed)
    if options.command == "study":
        return study(options.clips, options.workers)
    return check_data(
        options.folder, options.annotations, options.decode, options.workers, options.all
    )


def demo(video: str | None) -> int:
    """Execute the quickstart notebook on a video, cell by cell, and print what it found and where it is."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    source = ROOT / "notebooks" / "00_quickstart.ipynb"
    if not source.is_file():
        print(
            f"No notebook at {source}: the demo runs in a checkout of the repository.",
            file=sys.stderr,
        )
        return 1
    if video is not None:
        path = Path(video).expanduser().resolve()
        try:
            _readable(path)
        except (OSError, ValueError) as error:
            print(f"make demo: {error}", file=sys.stderr)
            return 1
        os.environ["WORKBENCH_CLIP"] = str(path)
    else:
        os.environ.pop("WORKBENCH_CLIP", None)
    notebook = nbformat.read(source, as_version=4)
    code = [number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"]

    def tell(cell, cell_index):  # type: ignore[no-untyped-def]
        if cell_index in code:
            first = next(line for line in cell.source.splitlines() if "NBVAL" not in line).lstrip(
                "# "
            )
            print(f"[{code.index(cell_index) + 1}/{len(code)}] {first}", flush=True)

    client = NotebookClient(
        notebook,
        store_widget_state=False,  # megabytes, of an explorer that is closed again
        extra_arguments=[
            "--Application.log_level=50"
        ],  # its log is not for users; errors come as output
        timeout=1200,
        kernel_name="python3",
        on_cell_start=tell,
        resources={"metadata": {"path": str(source.parent)}},
    )
    executed = ROOT / "results" / "quickstart" / "quickstart.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"\nThe notebook stopped: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except (
        KeyboardInterrupt,
        AssertionError,
        DeadKernelError,
    ):  # on Ctrl-C nbclient ends the kernel under itself
        print(
            "\nInterrupted, or out of memory: the kernel is gone. No file is left half-written.",
            file=sys.stderr,
        )
        return 130
    nbformat.write(notebook, executed)
    said = "".join(
        o.get("text", "") for o in notebook.cells[code[-1]].outputs if o.output_type == "stream"
    )
    print(f"\n{said}  executed notebook     {executed}")
    return 0


def evaluate(clips: int, seed: int) -> int:
    """Print the table of accuracy and pointing on all splits, and write it to results/samples."""
    import pandas as pd

    from .datasets import samples
    from .models.zoo import load_model
    from .studies.evaluation import evaluate as run
    from .studies.evaluation import summary

    model = load_model("samples/mfnet")
    folder = ROOT / "results" / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {}
    for split in samples.SPLITS:
        rows = run(model, samples.dataset(split, clips, seed))
        rows.to_csv(folder / f"{split}.csv", index=False)
        columns[split] = summary(rows)
    table = pd.DataFrame(columns)
    table.to_csv(folder / "summary.csv")
    print(
        f"\n{model}\n{clips} clips a split, seed {seed}\n\n{table.round(3).to_string()}\n\nRows: {folder}"
    )
    return 0


def study(clips: int, workers: int) -> int:
    """Measure the study of faithfulness, or go on with it, and print the means of its methods."""
    from .studies.study import run

    folder = ROOT / "results" / "study"
    try:
        rows = run(folder, clips, workers)["methods"]
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. What was measured is in {folder}: the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    columns = ["points", "points ±5%", "energy inside", "temporal AUC", "deletion", "insertion"]
    means = rows.groupby(["data", "method"], sort=False)[columns].mean()
    print(f"\n{clips} clips a split\n\n{means.round(3).to_string()}\n\nRows: {folder}")
    return 0


def check_data(
    folder: str | None, annotations: str | None, decode: bool, workers: int | None, every: bool
) -> int:
    """Print what is where of the data sets and what is wrong with them; 1 where something is."""
    from .datasets import find_data
    from .datasets.checks import check_data as run

    if folder is None:
        for place in find_data().values():
            print(place)
    report = run(folder, annotations, decode=decode, workers=workers)
    print(f"\n{report.text(None if every else 10)}")
    return 0 if report.ok else 1


def _readable(path: Path) -> None:
    from .clips.reading import read_clip

    read_clip(path, frames=16)


if __name__ == "__main__":
    sys.exit(main())
