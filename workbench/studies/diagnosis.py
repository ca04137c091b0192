"""Diagnosis: which layer and which kind of weights explain a network best, on one's own clip."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..clips.clip import Clip
from ..metrics.perturbation import deletion, insertion, random_order, replacement
from ..models.video_model import VideoModel
from ..saliency.explaining import explain
from ..saliency.explanation import Explanation
from ..saliency.layer_search import layers_with_place

__all__ = ["diagnose"]

KINDS = (None, "gradient", "layer", "relevance")
DEFAULT_GAIN = 0.02  # by which another method has to beat the default to be recommended


def diagnose(
    model: VideoModel,
    clip: Clip,
    target: int | str | None = None,
    *,
    layers: int = 3,
    steps: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare layers and kinds of weights by a short deletion test on one clip.

    Deletion replaces the voxels that a tube marks, insertion shows nothing else, and the network
    is asked again (`wb.deletion`, `wb.insertion`). What a tube is worth is the difference of the
    two areas, less that of a random order. One clip is one clip: repeat it on several.

    Args:
        model: from `wb.load_model` or `wb.wrap_model`.
        clip: a clip that the network answers.
        target: class name or id; None: the predicted class.
        layers: how many earlier layers with a proved place to try besides the default.
        steps: of deletion and insertion; each costs about as many forward passes.
        seed: of ties and of the random order.
        progress: whether to show a bar.

    Returns:
        A DataFrame, the best method first: `layer`, `weights`, `exact`, `place`, `deletion`,
        `insertion`, `gain` over a random order, and `recommended`, which is true for one row: the
        default unless another one gains clearly more.
    """
    default = explain(model, clip)
    number = default.class_id(target)
    names = [None, *layers_with_place(model, model.prepare(clip)[1], layers)]
    tried = [(layer, kind) for layer in names for kind in KINDS if layer is None or kind]
    # The class may be named by its number only in what the network gives, so ask by number.
    score = model.score(number)
    seen = default.clip
    blurred = replacement(seen)
    chance_volume = random_order((len(seen), *seen.size), seed=seed)
    rows: list[dict[str, object]] = []
    with torch.no_grad(), tqdm(total=len(tried) + 1, desc="diagnosis", disable=not progress) as bar:

        def areas(volume: object) -> tuple[float, float]:
            bar.update()
            options = {"steps": steps, "baseline": blurred, "seed": seed}
            removed = deletion(score, seen, volume, **options)  # type: ignore[arg-type]
            shown = insertion(score, seen, volume, **options)  # type: ignore[arg-type]
            return removed.auc, shown.auc

        chance_deletion, chance_insertion = areas(chance_volume)
        chance = chance_insertion - chance_deletion
        for layer, kind in tried:
            ex = _explained(model, clip, layer, kind)
            if ex is None:
                bar.update()
                continue
            removed, shown = areas(ex.tube(number))
            rows.append(
                {
                    "layer": ex.layer,
                    "weights": kind or "default",
                    "exact": ex.exact,
                    "place": ex.place,
                    "deletion": removed,
                    "insertion": shown,
                    "gain": shown - removed - chance,
                }
            )
    table = pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)
    table["recommended"] = table.index == _recommended(table)
    return table


def _explained(
    model: VideoModel, clip: Clip, layer: str | None, kind: str | None
) -> Explanation | None:
    """Return an explanation by a layer and a kind of weights; None if they do not go together."""
    chosen = model if layer is None else replace(model, layer=layer, head=None)
    try:
        return explain(chosen, clip, weights=kind)
    except (ValueError, NotImplementedError):
        return None


def _recommended(table: pd.DataFrame) -> int:
    default = int(table.index[table["weights"] == "default"][0])
    better = float(table["gain"].iloc[0]) > float(table["gain"].iloc[default]) + DEFAULT_GAIN
    return 0 if better else default
