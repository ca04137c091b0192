"""Models: networks, how they are fed, what they return, and where they come from.

`VideoModel` wraps a network without changing it; `VideoModel.run` is the only place that calls one.
`networks/` holds architectures written here, `zoo` the names that `load_model` knows. The search
for the layer to explain is in `saliency`.
"""

from __future__ import annotations

from . import zoo
from .input_spec import InputSpec
from .networks import mfnet
from .video_model import VideoModel
from .wrapping import wrap_model
from .zoo import list_models, load_model

__all__ = ["InputSpec", "VideoModel", "list_models", "load_model", "mfnet", "wrap_model", "zoo"]
