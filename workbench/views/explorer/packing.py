"""What of an explanation goes to the browser: maps, weights, splines, frames and annotations.

Maps travel in half precision, scaled by their largest value. Weights stay in single precision,
because τ is compared with them: a rounded weight would fall on the other side of its own τ.
"""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image

from ...clips.clip import Clip
from ...saliency.explanation import Explanation
from ...saliency.tubes import spline_matrix

__all__ = ["COLORMAPS", "color_tables", "payload", "row", "top_classes"]

#: The paper's, perceptually uniform ones, and one that diverges, for differences.
COLORMAPS = ("jet", "inferno", "magma", "viridis", "cividis", "coolwarm")

TOP = 10  # classes whose weights are sent at once if each takes a backward pass


def payload(explanation: Explanation) -> dict[str, Any]:
    """Return what the browser needs, as JSON with bytes in it; `tube_view.js` names the fields.

    Raises:
        ValueError: the predicted class has weights that are NaN or infinite.
    """
    ex, clip = explanation, explanation.clip
    order = ex.logits.argsort(descending=True).tolist()
    predicted = ex.class_id()
    weights = ex.weights if ex.exact else None
    if weights is not None:
        _check_finite(ex.channel_weights(predicted), ex.classes[predicted])
    return {
        "model": ex.model or "network",
        "verdict": f"{ex.classes[predicted]} {ex.probabilities[predicted]:.1%}",
        "how": f"layer {ex.layer}, {ex.how}",
        "clip": clip.name or "a clip",
        "label": clip.label,
        "classes": list(ex.classes),
        "truth": ex.classes.index(clip.label) if clip.label in ex.classes else None,
        "probabilities": ex.probabilities.tolist(),
        "order": order,
        "size": [len(clip), *clip.size],
        "times": clip.times.tolist(),
        "actions": [
            {"label": action.label, "start": action.start, "stop": action.stop}
            for action in clip.actions
        ],
        "boxes": _boxes(clip),
        "answers": _answers(ex),
        "frames": [_jpeg(frame) for frame in clip.frames],
        "parts": [_part(maps, clip) for maps in ex.maps],
        "weights": None if weights is None else _bytes(weights, np.float32),
        "rows": {} if weights is not None else {str(n): row(ex, n) for n in top_classes(ex)},
    }


def top_classes(explanation: Explanation) -> list[int]:
    """Return the most probable classes, whose gradients are computed at once.

    Classes with invalid gradients are left out, except the first: choosing one shows the error.
    """
    first, *others = explanation.logits.argsort(descending=True)[:TOP].tolist()
    valid = (n for n in others if explanation.channel_weights(n).isfinite().all())
    return [first, *valid]


def row(explanation: Explanation, target: int) -> dict[str, Any]:
    """Return the weights of one class: one a feature, and those of single voxels if it has them.

    Raises:
        ValueError: a weight is NaN or infinite.
    """
    weights = explanation.class_weights(target)
    _check_finite(weights, explanation.classes[target])
    if weights.ndim == 1:
        return {"weights": _bytes(weights, np.float32)}
    scale = float(weights.abs().max()) or 1.0
    own = explanation.weighting.of(explanation.class_id(target))  # each pathway on its own grid
    means = [each.flatten(1).mean(1) for each in own]  # what `activation_map` compares τ with
    elements = [_bytes(each / scale, np.float16) for each in own]
    return {
        "weights": _bytes(torch.cat(means), np.float32),
        "scale": scale,
        "elements": elements,
    }


def color_tables() -> dict[str, bytes]:
    """Return 256 RGB colours of each colormap as bytes."""
    places = np.arange(256)
    return {
        name: (matplotlib.colormaps[name](places)[:, :3] * 255).round().astype(np.uint8).tobytes()
        for name in COLORMAPS
    }


def _part(maps: torch.Tensor, clip: Clip) -> dict[str, Any]:
    scale = float(maps.abs().max()) or 1.0
    grid, size = maps.shape[1:], (len(clip), *clip.size)
    return {
        "grid": list(grid),
        "channels": len(maps),
        "scale": scale,
        "maps": _bytes(maps / scale, np.float16),
        "splines": [spline_matrix(n, m).tobytes() for n, m in zip(grid, size)],
    }


def _answers(explanation: Explanation) -> dict[str, Any] | None:
    """Return the probabilities (K, N) of a network that answers over time, and their times."""
    probabilities, times = explanation.answer_probabilities, explanation.answer_times
    if probabilities is None or times is None:
        return None
    return {"times": times.tolist(), "values": _bytes(probabilities, np.float32)}


def _boxes(clip: Clip) -> list[list[list[float] | None]] | None:
    if clip.shown_boxes is None:
        return None
    return [
        [box.tolist() if np.isfinite(box).all() else None for box in frame]
        for frame in clip.shown_boxes
    ]


def _jpeg(frame: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _bytes(values: torch.Tensor, kind: Any) -> bytes:
    return values.detach().cpu().float().numpy().astype(kind).tobytes()


def _check_finite(weights: torch.Tensor, name: str) -> None:
    if not weights.isfinite().all():
        raise ValueError(f"the class weights of {name!r} hold NaN or infinite values")
