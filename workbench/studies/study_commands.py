"""The commands `study…` of `python -m workbench`: the records behind the documents' tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..clips import files

__all__ = ["add_study_commands"]


def add_study_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands `study…` to those of `python -m workbench`."""
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
    parser.set_defaults(run=_run_study)
    parser = commands.add_parser(
        "study-attributions", help="methods of attribution on sample pairs; takes an hour"
    )
    parser.add_argument("folder", nargs="?", default="results/attributions", help="of the rows")
    parser.add_argument(
        "--costs", action="store_true", help="only what each method costs, on an idle machine"
    )
    parser.set_defaults(run=_run_study_attributions)
    parser = commands.add_parser(
        "study-transformers", help="where small transformers' tubes point; takes half an hour"
    )
    parser.add_argument("folder", nargs="?", default="results/transformers", help="of the rows")
    parser.add_argument("--families", nargs="+", default=[], help="(default: all)")
    parser.add_argument("--clips", type=int, default=100, help="clips a family (default: 100)")
    parser.set_defaults(run=_run_study_transformers)
    parser = commands.add_parser(
        "study-conservation",
        help="by how much relevance misses the logit of small transformers; takes two minutes",
    )
    parser.add_argument("families", nargs="*", help='such as "VideoMAE, mean" (default: all)')
    parser.set_defaults(run=_run_study_conservation)
    parser = commands.add_parser(
        "study-training",
        help="train 2-D and 3-D networks alike and compare their tubes; takes an hour and a half",
    )
    parser.add_argument("folder", nargs="?", default="results/training", help="of weights and rows")
    parser.add_argument("--clips", type=int, default=100, help="clips per split (default: 100)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.set_defaults(run=_run_study_training)


def _run_study(options: argparse.Namespace) -> int:
    """Measure the study of faithfulness, or resume it, and print the means of its methods.

    On other clips than the record's, print how the means differ from the recorded ones.
    """
    from . import study as part
    from .replication import replicated, replication_text

    folder = files.ROOT / "results" / "study"
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


def _run_study_attributions(options: argparse.Namespace) -> int:
    """Score every method of attribution, or resume it, and print the summary."""
    from .attribution_study import COSTS, measure_attributions, measure_costs

    if options.costs:
        folder = Path(options.folder)
        folder.mkdir(parents=True, exist_ok=True)
        costs = measure_costs()
        costs.round(4).to_csv(folder / COSTS.name)
        print(costs.round(3).to_string())
    else:
        print(measure_attributions(options.folder).summary().to_string())
    return 0


def _run_study_training(options: argparse.Namespace) -> int:
    """Train and measure the training matrix, or resume it, and print means over the seeds."""
    from .training_matrix import matrix_means, measure_matrix

    rows = measure_matrix(options.folder, options.clips, options.workers)
    print(f"{matrix_means(rows).round(3).to_string()}\n\nWeights and rows: {options.folder}")
    return 0


def _run_study_transformers(options: argparse.Namespace) -> int:
    """Measure where every method points on the small transformers, or resume, and print it."""
    from . import transformer_study

    rows = transformer_study.measure_transformers(options.folder, options.families, options.clips)
    table = transformer_study.pointing_table(rows)
    print(table.round(2).to_string())
    return 0


def _run_study_conservation(options: argparse.Namespace) -> int:
    """Print by how much Σ relevance misses the logits of the small transformers."""
    from .conservation import conservation_table

    table = conservation_table(options.families)
    print(table.to_string(float_format="{:.2g}".format))
    return 0
