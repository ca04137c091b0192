"""Scoring: tubes held against human ground truth, always beside baselines. docs/scores.md.

`score` gives a table with a row per clip, actor and method; `summary` its means and intervals.
"""

from __future__ import annotations

import hashlib
import platform
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from skimage.registration import optical_flow_ilk
from torch.nn.functional import interpolate
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from tqdm.auto import tqdm

from ..clips.clip import Action, Clip
from ..clips.files import whole_file
from ..datasets.table import Dataset
from ..metrics.arrays import inside
from ..metrics.baseline_volumes import centre_gaussian, frame_difference
from ..metrics.confidence import Interval, bootstrap
from ..metrics.localisation import energy_inside, pointing_game, share_inside
from ..metrics.perturbation import insertion, replacement
from ..metrics.temporal import temporal_auc, temporal_iou
from ..models.outputs import tensors_in
from ..models.video_model import VideoModel
from ..saliency.attribution import METHODS, attribute
from ..saliency.explaining import explain
from ..saliency.tubes import Tube
from .randomisation import randomised

__all__ = ["BASELINES", "TOLERANCE", "Scores", "read_scores", "score", "score_command"]

Method: TypeAlias = Callable[[Clip, str], "Tube | np.ndarray"]

TOLERANCE = 15 / 224  # the pointing game's 15 pixels, as a share of a frame of 224
NEAR = " ±15 px"
SAVE_EVERY = 30.0  # seconds
WARPS = 4  # iterations of the optical flow
FLOW_HEIGHT = 112  # pixels
SAMPLES_SEED = 5  # no other study draws clips of this seed
BASELINES = (
    "frame centre",
    "centre of the middle frame",
    "centre Gaussian",
    "frame difference",
    "optical flow",
    "random voxel",
    "random weights",
)
# Columns that say what a row is about; all others are scores.
_KEYS = (
    "data",
    "clip",
    "actor",
    "class",
    "group",
    "method",
    "kind",
    "informative",
    "centre hits",
    "fills the clip",
)


class Scores(pd.DataFrame):
    """A table of scores, a row per clip, actor and method; `attrs` holds the provenance."""

    @property
    def _constructor(self) -> type[Scores]:
        return Scores

    def summary(self, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Return the mean of every score by method, with bootstrap intervals over groups.

        Args:
            level: of the intervals.
            seed: of the bootstrap.

        Returns:
            A DataFrame indexed by `clips` ("all", "informative" or "uninformative"), `method` and
            `metric`, with `mean`, `low`, `high`, `rows` and `groups`. The interval is NaN for fewer
            than two groups. Rows in which a score is NaN are left out of its mean.
        """
        rows = []
        parts = {
            "all": self,
            "informative": self[self["informative"]],
            "uninformative": self[~self["informative"]],
        }
        metrics = [name for name in self.columns if name not in _KEYS]
        for which, part in parts.items():
            for method, table in part.groupby("method", sort=False):
                for metric in metrics:
                    known = table[table[metric].notna()]
                    if len(known):
                        mean = _mean(known, metric, level, seed)
                        rows.append({"clips": which, "method": method, "metric": metric, **mean})
        columns = ["clips", "method", "metric", "mean", "low", "high", "rows", "groups"]
        return pd.DataFrame(rows, columns=columns).set_index(["clips", "method", "metric"])


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

    docs/scores.md defines every number. Seven baselines are always included (`BASELINES`): two that
    know the frame's centre only, a Gaussian there, the frames' difference and optical flow, a
    random voxel, and the tube of the same network with shuffled weights.

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
    against = {**_baselines(model, seed), **(baselines or {})}
    if twice := set(compared) & set(against):
        raise ValueError(f"methods: {', '.join(twice)} are baselines; give them another name")
    settings: dict[str, object] = {
        "tolerance": tolerance,
        "insertion_steps": insertion_steps,
        "seed": seed,
    }
    kept = _Kept(path, _provenance(data, model, [*compared, *against], settings))
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


def read_scores(path: str | Path) -> Scores:
    """Return the scores that a Parquet file holds; `attrs` is their provenance.

    Raises:
        FileNotFoundError: no such file.
    """
    table = pd.read_parquet(path)
    scores = Scores(table)
    scores.attrs.update(table.attrs)
    return scores


def score_command(
    data: str,
    model: str,
    *,
    annotations: str | None = None,
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
        checkpoint: the weights, for a model that takes them.
        classes: a file with the name of a class on each line, for a model that has no names; of
            lines such as "1 Basketball" the last word.
        methods: of `wb.attribute`; the first is the one the row is about.
        clips: the first so many clips; None: all.
        table: the CSV file that gets the row; the rows per clip lie beside it as Parquet.
    """
    from ..models.zoo import load_model

    options: dict[str, object] = {} if checkpoint is None else {"checkpoint": checkpoint}
    if classes is not None:
        lines = Path(classes).read_text(encoding="utf-8").splitlines()
        options["classes"] = [line.split()[-1] for line in lines if line.strip()]
    network = load_model(model, **options)
    chosen = _data_named(data, annotations)
    if clips is not None:
        chosen = chosen.subset(chosen.index.index[:clips])
    table = Path(table)
    stem = f"{model}-{chosen.title}".replace("/", "-").replace(" ", "-").replace(",", "")
    scores = score(chosen, network, methods, path=table.parent / f"{stem}.parquet")
    summary = scores.summary()
    means = summary.round(4).to_dict("index")
    row: dict[str, object] = {
        "date": scores.attrs["date"],
        "model": model,
        "data": chosen.title,
        "clips": scores["clip"].nunique(),
        "method": methods[0],
        "version": scores.attrs["workbench"],
        "weights": str(scores.attrs["weights"])[:12],
    }
    for part in ("all", "informative"):
        for metric in (f"points{NEAR}", "energy inside", "box share", "temporal AUC"):
            for method in (methods[0], *BASELINES[1:4]):
                found = means.get((part, method, metric), {})
                if method == methods[0]:
                    row[f"{part}: {metric}, low"] = found.get("low")
                    row[f"{part}: {metric}, high"] = found.get("high")
                row[f"{part}: {metric}, {method}"] = found.get("mean")
    earlier = pd.read_csv(table) if table.is_file() else pd.DataFrame()
    with whole_file(table) as part_file:
        pd.concat([earlier, pd.DataFrame([row])]).to_csv(part_file, index=False)
    shown = summary["mean"].unstack("metric").round(3)
    print(f"\n{network}\n{chosen}\n\n{shown.to_string()}\n\nRow appended to {table}")
    return 0


def _data_named(data: str, annotations: str | None) -> Dataset:
    """Return the data set that a command names."""
    from ..datasets import epic_kitchens, jhmdb, samples, ucf101_24

    kind, _, split = data.partition("/")
    if kind == "samples":
        return samples.dataset(split or "pair", 100, seed=SAMPLES_SEED)
    root = Path(data).expanduser()
    if (root / "puppet_mask").is_dir():
        return jhmdb(root).present()
    if (root / "EPIC-KITCHENS").is_dir():
        return epic_kitchens(root, visor=annotations).present()
    return ucf101_24(root, annotations).present()


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
        """Return a clip's rows."""
        spec = self.model.input
        clip = spec.view(self.data.read(name, frames=spec.frames, stride=spec.stride))
        truths = [
            (number, _truth(clip, action))
            for number, action in enumerate(clip.actions)
            if action.label in self.data.classes
        ]
        known = [(number, truth) for number, truth in truths if truth is not None]
        if not truths:
            raise ValueError(
                f"clip {name!r} has no annotated action: there is no truth to score against"
            )
        middle = _middle_voxel((len(clip), *clip.size))
        rows = []
        for number, (region, seen) in known:
            action = clip.actions[number]
            centre_hits = pointing_game(middle[seen], region[seen])
            fills = bool(clip.during((action.start, action.stop)).all())
            about = {
                "data": self.data.title,
                "clip": name,
                "actor": number,
                "class": action.label,
                "group": _group(self.data.index, name),
                "informative": not (centre_hits or fills),
                "centre hits": centre_hits,
                "fills the clip": fills,
            }
            for method, kind in self.kinds.items():
                try:
                    cost, volume = self._volume(method, clip, action.label)
                    scores = self._scores(clip, action, volume, region=region, seen=seen)
                except ValueError as error:
                    raise ValueError(f"clip {name!r}, method {method!r}: {error}") from error
                rows.append({**about, "method": method, "kind": kind, **scores, **cost})
        return rows

    def _volume(self, method: str, clip: Clip, label: str) -> tuple[dict[str, object], np.ndarray]:
        """Return what a method cost, and its volume."""
        made, passes, seconds = _run(self.methods[method], clip, label)
        if passes and method not in self._warm:
            # The first time, the network was searched, and its memory format measured.
            made, passes, seconds = _run(self.methods[method], clip, label)
            self._warm.add(method)
        volume = made.volume if isinstance(made, Tube) else np.asarray(made)
        if volume.shape != clip.frames.shape[:3]:
            raise ValueError(
                f"expected the clip's size {clip.frames.shape[:3]}, got {volume.shape}"
            )
        return {"forward passes": passes, "seconds": seconds}, volume

    def _scores(
        self,
        clip: Clip,
        action: Action,
        volume: np.ndarray,
        *,
        region: np.ndarray,
        seen: np.ndarray,
    ) -> dict[str, object]:
        """Return every score of a volume. Where it lies is judged in the frames `seen` only."""
        interval = (action.start, action.stop)
        during = clip.during(interval)
        part, truth = volume[seen], region[seen]
        scores: dict[str, object] = {}
        for suffix, tolerance in (("", 0.0), (NEAR, self.tolerance)):
            scores[f"points{suffix}"] = pointing_game(part, truth, tolerance)
            scores[f"points in space{suffix}"] = pointing_game(part, truth, tolerance, "space")
        scores["points in time"] = pointing_game(volume, _frames(during, volume.shape), axes="time")
        scores |= {
            "energy inside": energy_inside(part, truth),
            "box share": share_inside(truth, part.shape),
            "temporal IoU": temporal_iou(volume, interval, clip.times),
            "temporal AUC": np.nan,
        }
        if not during.all():  # else there is no other frame to tell it from
            scores["temporal AUC"] = temporal_auc(volume, interval, clip.times)
        scale = float(np.abs(part).mean())
        if scale > 0:
            off = part[~truth]
            scores["evidence on the actor"] = float(part[truth].mean()) / scale
            scores["evidence on the background"] = float(off.mean()) / scale if off.size else np.nan
        else:
            scores["evidence on the actor"] = scores["evidence on the background"] = 0.0
        if self.insertion_steps is not None:
            probability = self.model.score(action.label)
            curve = insertion(
                probability,
                clip,
                volume,
                steps=self.insertion_steps,
                baseline=replacement(clip),
                seed=_seed_of(clip.name),
            )
            scores["insertion"] = curve.auc
        return scores


def _run(method: Method, clip: Clip, label: str) -> tuple[Tube | np.ndarray, int, float]:
    """Return what a method made, how many clips went through a network, and seconds."""
    with _counted() as passes:
        started = time.perf_counter()
        made = method(clip, label)
        return made, passes[0], time.perf_counter() - started


def _truth(clip: Clip, action: Action) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the actor's voxels (T, H, W) bool, and the frames (T,) in which they are known.

    None if the actor is in no annotated frame of the clip. Masks go before boxes.
    """
    during = clip.during((action.start, action.stop))
    if action.masks is not None:
        region = action.masks & during[:, None, None]
        annotated = np.ones(len(clip), bool) if action.annotated is None else action.annotated
    elif action.boxes is not None:
        boxes = np.where(during[:, None], action.boxes, np.nan)
        region = inside(boxes[:, None], _size(clip))
        annotated = np.ones(len(clip), dtype=bool)
    else:
        return None
    # Outside the interval there is nothing to find, whether or not anyone looked.
    seen = annotated | ~during
    return (region, seen) if region.any() else None


def _frames(during: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return (T, H, W) bool: whole frames."""
    return np.broadcast_to(during[:, None, None], size)


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


def _baselines(model: VideoModel, seed: int) -> dict[str, Method]:
    """Return the seven baselines as functions of clip and class name."""
    shuffled = randomised(model, seed)
    functions: tuple[Method, ...] = (
        lambda clip, label: _centre_column(_size(clip)),
        lambda clip, label: _middle_voxel(_size(clip)),
        lambda clip, label: centre_gaussian(_size(clip)),
        lambda clip, label: frame_difference(clip),
        lambda clip, label: optical_flow(clip),
        lambda clip, label: _random_voxel(_size(clip), _seed_of(clip.name, seed)),
        lambda clip, label: explain(shuffled, clip).tube(label),
    )
    return dict(zip(BASELINES, functions))


def optical_flow(clip: Clip) -> np.ndarray:
    """Return (T, H, W) float32: how fast each pixel moves to the next frame, in pixels a frame.

    By iterative Lucas-Kanade (scikit-image) on pictures of at most `FLOW_HEIGHT` rows. The last
    frame takes the flow of the one before.

    Raises:
        ValueError: a clip of one frame.
    """
    if len(clip) < 2:
        raise ValueError("a clip of one frame has no flow between frames")
    height, width = clip.size
    scale = max(1.0, height / FLOW_HEIGHT)
    small = clip.resize(round(height / scale), round(width / scale))
    grey = small.frames.astype(np.float32).mean(-1) / 255
    steps = [optical_flow_ilk(one, other, num_warp=WARPS) for one, other in pairwise(grey)]
    speeds = [scale * np.hypot(down, across) for down, across in steps]
    stack = torch.from_numpy(np.stack([*speeds, speeds[-1]], dtype=np.float32))
    return interpolate(stack[None], clip.size, mode="bilinear")[0].numpy()


def _size(clip: Clip) -> tuple[int, int, int]:
    return (len(clip), *clip.size)


def _centre_column(size: tuple[int, int, int]) -> np.ndarray:
    """Return zeros, and one at the centre of every frame; of two middle pixels the first."""
    volume = np.zeros(size, dtype=np.float32)
    volume[:, (size[1] - 1) // 2, (size[2] - 1) // 2] = 1
    return volume


def _middle_voxel(size: tuple[int, int, int]) -> np.ndarray:
    """Return zeros, and one at the centre of the middle frame."""
    volume = np.zeros(size, dtype=np.float32)
    volume[tuple((n - 1) // 2 for n in size)] = 1
    return volume


def _random_voxel(size: tuple[int, int, int], seed: int) -> np.ndarray:
    volume = np.zeros(size, dtype=np.float32)
    volume.flat[np.random.default_rng(seed).integers(volume.size)] = 1
    return volume


def _seed_of(*parts: object) -> int:
    return zlib.crc32("/".join(map(str, parts)).encode())


def _group(index: pd.DataFrame, name: str) -> str:
    """Return what a clip was cut from: clips of one group are not independent."""
    if "participant" in index:
        return str(index.at[name, "participant"])
    if "group" in index:
        label, group = (str(index[column].loc[name]) for column in ("class", "group"))
        return f"{label}/{group}"
    return name


def _mean(rows: pd.DataFrame, metric: str, level: float, seed: int) -> dict[str, float]:
    values = rows[metric].to_numpy(dtype=np.float64)
    groups = rows["group"].to_numpy(dtype=str)
    count = len(np.unique(groups))
    if count < 2:  # one group says nothing about how groups differ
        interval = Interval(float(values.mean()), np.nan, np.nan)
    else:
        interval = bootstrap(values, groups, level=level, seed=seed)
    return {**interval._asdict(), "rows": len(values), "groups": count}


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the clips that go through any network inside: a list with one number."""
    passes, depth = [0], [0]

    def enter(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if depth[0] == 0:
            passes[0] += len(next(tensors_in(inputs), ()))
        depth[0] += 1

    def leave(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        depth[0] -= 1

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


class _Kept:
    """Rows that are kept in a Parquet file, if there is a path; saved on every way out."""

    def __init__(self, path: str | Path | None, provenance: dict[str, object]) -> None:
        self.path = None if path is None else Path(path)
        self.provenance = provenance
        self.table = pd.DataFrame()
        self.rows: list[dict[str, object]] = []
        if self.path is not None and self.path.is_file():
            self._resume(self.path)
        self.done = set(self.table["clip"]) if len(self.table) else set()
        self.saved = time.monotonic()

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._save()

    def __contains__(self, name: str) -> bool:
        return name in self.done

    def add(self, name: str, rows: list[dict[str, object]]) -> None:
        """Keep a clip's rows."""
        self.rows += rows
        self.done.add(name)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self._save()

    def scores(self, clips: pd.Index | None = None) -> Scores:
        """Return the rows of these clips; None: all, those of earlier runs too."""
        if self.rows:
            self.table = pd.concat([self.table, pd.DataFrame(self.rows)], ignore_index=True)
            self.rows = []
        table = self.table
        if clips is not None and len(table):
            table = table[table["clip"].isin(clips)].reset_index(drop=True)
        scores = Scores(table)
        scores.attrs.update(self.provenance)
        return scores

    def _resume(self, path: Path) -> None:
        earlier = read_scores(path)
        for key, value in self.provenance.items():
            if key != "date" and earlier.attrs.get(key) != value:
                raise ValueError(
                    f"{path} holds another run: its {key} is {earlier.attrs.get(key)!r}, and this "
                    f"one's {value!r}. Give another path, or remove the file"
                )
        self.table = pd.DataFrame(earlier)
        self.provenance["date"] = earlier.attrs["date"]

    def _save(self) -> None:
        table = self.scores()
        self.saved = time.monotonic()
        if self.path is not None and len(table):
            with whole_file(self.path) as part:
                table.to_parquet(part, index=False)


def _provenance(
    data: Dataset, model: VideoModel, methods: list[str], settings: dict[str, object]
) -> dict[str, object]:
    """Return what a table of scores depends on."""
    digest = hashlib.sha256()
    for name, tensor in model.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": data.title,
        "model": model.name,
        "weights": digest.hexdigest(),
        "input": repr(model.input),
        "methods": methods,
        **settings,
        "workbench": version("saliency-workbench"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pandas", "scikit-image")},
    }
