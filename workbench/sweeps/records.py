"""Records: what is kept of an explanation, and the explanation that comes back from it.

What holds for every clip is kept once in the store: names, layers, proofs (`Output`) and linear
heads (`NormedHead`). A clip has its arrays, in the keys of `clip_arrays`, and its row of the index.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from ..clips.clip import Clip
from ..models.video_model import VideoModel
from ..saliency.class_weights import (
    GradientWeights,
    HeadWeights,
    StoredWeights,
    in_words,
)
from ..saliency.explaining import chosen_head
from ..saliency.explanation import Explanation
from ..saliency.layer_search import choose_layers
from ..saliency.linear_heads import Head, NormedHead
from ..saliency.tubes import activation_map
from .index_files import TOP
from .patterns import centre_share, focused_share

__all__ = [
    "Heads",
    "Output",
    "Row",
    "StoreSettings",
    "clip_arrays",
    "clip_row",
    "head_weights",
    "heads_from_file",
    "heads_to_file",
    "network_heads",
    "outputs_of",
    "pathways",
    "rebuilt",
]

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class StoreSettings:
    """What of an explanation is kept.

    Attributes:
        weights: as `explain` takes them.
        full: whether maps are kept in full precision.
        top: of how many classes the weights are kept, for a clip that has its own.
    """

    weights: str | None
    full: bool
    top: int


@dataclass(frozen=True)
class Output:
    """What holds of an output of the network for every clip; see `Explanation`.

    Attributes:
        name, layer, classes, exact, place, independent: as the explanation's.
        kind: of the weights from gradients that are taken if they are not exact.
        norm: dotted name of a LayerNorm between pooling and head; None if there is none.
        mixed: attention has mixed the voxels of the maps before.
        bypassed: part of the logit goes around the layer, see `GradientWeights`.
    """

    name: str
    layer: str
    classes: list[str]
    exact: bool
    kind: str
    norm: str | None
    mixed: bool
    place: float | None
    independent: bool
    bypassed: bool = False  # as in stores of older versions

    def how(self, residual: float) -> str:
        """Return in words where the weights of a clip with this residual come from."""
        return in_words(
            self.kind, residual, norm=self.norm, mixed=self.mixed, bypassed=self.bypassed
        )


Heads: TypeAlias = dict[str, NormedHead]  # by the name of the output


def outputs_of(ex: Explanation, weights: str | None) -> list[Output]:
    """Return what a store says once of each output."""
    return [
        Output(
            name=one.output,
            layer=one.layer,
            classes=one.classes,
            exact=one.exact,
            kind=weights or _kind(one.weighting),
            norm=one.weighting.norm if isinstance(one.weighting, HeadWeights) else None,
            mixed=isinstance(one.weighting, HeadWeights | GradientWeights) and one.weighting.mixed,
            place=one.place,
            independent=one.independent,
            bypassed=isinstance(one.weighting, GradientWeights) and one.weighting.bypassed,
        )
        for one in _by_output(ex).values()
    ]


def _kind(weighting: HeadWeights | GradientWeights | StoredWeights) -> str:
    return weighting.kind if isinstance(weighting, GradientWeights) else "gradient"


def network_heads(model: VideoModel, ex: Explanation, x: torch.Tensor) -> Heads:
    """Return the heads that were proved when `ex` was made of the input x."""
    choices = choose_layers(model, x)
    return {
        name: chosen_head(model, choices[name], len(one.logits))
        for name, one in _by_output(ex).items()
        if isinstance(one.weighting, HeadWeights)
    }


def heads_to_file(heads: Heads) -> bytes:
    """Return a NumPy archive: `<output>/weight`, `<output>/bias`, and `<output>/norm_…` if any."""
    arrays: dict[str, torch.Tensor] = {}
    for name, stored in heads.items():
        arrays |= {f"{name}/weight": stored.head.weight, f"{name}/bias": stored.head.bias}
        if stored.norm is not None:
            arrays[f"{name}/norm_eps"] = torch.tensor(stored.norm.eps, dtype=torch.float64)
            own = stored.norm.named_parameters()
            arrays |= {f"{name}/norm_{key}": value.detach().float() for key, value in own}
    file = io.BytesIO()
    written: dict[str, Any] = {key: value.cpu().numpy() for key, value in arrays.items()}
    np.savez(file, **written)
    return file.getvalue()


def heads_from_file(content: bytes) -> Heads:
    """Read what `heads_to_file` wrote; raises ValueError if it is damaged."""
    try:
        with np.load(io.BytesIO(content)) as archive:
            arrays = {key: _tensor(archive[key]) for key in archive.files}
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"no readable NumPy archive ({error})") from error
    heads = {}
    for name in {key.rsplit("/", 1)[0] for key in arrays}:
        head = Head(arrays[f"{name}/weight"], arrays[f"{name}/bias"])
        norm = None
        if f"{name}/norm_eps" in arrays:
            parameters = {
                key: arrays[f"{name}/norm_{key}"]
                for key in ("weight", "bias")
                if f"{name}/norm_{key}" in arrays
            }
            norm = nn.LayerNorm(
                head.weight.shape[1],
                eps=float(arrays[f"{name}/norm_eps"]),
                elementwise_affine=bool(parameters),
                bias="bias" in parameters,
            ).requires_grad_(False)
            norm.load_state_dict(parameters)
        heads[name] = NormedHead(head, norm)
    return heads


def clip_arrays(
    ex: Explanation, settings: StoreSettings, heads: frozenset[str]
) -> dict[str, np.ndarray]:
    """Return what is kept of a clip; `heads` are the outputs whose heads the store has.

    Keys: `times`, `indices`, `fps` of the clip, and for each output `logits`, `residual` and those
    below. Before the keys of outputs beside the main one stands their number, as in "1.logits".

    - `maps_<pathway>` (C, T', H', W'), unless they are those of the main output;
    - `means` (C,) of the maps, if a LayerNorm stands before the store's head;
    - otherwise, without such a head, the clip's own weights of its top classes: `class_ids` (K,),
      `class_weights_<pathway>` (K, C, …) and `bias` (N,).
    """
    clip = ex.clip
    arrays = {"times": clip.times, "indices": clip.indices, "fps": np.array(clip.fps)}
    for number, (name, one) in enumerate(_by_output(ex).items()):
        own = {"logits": one.logits.float(), "residual": torch.tensor(one.residual).double()}
        if name == ex.output or not _same(one.maps, ex.maps):
            own |= {
                f"maps_{pathway}": maps.float() if settings.full else _halved(maps)
                for pathway, maps in enumerate(one.maps)
            }
        weighting = one.weighting
        if not isinstance(weighting, HeadWeights) or name not in heads:
            own |= _top_weights(one, settings)
        elif weighting.norm is not None:
            own["means"] = torch.cat([maps.mean((1, 2, 3)) for maps in one.maps])
        before = "" if name == ex.output else f"{number}."
        arrays |= {before + key: value.cpu().numpy() for key, value in own.items()}
    return arrays


def _top_weights(ex: Explanation, settings: StoreSettings) -> dict[str, torch.Tensor]:
    """Return the weights of the top classes, the clip's own label among them."""
    ids = ex.logits.argsort(descending=True)[: settings.top].tolist()
    label = ex.clip.label
    # The right class is worth having when the prediction is wrong.
    if label in ex.classes and ex.classes.index(label) not in ids:
        ids[-1] = ex.classes.index(label)
    arrays = {"class_ids": torch.tensor(ids), "bias": ex.bias.float()}
    rows = [ex.weighting.of(number) for number in ids]
    for pathway in range(len(ex.maps)):
        weights = torch.stack([row[pathway] for row in rows]).detach()
        voxelwise = weights.ndim > 2 and not settings.full
        arrays[f"class_weights_{pathway}"] = _halved(weights) if voxelwise else weights.float()
    return arrays


def clip_row(ex: Explanation) -> Row:
    """Return the row of the index of an explained clip."""
    low = _low_map(ex)
    order = ex.logits.argsort(descending=True)[:TOP].tolist()
    probabilities = ex.probabilities.cpu()
    row: Row = {"status": "ok", "prediction": ex.classes[order[0]]}
    row["probability"] = float(probabilities[order[0]])
    for place, number in enumerate(order[1:], start=2):
        row[f"class_{place}"] = ex.classes[number]
        row[f"probability_{place}"] = float(probabilities[number])
    others = [one for name, one in _by_output(ex).items() if name != ex.output]
    return row | {
        "other_predictions": [one.classes[one.class_id()] for one in others],
        "other_probabilities": [float(one.probabilities.max()) for one in others],
        "start": float(ex.clip.times[0]),
        "stop": float(ex.clip.times[-1]),
        "residual": ex.residual,
        "centre": centre_share(low),
        "focus": focused_share(low),
        "grid": list(low.shape),
        "map": low.astype(np.float16).ravel(),
    }


def rebuilt(
    arrays: Mapping[str, np.ndarray],
    outputs: Mapping[str, Output],
    heads: Heads,
    *,
    main: str,
    clip: Clip,
    model: str,
) -> Explanation:
    """Return the explanation of the main output that `clip_arrays` kept, shown on a clip."""
    siblings = {}
    for number, output in enumerate(outputs.values()):
        before = "" if output.name == main else f"{number}."
        own = {
            key.removeprefix(before): array
            for key, array in arrays.items()
            if key.startswith(before)
        }
        maps = pathways(own, "maps") or pathways(arrays, "maps")
        siblings[output.name] = Explanation(
            logits=_tensor(own["logits"]),
            maps=maps,
            weighting=_weighting(own, output, heads, tuple(map(len, maps))),
            layer=output.layer,
            clip=clip,
            classes=output.classes,
            model=model,
            output=output.name,
            place=output.place,
            independent=output.independent,
        )
    return replace(siblings[main], _siblings=siblings if len(siblings) > 1 else {})


def _weighting(
    arrays: Mapping[str, np.ndarray], output: Output, heads: Heads, widths: tuple[int, ...]
) -> HeadWeights | StoredWeights:
    residual = float(arrays["residual"])
    if "class_ids" not in arrays:
        means = _tensor(arrays["means"]) if "means" in arrays else None
        return head_weights(heads[output.name], means, widths, residual, output)
    by_pathway = pathways(arrays, "class_weights")
    rows = {
        class_id: tuple(weights[place] for weights in by_pathway)
        for place, class_id in enumerate(arrays["class_ids"].tolist())
    }
    # The residual is that of this clip, whatever the first one's weights were.
    return StoredWeights(rows, _tensor(arrays["bias"]), output.how(residual), residual)


def head_weights(
    stored: NormedHead,
    means: torch.Tensor | None,
    widths: tuple[int, ...],
    residual: float,
    output: Output,
) -> HeadWeights:
    """Return the weights for a clip whose maps have these means (C,), which a norm needs."""
    head = stored.head if means is None else stored.held(means)
    return HeadWeights(head.weight, head.bias, residual, widths, output.norm, output.mixed)


def pathways(arrays: Mapping[str, np.ndarray], what: str) -> tuple[torch.Tensor, ...]:
    """Return `what_0`, `what_1`, … in full precision."""
    count = sum(key.startswith(f"{what}_") for key in arrays)
    # NumPy converts in this thread; PyTorch would wait for others to share the little work.
    values = (arrays[f"{what}_{number}"].astype(np.float32) for number in range(count))
    return tuple(map(torch.from_numpy, values))


def _by_output(ex: Explanation) -> dict[str, Explanation]:
    """Return the explanation of each output by its name, in the network's order."""
    return {name: ex.select(name) for name in ex.outputs}


def _halved(values: torch.Tensor) -> torch.Tensor:
    """Return values in half precision; as they are if they are too large or too small for it."""
    half = values.half()
    worst = (half.float() - values).abs().max()
    return half if worst <= 1e-3 * values.abs().max() else values.float()


def _same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values))


def _low_map(ex: Explanation) -> np.ndarray:
    """Return the predicted class's map (T', H', W') before upsampling, on the finest grid."""
    grid = ex.activations.shape[1:]
    total = torch.zeros(grid)
    for maps, weights in zip(ex.maps, ex.weighting.of(ex.class_id())):
        low, _ = activation_map(maps, weights)
        total += torch.nn.functional.interpolate(low[None, None].float().cpu(), list(grid))[0, 0]
    return total.numpy()
