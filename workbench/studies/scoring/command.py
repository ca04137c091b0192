"""The command `python -m workbench score`: one row of a table of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ...clips.files import whole_file
from ...datasets import epic_kitchens, jhmdb, samples, ucf101_24
from ...datasets.table import Dataset
from ...models.zoo import load_model
from .measures import NEAR
from .running import score
from .tables import Scores

__all__ = ["score_command"]

SAMPLES_SEED = 5  # of clips that no network was trained on
METRICS = (f"points{NEAR}", "energy inside", "box share", "temporal AUC")
BESIDE = ("centre of the middle frame", "centre Gaussian", "frame difference")


def score_command(
    data: str,
    model: str,
    *,
    annotations: str | None = None,
    subset: str | None = None,
    checkpoint: str | None = None,
    classes: str | None = None,
    methods: Sequence[str] = ("tube",),
    clips: int | None = None,
    table: str | Path = "results/scores.csv",
) -> int:
    """Score a model on a data set, and append one row of means to a table of results.

    Args:
        data: "samples" or "samples/<split>", or the folder of UCF-101, JHMDB or EPIC-Kitchens.
        model: what `wb.load_model` takes.
        annotations: UCF101-24's boxes, or VISOR's folder.
        subset: "train", "test" or, of EPIC-Kitchens, "validation"; None: what is for testing.
        checkpoint: the weights, for a model that takes them.
        classes: a file with the name of a class on each line, for a model that has no names; of
            lines such as "1 Basketball" the last word.
        methods: of `wb.attribute`; the first is the one the row is about.
        clips: the first so many clips; None: all.
        table: the CSV file that gets the row; the rows per clip lie beside it as Parquet.
    """
    options: dict[str, object] = {} if checkpoint is None else {"checkpoint": checkpoint}
    if classes is not None:
        options["classes"] = _class_names(Path(classes))
    network = load_model(model, **options)
    chosen = _data_named(data, annotations, subset)
    if clips is not None:
        chosen = chosen.subset(chosen.index.index[:clips])
    table = Path(table)
    stem = f"{model}-{chosen.title}".replace("/", "-").replace(" ", "-").replace(",", "")
    scores = score(chosen, network, methods, path=table.parent / f"{stem}.parquet")
    row = {"model": model, "data": chosen.title, **_row(scores, methods[0])}
    earlier = pd.read_csv(table) if table.is_file() else pd.DataFrame()
    with whole_file(table) as part:
        pd.concat([earlier, pd.DataFrame([row])]).to_csv(part, index=False)
    means = scores.summary()["mean"].unstack("metric").round(3)
    print(f"\n{network}\n{chosen}\n\n{means.to_string()}\n\nRow appended to {table}")
    return 0


def _row(scores: Scores, method: str) -> dict[str, object]:
    """Return the means of a method with its intervals, and of the baselines beside it."""
    row: dict[str, object] = {
        "date": scores.attrs["date"],
        "clips": scores["clip"].nunique(),
        "method": method,
        "version": scores.attrs["workbench"],
        "weights": str(scores.attrs["weights"])[:12],
    }
    means = scores.summary().round(4).to_dict("index")
    for part in ("all", "informative"):
        for metric in METRICS:
            own = means.get((part, method, metric), {})
            row[f"{part}: {metric}, low"] = own.get("low")
            row[f"{part}: {metric}, high"] = own.get("high")
            for name in (method, *BESIDE):
                row[f"{part}: {metric}, {name}"] = means.get((part, name, metric), {}).get("mean")
    return row


def _class_names(path: Path) -> list[str]:
    """Return the last word of each line: the name in "1 Basketball" and in "Basketball"."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split()[-1] for line in lines if line.strip()]


def _data_named(data: str, annotations: str | None, subset: str | None) -> Dataset:
    """Return the clips on the disk of the data set that a command names.

    Raises:
        FileNotFoundError: there are none.
    """
    kind, _, split = data.partition("/")
    if kind == "samples":
        return samples.dataset(split or "pair", 100, seed=SAMPLES_SEED)
    root = Path(data).expanduser()
    if (root / "puppet_mask").is_dir():
        found = jhmdb(root, subset=subset or "test")
    elif (root / "EPIC-KITCHENS").is_dir():
        found = epic_kitchens(root, subset=subset or "validation", visor=annotations)
    else:
        found = ucf101_24(root, annotations, subset=subset or "test")
    if not len(found.present()):
        raise FileNotFoundError(f"none of the {len(found)} clips of {found.title} is in {root}")
    return found.present()
