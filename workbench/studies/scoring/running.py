"""Running a score: every method on every clip, beside the baselines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ...clips.clip import Clip
from ...datasets.table import Dataset
from ...metrics.perturbation import insertion, replacement
from ...models.video_model import VideoModel
from ...saliency.attribution import METHODS, attribute
from ...saliency.tubes import Tube
from ..evaluation import Method, seed_of
from .baseline_tubes import score_baselines
from .costs import run_method
from .keeping import KeptRows, score_provenance
from .measures import Truth, scores_of
from .tables import Scores

__all__ = ["TOLERANCE", "score"]

TOLERANCE = 15 / 224  # the pointing game's 15 pixels, as a share of a frame of 224


def score(
    data: Dataset,
    model: VideoModel,
    methods: Sequence[str] | Mapping[str, str | Method] = ("tube",),
    baselines: Mapping[str, Method] | None = None,
    *,
    path: str | Path | None = None,
    tolerance: float = TOLERANCE,
    insertion_steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """Hold what methods say about every clip against its annotated actions, beside baselines.

    docs/scores.md defines every number. Eight baselines are always included (`BASELINES`): two that
    know the frame's centre only, a Gaussian there, the frames' difference and optical flow, a
    random voxel, and the tubes of the same network with shuffled and with fresh weights.

    Args:
        data: clips with annotated actions, boxes or masks included: `wb.ucf101_24`, `wb.jhmdb`,
            `wb.epic_kitchens(…, visor=…)`, `wb.samples.dataset`. Clips are sampled as
            `model.input` says. Actions whose label is not a class of the data are left out.
        model: the network; `data` and `model` may come in either order.
        methods: names of `wb.attribute`'s methods, or a mapping from names to those or to functions
            of the clip as the network sees it and a class name, which return a tube or (T, H, W).
        baselines: further baselines, name to function.
        path: a Parquet file that keeps the rows with their provenance. Clips that it holds already
            are not scored again, so an interrupted run resumes.
        tolerance: of pointing, as a share of the frame's height and width.
        insertion_steps: also measure insertion (`wb.insertion`) in so many steps; None: not.
        seed: of the random weights and the random voxel.
        progress: whether to show a bar.

    Returns:
        A `Scores` DataFrame with `summary()`. A clip whose actors are in no annotated frame that is
        sampled has no row; a warning counts such clips.

    Raises:
        ValueError: no methods; a clip without an annotated action; a method's volume is of another
            size or holds NaN (the message names clip and method); `path` holds another run.
        FileNotFoundError: clips are not on the disk; nothing is scored then.
    """
    if isinstance(data, VideoModel) and isinstance(model, Dataset):
        data, model = model, data
    index = data.index
    absent = index.index[~index["present"]] if "present" in index else index.index[:0]
    if len(absent):
        raise FileNotFoundError(
            f"{len(absent)} of {len(data)} clips are not on the disk, the first {absent[0]!r}: "
            "give data.present()"
        )
    compared = _methods(model, methods)
    against = {**score_baselines(model, seed), **(baselines or {})}
    if twice := set(compared) & set(against):
        raise ValueError(f"methods: {', '.join(twice)} are baselines; give them another name")
    settings: dict[str, object] = {
        "tolerance": tolerance,
        "insertion_steps": insertion_steps,
        "seed": seed,
    }
    kept = KeptRows(path, score_provenance(data, model, [*compared, *against], settings))
    scorer = _Scorer(
        data, model, compared, against, tolerance=tolerance, insertion_steps=insertion_steps
    )
    with kept:
        for name in tqdm(data.index.index, desc=data.title, disable=not progress):
            if name not in kept:
                kept.add(name, scorer.rows(name))
    scores = kept.scores(index.index)
    if scores.empty:
        raise ValueError(f"{data.title}: no actor is in any sampled frame of the {len(data)} clips")
    missing = index.index.difference(pd.Index(scores["clip"]))
    if len(missing):
        warnings.warn(
            f"{len(missing)} of {len(data)} clips have no actor in an annotated frame that is "
            f"sampled, and no row: {missing[0]!r}, …",
            stacklevel=2,
        )
    return scores


class _Scorer:
    """Scores all methods on one clip after the other."""

    def __init__(
        self,
        data: Dataset,
        model: VideoModel,
        methods: Mapping[str, Method],
        baselines: Mapping[str, Method],
        *,
        tolerance: float,
        insertion_steps: int | None,
    ) -> None:
        self.data = data
        self.model = model
        self.methods = {**methods, **baselines}
        self.kinds = {name: "method" if name in methods else "baseline" for name in self.methods}
        self.tolerance = tolerance
        self.insertion_steps = insertion_steps
        self._warm: set[str] = set()

    def rows(self, name: str) -> list[dict[str, object]]:
        """Return a clip's rows: one for every actor and method."""
        spec = self.model.input
        clip = spec.view(self.data.read(name, frames=spec.frames, stride=spec.stride))
        actors = [number for number, a in enumerate(clip.actions) if a.label in self.data.classes]
        if not actors:
            raise ValueError(
                f"clip {name!r} has no annotated action: there is no truth to score against"
            )
        rows = []
        for number in actors:
            label = clip.actions[number].label
            truth = Truth.of(clip, clip.actions[number])
            if truth is None:
                continue
            about = {
                "data": self.data.title,
                "clip": name,
                "actor": number,
                "class": label,
                "group": _group(self.data.index, name),
                "informative": not (truth.centre_hits or truth.fills_the_clip),
                "centre hits": truth.centre_hits,
                "fills the clip": truth.fills_the_clip,
            }
            for method, kind in self.kinds.items():
                try:
                    measured = self._measure(method, clip, label, truth)
                except ValueError as error:
                    raise ValueError(f"clip {name!r}, method {method!r}: {error}") from error
                rows.append({**about, "method": method, "kind": kind, **measured})
        return rows

    def _measure(self, method: str, clip: Clip, label: str, truth: Truth) -> dict[str, object]:
        """Return a method's scores and costs."""
        volume, cost = self._volume(method, clip, label)
        scores = scores_of(volume, truth, clip.times, self.tolerance)
        if self.insertion_steps is not None:
            curve = insertion(
                self.model.score(label),
                clip,
                volume,
                steps=self.insertion_steps,
                baseline=replacement(clip),
                seed=seed_of(clip),
            )
            scores["insertion"] = curve.auc
        return {**scores, **cost}

    def _volume(self, method: str, clip: Clip, label: str) -> tuple[np.ndarray, dict[str, object]]:
        """Return a method's volume, and what it cost."""
        made, passes, seconds = run_method(self.methods[method], clip, label)
        if passes and method not in self._warm:
            # The first time, the network was searched, and its memory format measured.
            made, passes, seconds = run_method(self.methods[method], clip, label)
            self._warm.add(method)
        volume = made.volume if isinstance(made, Tube) else np.asarray(made)
        if volume.shape != clip.frames.shape[:3]:
            raise ValueError(
                f"expected the clip's size {clip.frames.shape[:3]}, got {volume.shape}"
            )
        return volume, {"forward passes": passes, "seconds": seconds}


def _methods(
    model: VideoModel, methods: Sequence[str] | Mapping[str, str | Method]
) -> dict[str, Method]:
    """Return the methods to compare as functions of clip and class name."""
    named = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    if not named:
        raise ValueError("methods: expected at least one")
    functions: dict[str, Method] = {}
    for name, method in named.items():
        if isinstance(method, str):
            if method not in METHODS:
                raise ValueError(f"methods: no {method!r}; there are {', '.join(METHODS)}")
            functions[name] = partial(attribute, model, method=method)
        else:
            functions[name] = method
    return functions


def _group(index: pd.DataFrame, name: str) -> str:
    """Return what a clip was cut from: clips of one group are not independent."""
    if "participant" in index:
        return str(index.at[name, "participant"])
    if "group" in index:
        label, group = (str(index[column].loc[name]) for column in ("class", "group"))
        return f"{label}/{group}"
    return name
