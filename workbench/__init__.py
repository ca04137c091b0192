"""The Saliency Tubes workbench: where and when in a video does a network find the evidence for a class?

    clip = wb.read_clip("video.mp4", frames=16)
    ex = wb.explain(wb.load_model("samples/mfnet"), clip)
    wb.explore(ex)

Conventions, which hold in every module:

- Axes are named: frames (T, H, W, 3) uint8 RGB; network input (N, C, T, H, W) float32; activation maps
  (C, T', H', W'); class weights (N, C) for N classes; tubes (T, H, W) float32.
- Time is in seconds from the start of the file, by presentation timestamps; intervals are half-open.
  Frame indices and class ids are 0-based, a class id being the position in `classes`.
- Boxes are (x0, y0, x1, y1) in pixels of the clip that they belong to, half-open, NaN where there is none.
- Scaling to [0, 1] is over the whole volume, never per frame: brightness over time is the finding.
- Signed values are kept; nothing clips negative ones unless asked.
- τ (`tau`) is in the units of the class weights, as in Eq. 1 of the paper; None keeps all features.
- Inputs are never changed; a network's training flags, hooks and gradients are as before on every way out.
- Mistakes raise ValueError, KeyError, FileNotFoundError or `wb.ClipError` (a video that cannot be read) and
  say what was expected, what came, and what to do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "browser": ("Browser", "browse"),
    "clips": ("Action", "Clip", "ClipError", "read_clip"),
    "datasets": ("Dataset", "epic_kitchens", "find_data", "ucf101"),
    "evaluation": ("evaluate", "predictions"),
    "explanations": ("Explanation", "explain"),
    "explorer": ("Explorer", "explore"),
    "metrics": (
        "deletion",
        "energy_inside",
        "insertion",
        "pointing_game",
        "rank_correlation",
        "structural_similarity",
        "temporal_auc",
        "temporal_iou",
        "temporal_variation",
    ),
    "models": ("InputSpec", "VideoModel", "list_models", "load_model", "wrap_model"),
    "models.tsn": ("TSN",),
    "overlays": ("draw_boxes", "filmstrip", "focus", "heat", "save_picture", "save_video"),
    "sanity": ("cascading_randomisation",),
    "tubes": ("Tube", "tau_for_share"),
    "tuning": ("Training", "fine_tune"),
    "videos": ("video_info",),
    "volumes": ("save_html", "timeline_figure", "volume_figure"),
}
_MODULES = ("charts", "evaluation", "figures", "metrics", "models", "samples", "study", "training")
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, *_MODULES])


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use: `import workbench` alone loads no torch."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if TYPE_CHECKING:  # the same, for type checkers and editors
    from . import charts as charts
    from . import evaluation as evaluation
    from . import figures as figures
    from . import metrics as metrics
    from . import models as models
    from . import samples as samples
    from . import study as study
    from . import training as training
    from .browser import Browser, browse
    from .clips import Action, Clip, ClipError, read_clip
    from .datasets import Dataset, epic_kitchens, find_data, ucf101
    from .evaluation import evaluate, predictions
    from .explanations import Explanation, explain
    from .explorer import Explorer, explore
    from .metrics import (
        deletion,
        energy_inside,
        insertion,
        pointing_game,
        rank_correlation,
        structural_similarity,
        temporal_auc,
        temporal_iou,
        temporal_variation,
    )
    from .models import InputSpec, VideoModel, list_models, load_model, wrap_model
    from .models.tsn import TSN
    from .overlays import draw_boxes, filmstrip, focus, heat, save_picture, save_video
    from .sanity import cascading_randomisation
    from .tubes import Tube, tau_for_share
    from .tuning import Training, fine_tune
    from .videos import video_info
    from .volumes import save_html, timeline_figure, volume_figure
