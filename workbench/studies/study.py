"""The study of what tubes can be trusted for: shipped networks and baselines on the sample clips.

`run` measures every method on every split. It works in processes and saves every part, so an
interrupted run resumes. The tables are shipped; `recorded` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..clips.files import whole_file
from ..datasets.samples import FOLDER, HARD_SPLITS, SPLITS, dataset
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..models.zoo import load_model
from ..saliency.explaining import explain
from .evaluation import faithfulness, predictions
from .randomisation import cascading_randomisation
from .study_methods import (
    FRESH,
    SEED,
    SHARES,
    TWINS,
    centred,
    controls,
    explainer,
    follows_height,
    hard,
    methods,
    shares,
    untrained,
)

__all__ = [
    "FRESH",
    "SEED",
    "SHARES",
    "STEPS",
    "TABLES",
    "TWINS",
    "Part",
    "centred",
    "controls",
    "follows_height",
    "hard",
    "measure",
    "methods",
    "parts",
    "recorded",
    "run",
    "shares",
    "untrained",
]

STEPS = 8  # of deletion and insertion; how much that costs is in the table `steps`
FINE_STEPS = 40
TABLES = (
    "methods",
    "centred",
    "shares",
    "randomisation",
    "controls",
    "movement",
    "hard",
    "steps",
)
VERTICAL = ("lift", "lower")  # the classes whose object changes its height
PART = 20  # clips in a part, the most that an interruption loses for each worker
RECORD = FOLDER.parent / "study"


@dataclass(frozen=True)
class Part:
    """A part of the study: `what` (of `TABLES`) on `PART` clips of a split of `size` clips.

    `first` is the number of its first clip; `seed` is of the clips, and `steps` of the curves. No
    steps leave deletion and insertion out, which take most of the time.
    """

    what: str
    split: str
    first: int
    size: int
    seed: int = SEED
    steps: int = STEPS

    @property
    def name(self) -> str:
        """The name of the file with its measurements."""
        clips = f"{self.split}-{self.first:05d}-of-{self.size}"
        return f"{self.what}-{clips}-seed-{self.seed}-steps-{self.steps}.csv"

    @property
    def data(self) -> Dataset:
        """The clips."""
        split = dataset(self.split, self.size, self.seed)
        return split.subset(split.index.index[self.first : self.first + PART])


def parts(
    clips: int = 200, *, seed: int = SEED, steps: int = STEPS, tables: Sequence[str] = TABLES
) -> list[Part]:
    """Return all parts of tables: each on `clips` of each split, unless this says otherwise.

    Shares are measured on half as many of two splits, movement on half as many of each, `hard` on
    half as many of each of the harder splits, and controls and steps on an eighth.
    """
    half = max(2, clips // 2)
    by_what = {what: [(split, clips) for split in SPLITS] for what in TABLES}
    by_what["shares"] = [("decorrelated", half), ("pair", half)]
    by_what["movement"] = [(split, half) for split in SPLITS]
    by_what["hard"] = [(split, half) for split in HARD_SPLITS]
    for what in ("controls", "steps"):
        by_what[what] = [(split, max(2, clips // 8)) for split in SPLITS]
    return [
        Part(what, split, first, size, seed, steps)
        for what in tables
        for split, size in by_what[what]
        for first in range(0, size, PART)
    ]


def measure(part: Part) -> pd.DataFrame:
    """Measure a part, in this process and one thread.

    Returns a table as `evaluation.faithfulness` does, or for "randomisation" as
    `cascading_randomisation` does for each clip's first action.
    """
    torch.set_num_threads(1)
    mfnet = load_model("samples/mfnet", device="cpu")
    if part.what == "randomisation":
        return _measure_randomisation(mfnet, part)
    others = {"movement": _measure_movement, "hard": _measure_hard, "steps": _measure_steps}
    if part.what in others:
        return others[part.what](mfnet, part)
    if part.what == "methods":
        compared = methods(mfnet, load_model("samples/tsn", device="cpu"))
    else:
        tables = {"shares": shares, "centred": centred, "controls": controls}
        compared = tables[part.what](mfnet)
    table = faithfulness(
        compared,
        part.data,
        mfnet.input,
        score=mfnet.score if part.steps else None,
        steps=part.steps or STEPS,
        progress=False,
    )
    if part.what != "controls":
        return table
    # Whether the trained network needs what an untrained one marks is no question of interest.
    located = faithfulness(untrained(mfnet), part.data, mfnet.input, progress=False)
    return pd.concat([table, located], ignore_index=True)


def _measure_randomisation(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    tables = []
    for number, name in enumerate(part.data.index.index, start=part.first):
        clip = part.data.read(name, frames=mfnet.input.frames, stride=mfnet.input.stride)
        table = cascading_randomisation(mfnet, clip, clip.label, seed=number)
        tables.append(table.assign(data=part.data.title, clip=name))
    return pd.concat(tables)


def _measure_movement(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    """Measure for each clip what needs no second method: heights, and which classes come first."""
    rows = []
    for name in part.data.index.index:
        ex = explain(mfnet, part.data.read(name, frames=mfnet.input.frames))
        labels = [action.label for action in ex.clip.actions]
        height = float("nan")
        if labels[0] in VERTICAL:
            height = follows_height(ex.tube(labels[0]), ex.clip)
        top = ex.top(len(labels))["class"].tolist()
        rows.append(
            {
                "data": part.data.title,
                "clip": name,
                "class": labels[0],
                "height correlation": height,
                "actions on top": set(top) == set(labels),
            }
        )
    return pd.DataFrame(rows)


def _measure_hard(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    """Locate actions on harder clips, and tell of each whether the network is right."""
    table = faithfulness(hard(mfnet), part.data, mfnet.input, progress=False)
    named = predictions(mfnet, part.data, progress=False).set_index("clip")
    return table.assign(correct=table["clip"].map(named["correct"]))


def _measure_steps(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    """Measure the curves of the tube in few steps and in many: a method for each."""
    by_mfnet = explainer(mfnet)
    tables = [
        faithfulness(
            {f"{steps} steps": lambda clip, label: by_mfnet(clip).tube(label)},
            part.data,
            mfnet.input,
            score=mfnet.score,
            steps=steps,
            progress=False,
        )
        for steps in (part.steps, FINE_STEPS)
    ]
    return pd.concat(tables, ignore_index=True)


def run(
    folder: str | Path,
    clips: int = 200,
    workers: int = 2,
    *,
    seed: int = SEED,
    steps: int = STEPS,
    tables: Sequence[str] = TABLES,
) -> dict[str, pd.DataFrame]:
    """Measure every part that `folder` does not hold yet, and return the tables by name.

    200 clips take about an hour on two cores. After an interruption the next call resumes.

    Args:
        folder: of the parts, and of the tables as `<name>.csv.gz` (`<name>-seed-<seed>.csv.gz` for
            another seed than the record's).
        clips, workers: clips of each split, and processes.
        seed, steps: as of `Part`.
        tables: which of `TABLES`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = parts(clips, seed=seed, steps=steps, tables=tables)
    missing = [part for part in wanted if not (folder / part.name).is_file()]
    done = len(wanted) - len(missing)
    with (
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        tqdm(total=len(wanted), initial=done, unit="part", desc="study") as bar,
    ):
        waiting = {pool.submit(measure, part): part for part in missing}
        try:
            for future in as_completed(waiting):
                _write_table(folder / waiting[future].name, future.result(), float_format="%.5g")
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    suffix = "" if seed == SEED else f"-seed-{seed}"
    result = {}
    for what in tables:
        measured = [pd.read_csv(folder / part.name) for part in wanted if part.what == what]
        result[what] = pd.concat(measured, ignore_index=True)
        _write_table(folder / f"{what}{suffix}.csv.gz", result[what], compression="gzip")
    return result


def _write_table(path: Path, table: pd.DataFrame, **options: Any) -> None:
    with whole_file(path) as part:
        table.to_csv(part, index=False, **options)


def recorded(what: str = "methods") -> pd.DataFrame:
    """Return a shipped table.

    `methods`, `centred` and `randomisation` are on 200 clips of each split, `shares` on 100 of two,
    `movement` on 100 of each, and `controls` on 25 of each. `hard` and `steps` are on
    fewer, see `data/study/README.md`.

    Raises FileNotFoundError outside a checkout, KeyError for another table.
    """
    if what not in TABLES:
        raise KeyError(f"no table {what!r}; there are {', '.join(TABLES)}")
    file = RECORD / f"{what}.csv.gz"
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file}: work in a checkout of the repository, or `python -m workbench study`"
        )
    return pd.read_csv(file, dtype={"method": str})
