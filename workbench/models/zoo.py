"""The models that have a name: where each comes from, and how it takes clips."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import nn

from . import InputSpec, VideoModel, wrap_model
from .mfnet import MFNet3d

__all__ = ["MFNET_INPUT", "SAMPLES_INPUT", "SAMPLES_MFNET", "load", "mfnet3d", "samples_mfnet", "table"]

WEIGHTS = Path(__file__).parent / "weights"

# The authors squash to 256×256, cut 224×224, take every second frame, and feed (x - mean) * 0.0167.
MFNET_MEAN = (124 / 255, 117 / 255, 104 / 255)
MFNET_STD = (1 / (0.0167 * 255),) * 3
MFNET_INPUT = InputSpec(frames=16, resize=(256, 256), crop=224, stride=2, mean=MFNET_MEAN, std=MFNET_STD)
SAMPLES_INPUT = InputSpec(frames=16, resize=(112, 112), stride=None, mean=MFNET_MEAN, std=MFNET_STD)
SAMPLES_MFNET: dict[str, Any] = {
    "widths": (8, 24, 48, 96, 128), "units": (2, 2, 3, 2), "groups": 4, "last_stride": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A line of the table of models."""

    load: Callable[..., VideoModel]
    input: str
    parameters: str
    weights: str


def load(name: str, **options: Any) -> VideoModel:
    """Load the model `name`; KeyError lists the names there are."""
    if name not in MODELS:
        raise KeyError(f"no model {name!r}; there are {', '.join(MODELS)}. Your own network: wb.wrap_model")
    return MODELS[name].load(**options)


def table() -> pd.DataFrame:
    """Return a DataFrame of the models: name, input, parameters, where the weights come from."""
    rows = [
        {"name": name, "input": e.input, "parameters": e.parameters, "weights": e.weights} for name, e in MODELS.items()
    ]
    return pd.DataFrame(rows).set_index("name")


def mfnet3d(
    checkpoint: str | Path | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str | None = None,
) -> VideoModel:
    """Load MFNet-3D (Chen et al., ECCV 2018) from a published checkpoint.

    Args:
        checkpoint: a file `{'epoch', 'state_dict', 'optimizer'}` as published, or a bare state dict, by
            `torch.save` or safetensors; `module.` before the names is fine. None: random weights, 400 classes
            or as many as are named.
        classes: names; their number must be the checkpoint's.
        device: where to put the network; None: a GPU if there is one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, one of another network (missing and extra names are listed), weights
            that are not finite, or another number of classes.
    """
    if checkpoint is None:
        module = MFNet3d(400 if classes is None else len(classes))
    else:
        state = read_checkpoint(checkpoint)
        head = state.get("classifier.weight")
        module = MFNet3d(1 if head is None or head.ndim != 2 else len(head))
        load_strictly(module, state, str(checkpoint))
        count = module.classifier.out_features
        if classes is not None and len(classes) != count:
            raise ValueError(f"{checkpoint} has {count} classes, and {len(classes)} names were given")
    return wrap_model(module.eval(), MFNET_INPUT, classes, device=device or _best_device(), name="mfnet3d")


def samples_mfnet(device: torch.device | str | None = None) -> VideoModel:
    """Load the small MFNet-3D that is shipped: eight motions of `wb.samples`, 16 frames of 112×112.

    Raises ValueError where the file's hash is not the recorded one.
    """
    file = WEIGHTS / "mfnet.safetensors"
    facts = json.loads((WEIGHTS / "mfnet.json").read_text())
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != facts["sha256"]:
        raise ValueError(f"{file} has SHA-256 {found}, expected {facts['sha256']}: fetch the file again")
    module = MFNet3d(len(facts["classes"]), **SAMPLES_MFNET)
    load_strictly(module, read_checkpoint(file), str(file))
    return wrap_model(
        module.eval(), SAMPLES_INPUT, facts["classes"], device=device or _best_device(), name="samples/mfnet"
    )


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a file by `torch.save` or safetensors, without running any code in it.

    Training checkpoints with a `state_dict` (or `model`) inside and `module.` prefixes are unpacked. Raises
    FileNotFoundError, or ValueError with the path where the file is not such a one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is not a checkpoint that can be read safely: {error}"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict: expected names and tensors, or a dict with 'state_dict'")
    state = dict(content)
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def load_strictly(module: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dict that has exactly the module's names and shapes and only finite numbers.

    Raises ValueError that lists what is missing, what is extra, and what has another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{source} is no checkpoint of {type(module).__name__}: "
            f"{_some('missing', missing)}; {_some('extra', extra)}; {_some('other shape', shapes)}"
        )
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"{source} holds NaN or infinite weights: {_some('in', bad)}")
    module.load_state_dict(state, strict=True)


def _some(what: str, names: list[str], most: int = 6) -> str:
    more = f", … ({len(names) - most} more)" if len(names) > most else ""
    return f"{len(names)} {what}" + (f": {', '.join(names[:most])}{more}" if names else "")


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


MODELS = {
    "mfnet3d": Entry(mfnet3d, "16×224×224, stride 2", "8.0 M (400 classes)", "checkpoint="),
    "samples/mfnet": Entry(samples_mfnet, "16×112×112, spread over the clip", "0.54 M (8 classes)", "shipped"),
}
