"""The study of transformers: which layer and which method point at a place that is known.

Small networks of eleven families (`training.small_transformers`) on gratings of unseen seeds, half
of them pairs of two classes at two places and times. `recorded_transformers` reads the shipped
result; `python -m workbench study-transformers` measures it again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from tqdm.auto import tqdm

from ..clips.clip import Action, Clip
from ..clips.files import whole_file
from ..datasets.gratings import FPS, GRATINGS, grating_clips
from ..datasets.samples import FOLDER
from ..datasets.table import Dataset
from ..metrics.arrays import inside
from ..metrics.baseline_volumes import centre_gaussian, frame_difference
from ..metrics.confidence import bootstrap
from ..metrics.localisation import energy_inside, pointing_game, share_inside
from ..models.networks.small_video import PATCH
from ..models.video_model import VideoModel
from ..saliency.attribution import attribute
from ..saliency.class_weights import KINDS
from ..saliency.explaining import explain_batch
from ..saliency.explanation import Explanation
from ..saliency.layer_search import layers_with_place
from ..training.small_transformers import file_name, small_transformer, trained_families
from .randomisation import randomised

__all__ = [
    "measure_family",
    "measure_transformers",
    "pointing_table",
    "recorded_transformers",
    "small_transformer",
    "study_clips",
    "trained_families",
]

SEED = 7  # no other study draws clips of this seed
CLIPS = 100
COSTLY_CLIPS = 40  # of the methods that go through the network many times
COSTLY = {"integrated-gradients": 8, "smoothgrad": 8, "occlusion": None}  # with their passes
BATCH = 20  # clips
BY_ATTENTION = ("rollout", "legrad")  # for networks whose attention they can follow
CONTROLLED = ("default", "relevance")  # also asked for a class that the clip does not show
LAYERS = 3  # earlier layers, as `wb.diagnose` chooses them
HALF_PATCH = PATCH / 2  # pixels by which a box may be missed
HALF_TUBELET = 1 / FPS  # seconds by which an interval may be missed
EXTREME = 0.05  # so near to 0 or 1, a bootstrap's interval is too narrow
RECORD = FOLDER.parent / "study" / "transformers.parquet"

Volume = Callable[[str], np.ndarray]  # from a class name to (T, H, W)


def study_clips(count: int = CLIPS) -> Dataset:
    """Return the study's clips as a `Dataset`: half show one grating, half two."""
    return grating_clips(count, SEED)


def recorded_transformers() -> pd.DataFrame:
    """Return the shipped rows of `measure_transformers`.

    Raises:
        FileNotFoundError: outside a checkout.
    """
    return pd.read_parquet(RECORD)


def measure_transformers(
    folder: str | Path,
    families: Sequence[str] = (),
    clips: int = CLIPS,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure families (all that are trained), and write `transformers.parquet` into `folder`.

    A family whose file is there is not measured again. Takes about fifteen minutes on one
    core.
    """
    folder = Path(folder)
    tables = []
    for family in families or trained_families():
        file = folder / f"{file_name(family)}.parquet"
        if not file.is_file():
            _write(measure_family(family, clips, progress=progress), file)
        tables.append(pd.read_parquet(file))
    every = pd.concat(tables, ignore_index=True)
    _write(every, folder / RECORD.name)
    return every


def measure_family(
    family: str,
    clips: int = CLIPS,
    *,
    costly_clips: int = COSTLY_CLIPS,
    model: VideoModel | None = None,
    layers: int = LAYERS,
    progress: bool = True,
) -> pd.DataFrame:
    """Hold every method against the known place, for the small network of a family.

    Args:
        family: of `models.networks.small_video.SMALL_VIDEO`.
        clips: how many of `study_clips`.
        costly_clips: on how many of them the methods of many passes are measured.
        model: another network of the family; None: the shipped one.
        layers: how many earlier layers.
        progress: whether to show a bar.

    Returns:
        A DataFrame, a row a clip, actor and method: `family`, `clip`, `actor`, `class`, `pair`,
        `named` (whether the network names the class: first, or among the first two of a pair),
        `method`, `layer` and `how` (empty for methods without), `exact`, `place`, `points`,
        `points near` (half a patch and half a tubelet of tolerance), `energy inside` and
        `box share`.
    """
    model = small_transformer(family) if model is None else model
    data = study_clips(clips)
    seen = [model.input.view(clip) for clip in data]
    methods = _Methods(model, seen[0], layers)
    rows: list[dict[str, object]] = []
    for first in tqdm(range(0, clips, BATCH), desc=family, disable=not progress):
        part = seen[first : first + BATCH]
        default = explain_batch(model, part)
        known = [_Known(family, ex, clip) for ex, clip in zip(default, part)]
        for method, explanations in methods.explanations(part, default):
            for about, ex, clip in zip(known, explanations, part):
                rows += about.rows(method, _tubes(ex), ex)
                if method in CONTROLLED:
                    rows += about.rows(f"{method}, absent class", _absent(ex, clip), ex)
        for number, (about, clip) in enumerate(zip(known, part)):
            for method, volume in methods.others(clip, costly=first + number < costly_clips):
                rows += about.rows(method, volume)
    return pd.DataFrame(rows)


def pointing_table(rows: pd.DataFrame, metric: str = "points near") -> pd.DataFrame:
    """Return the mean of a metric by family and method, with 95 % intervals over clips.

    Clips are drawn whole (bootstrap). A share within 0.05 of 0 or 1 has Wilson's interval for as
    many clips, because a bootstrap of nothing but hits has no width.

    Returns:
        A DataFrame indexed by `family` and `method`, with `layer`, `how`, `mean`, `low`, `high`
        and `clips`.
    """
    found = []
    for (family, method), part in rows.groupby(["family", "method"], sort=False):
        values = part[metric].to_numpy(dtype=np.float64)
        clips = part["clip"].to_numpy(dtype=str)
        count = len(np.unique(clips))
        mean, low, high = bootstrap(values, clips) if count > 1 else (values.mean(), np.nan, np.nan)
        if not EXTREME < mean < 1 - EXTREME:
            test = binomtest(round(mean * count), count)
            low, high = test.proportion_ci(method="wilson")
        first = part.iloc[0]
        found.append(
            {
                "family": family,
                "method": method,
                "layer": first["layer"],
                "how": first["how"],
                "mean": mean,
                "low": low,
                "high": high,
                "clips": count,
            }
        )
    return pd.DataFrame(found).set_index(["family", "method"])


class _Known:
    """A clip with what is known of it, and the rows of methods on it."""

    def __init__(self, family: str, default: Explanation, clip: Clip) -> None:
        answers = default.logits.topk(len(clip.actions)).indices.tolist()
        labels = {action.label for action in clip.actions}
        self.about = {
            "family": family,
            "clip": clip.name,
            "pair": len(clip.actions) == 2,
            "named": {GRATINGS[answer] for answer in answers} == labels,
        }
        self.clip = clip
        self.regions = [_regions(clip, action) for action in clip.actions]

    def rows(
        self, method: str, volume: Volume, ex: Explanation | None = None
    ) -> Iterator[dict[str, object]]:
        """Yield a row for each action; `ex` says how the method came to its volumes."""
        place = np.nan if ex is None or ex.place is None else ex.place
        for actor, (action, regions) in enumerate(zip(self.clip.actions, self.regions)):
            region, near = regions
            values = volume(action.label)
            yield {
                **self.about,
                "actor": actor,
                "class": action.label,
                "method": method,
                "layer": "" if ex is None else ex.layer,
                "how": "" if ex is None else ex.how.split(",")[0],
                "exact": ex is not None and ex.exact,
                "place": place,
                "points": pointing_game(values, region),
                "points near": pointing_game(values, near),
                "energy inside": energy_inside(values, region),
                "box share": share_inside(region, values.shape),
            }


def _regions(clip: Clip, action: Action) -> tuple[np.ndarray, np.ndarray]:
    """Return where an action is, (T, H, W) bool, and the same with half a cell around it."""
    assert action.boxes is not None
    box = np.nanmax(action.boxes, axis=0)  # it stands still
    around = box + np.array([-HALF_PATCH, -HALF_PATCH, HALF_PATCH, HALF_PATCH])
    wide = (action.start - HALF_TUBELET, action.stop + HALF_TUBELET)
    return _region(clip, box, (action.start, action.stop)), _region(clip, around, wide)


def _region(clip: Clip, box: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    """Return (T, H, W) bool: a box in the frames of an interval."""
    boxes = np.where(clip.during(interval)[:, None], box, np.nan)
    return inside(boxes[:, None], (len(clip), *clip.size))


class _Methods:
    """What is compared for one network. Its earlier layers are chosen on one clip."""

    def __init__(self, model: VideoModel, clip: Clip, layers: int) -> None:
        self.model = model
        self.shuffled = randomised(model)
        names = layers_with_place(model, model.prepare(clip)[1], layers) if layers else []
        # One model a layer, because a model remembers what the search has proved.
        self.refused: dict[str, str] = {}  # method, and why
        self.models: dict[str | None, VideoModel] = {None: model}
        for name in names:
            self.models[name] = replace(model, layer=name, head=None)
        self.by_attention = [name for name in BY_ATTENTION if self._works(clip, name)]

    def _works(self, clip: Clip, method: str) -> bool:
        try:
            self._attributed(clip, method, None, GRATINGS[0])
        except (ValueError, RuntimeError, NotImplementedError) as error:
            self.refused[method] = str(error)
            return False
        return True

    def explanations(
        self, clips: list[Clip], default: list[Explanation]
    ) -> Iterator[tuple[str, list[Explanation]]]:
        """Yield the methods that work on maps, with an explanation of each clip."""
        yield "default", default
        yield "random weights", explain_batch(self.shuffled, clips)
        for layer, model in self.models.items():
            for kind in KINDS:
                try:
                    explanations = explain_batch(model, clips, kind)
                    explanations[0].tube(0)
                except (ValueError, RuntimeError, NotImplementedError) as error:
                    # This kind does not go together with this layer.
                    self.refused[f"{kind} at {layer}"] = str(error)
                    continue
                yield kind if layer is None else f"{kind} at {layer}", explanations

    def others(self, clip: Clip, *, costly: bool) -> Iterator[tuple[str, Volume]]:
        """Yield the methods without maps, and the baselines."""
        if costly:
            for method, passes in COSTLY.items():
                yield method, partial(self._attributed, clip, method, passes)
        for method in self.by_attention:
            yield method, partial(self._attributed, clip, method, None)
        for name, volume in _baselines(clip).items():
            yield name, _always(volume)

    def _attributed(self, clip: Clip, method: str, passes: int | None, label: str) -> np.ndarray:
        return attribute(self.model, clip, label, method, passes=passes).volume


def _tubes(ex: Explanation) -> Volume:
    return lambda label: ex.tube(label).volume


def _always(volume: np.ndarray) -> Volume:
    return lambda _: volume


def _absent(ex: Explanation, clip: Clip) -> Volume:
    """Return the tube of a class that the clip does not show, whatever class is asked for."""
    shown = {action.label for action in clip.actions}
    absent = [name for name in GRATINGS if name not in shown]
    return _always(ex.tube(absent[_seed(clip) % len(absent)]).volume)


def _baselines(clip: Clip) -> dict[str, np.ndarray]:
    size = (len(clip), *clip.size)
    middle, anywhere = np.zeros(size, np.float32), np.zeros(size, np.float32)
    middle[tuple((length - 1) // 2 for length in size)] = 1
    anywhere.flat[np.random.default_rng(_seed(clip)).integers(anywhere.size)] = 1
    return {
        "centre of the middle frame": middle,
        "centre Gaussian": centre_gaussian(size),
        "frame difference": frame_difference(clip),
        "random voxel": anywhere,
    }


def _seed(clip: Clip) -> int:
    return zlib.crc32(str(clip.name).encode())


def _write(table: pd.DataFrame, file: Path) -> None:
    with whole_file(file) as temporary:
        table.to_parquet(temporary, index=False)
