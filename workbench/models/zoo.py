"""The models that have a name: where each comes from, and how it takes clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from .checkpoints import load_strictly, read_checkpoint
from .input_spec import InputSpec
from .networks.mfnet import MFNet3d
from .networks.small_resnet import SmallResNet
from .networks.tsn import TSN
from .pretrained import TORCHVISION, Known, best_device, torchvision_model, tsn_model
from .video_model import VideoModel, wrap_model

__all__ = [
    "MFNET_INPUT",
    "SAMPLES_INPUT",
    "SAMPLES_MFNET",
    "list_models",
    "load_model",
    "mfnet3d",
    "sample_network",
]

WEIGHTS = Path(__file__).parent / "weights"

# The authors squash to 256×256, cut 224×224, take every second frame, and feed (x - mean) * 0.0167.
MFNET_MEAN = (124 / 255, 117 / 255, 104 / 255)
MFNET_STD = (1 / (0.0167 * 255),) * 3
MFNET_INPUT = InputSpec(
    frames=16, resize=(256, 256), crop=224, stride=2, mean=MFNET_MEAN, std=MFNET_STD
)
SAMPLES_INPUT = InputSpec(frames=16, resize=(112, 112), stride=None, mean=MFNET_MEAN, std=MFNET_STD)
SAMPLES_MFNET: dict[str, Any] = {
    "widths": (8, 24, 48, 96, 128), "units": (2, 2, 3, 2), "groups": 4, "last_stride": 1,
}  # fmt: skip


SAMPLES: dict[str, Callable[[int], nn.Module]] = {
    "mfnet": lambda classes: MFNet3d(classes, **SAMPLES_MFNET),
    "tsn": lambda classes: TSN(SmallResNet(classes)),
}
TSN_INPUT = "8×224×224, spread over the clip"


@dataclass(frozen=True)
class Entry:
    """A line of the table of models; its parameters are those with the classes that the weights have."""

    load: Callable[..., VideoModel]
    input: str
    parameters: int | None
    weights: str


def load_model(name: str, **options: Any) -> VideoModel:
    """Load a model by name; `list_models()` has them all.

    `samples/mfnet` and `samples/tsn` are shipped; `mfnet3d` takes a published checkpoint; `torchvision/r3d_18` and
    the like come with Kinetics-400 weights; `tsn/resnet50`, and any other picture network of torchvision, or of timm
    as `tsn/timm/<name>`, is a TSN on ImageNet weights or on a published EPIC-Kitchens checkpoint.

    Options depend on the model: see `mfnet3d` here and `torchvision_model`, `tsn_model` in `models.pretrained`.

    Raises:
        KeyError: no model of that name; the message lists the names there are.
    """
    if name in MODELS and "<" not in name:
        return MODELS[name].load(**options)
    kind, _, rest = name.partition("/")
    if rest and kind == "torchvision":
        return torchvision_model(rest, **options)
    if rest and kind == "tsn":
        return tsn_model(rest, **options)
    raise KeyError(
        f"no model {name!r}; there are {', '.join(MODELS)}. Your own network: wb.wrap_model"
    )


def list_models() -> pd.DataFrame:
    """Return a DataFrame of the models by name: input, parameters, where the weights come from. Nothing is loaded."""
    rows = [(name, entry.input, entry.parameters, entry.weights) for name, entry in MODELS.items()]
    found = pd.DataFrame(rows, columns=["name", "input", "parameters", "weights"]).set_index("name")
    return found.astype({"parameters": "Int64"})


def _torchvision_entry(name: str, known: Known) -> Entry:
    side = 112 if name.endswith("_18") else 224
    weights = "torchvision, Kinetics-400, downloaded on first use"
    spec = f"{known.frames}×{side}×{side}, stride {known.stride}"
    return Entry(partial(torchvision_model, name), spec, known.parameters, weights)


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
            raise ValueError(
                f"{checkpoint} has {count} classes, and {len(classes)} names were given"
            )
    return wrap_model(
        module.eval(), MFNET_INPUT, classes, device=device or best_device(), name="mfnet3d"
    )


def sample_network(name: str, device: torch.device | str | None = None) -> VideoModel:
    """Load a small network that is shipped, `mfnet` or `tsn`: eight motions of `wb.samples`, 16 frames of 112×112.

    Raises FileNotFoundError where it is not here, ValueError where the file's hash is not the recorded one.
    """
    file = WEIGHTS / f"{name}.safetensors"
    facts = json.loads(file.with_suffix(".json").read_text())
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != facts["sha256"]:
        raise ValueError(
            f"{file} has SHA-256 {found}, expected {facts['sha256']}: fetch the file again"
        )
    module = SAMPLES[name](len(facts["classes"]))
    load_strictly(module, read_checkpoint(file), str(file))
    return wrap_model(
        module.eval(),
        SAMPLES_INPUT,
        facts["classes"],
        device=device or best_device(),
        name=f"samples/{name}",
    )


MODELS = {
    "mfnet3d": Entry(mfnet3d, "16×224×224, stride 2", 7_996_368, "checkpoint="),
    "samples/mfnet": Entry(
        partial(sample_network, "mfnet"), "16×112×112, spread over the clip", 544_520, "shipped"
    ),
    "samples/tsn": Entry(
        partial(sample_network, "tsn"), "16×112×112, spread over the clip", 602_400, "shipped"
    ),
    **{
        f"torchvision/{name}": _torchvision_entry(name, known)
        for name, known in TORCHVISION.items()
    },
    "tsn/resnet50": Entry(
        partial(tsn_model, "resnet50"),
        TSN_INPUT,
        25_557_032,
        "torchvision, ImageNet; EPIC-Kitchens 55 and 100 by checkpoint=",
    ),
    "tsn/bninception": Entry(
        partial(tsn_model, "bninception"),
        f"{TSN_INPUT}, BGR",
        11_295_240,
        "ImageNet; EPIC-Kitchens 55 by checkpoint=",
    ),
    "tsn/<name>": Entry(tsn_model, "8 frames, spread over the clip", None, "torchvision, ImageNet"),
    "tsn/timm/<name>": Entry(
        tsn_model, "8 frames, spread over the clip", None, "timm, mostly ImageNet"
    ),
}
