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

from .checkpoints import class_count, load_strictly, read_checkpoint
from .hub import hub_model
from .input_spec import InputSpec
from .networks.mfnet import MFNet3d
from .networks.small_resnet import SmallResNet
from .networks.tsn import TSN
from .pretrained import TORCHVISION, best_device, check_names, torchvision_model, tsn_model
from .video_model import VideoModel
from .wrapping import wrap_model

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

# The authors squash to 256×256, crop 224×224, take every second frame, and feed
# (x - (124, 117, 104)) * 0.0167 for x up to 255.
MFNET_MEAN = (124 / 255, 117 / 255, 104 / 255)
MFNET_STD = (1 / (0.0167 * 255),) * 3
MFNET_INPUT = InputSpec(
    frames=16, resize=(256, 256), crop=224, stride=2, mean=MFNET_MEAN, std=MFNET_STD
)
SAMPLES_INPUT = InputSpec(frames=16, resize=(112, 112), stride=None, mean=MFNET_MEAN, std=MFNET_STD)
SAMPLES_MFNET: dict[str, Any] = {
    "widths": (8, 24, 48, 96, 128),
    "units": (2, 2, 3, 2),
    "groups": 4,
    "last_stride": 1,
}
SAMPLES: dict[str, Callable[[int], nn.Module]] = {
    "mfnet": lambda classes: MFNet3d(classes, **SAMPLES_MFNET),
    "mfnet-iid": lambda classes: MFNet3d(classes, **SAMPLES_MFNET),
    "tsn": lambda classes: TSN(SmallResNet(classes)),
}


@dataclass(frozen=True)
class Entry:
    """A row of `list_models`. Parameters are counted with the published number of classes."""

    load: Callable[..., VideoModel]
    input: str
    parameters: int | None
    weights: str


def load_model(name: str, **options: Any) -> VideoModel:
    """Load a model by name; `list_models()` lists the names.

    - `samples/mfnet`, `samples/tsn`, and `samples/mfnet-iid`, an MFNet trained as the TSN was, are
      shipped.
    - `mfnet3d` takes a published checkpoint.
    - `torchvision/r3d_18` and its siblings come with Kinetics-400 weights.
    - `tsn/resnet50`, or any other picture network of torchvision or (as `tsn/timm/<name>`) of timm,
      is a TSN with ImageNet weights or a published EPIC-Kitchens checkpoint.
    - `hf/<id or folder>` is a video or image classifier of Hugging Face's `transformers`.

    The options depend on the model: see `mfnet3d` here, and `torchvision_model` and `tsn_model` in
    `models.pretrained`, and `models.hub.hub_model`.

    Raises:
        KeyError: unknown name; the message lists the known ones.
    """
    if name in MODELS and "<" not in name:
        return MODELS[name].load(**options)
    kind, _, rest = name.partition("/")
    if rest and kind == "torchvision":
        return torchvision_model(rest, **options)
    if rest and kind == "tsn":
        return tsn_model(rest, **options)
    if rest and kind == "hf":
        return hub_model(rest, **options)
    raise KeyError(
        f"no model {name!r}; there are {', '.join(MODELS)}. Your own network: wb.wrap_model"
    )


def list_models() -> pd.DataFrame:
    """Return a DataFrame of models by name: input, parameters, source of the weights.

    No model is loaded.
    """
    rows = [(name, entry.input, entry.parameters, entry.weights) for name, entry in MODELS.items()]
    table = pd.DataFrame(rows, columns=["name", "input", "parameters", "weights"])
    return table.set_index("name").astype({"parameters": "Int64"})


def mfnet3d(
    checkpoint: str | Path | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str | None = None,
) -> VideoModel:
    """Load MFNet-3D (Chen et al., ECCV 2018) from a published checkpoint.

    Args:
        checkpoint: a file `{'epoch', 'state_dict', 'optimizer'}` as published, or a bare state
            dict, by `torch.save` or safetensors. None: random weights, with 400 classes or as many
            as there are names.
        classes: names; their number must be the checkpoint's.
        device: where to put the network; None: a GPU if there is one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, one of another network (missing and extra names are listed),
            weights that are not finite, or another number of classes.
    """
    if checkpoint is None:
        module = MFNet3d(400 if classes is None else len(classes))
    else:
        source = str(checkpoint)
        state = read_checkpoint(checkpoint)
        module = MFNet3d(class_count(state, "classifier.weight", source) or 1)
        load_strictly(module, state, source)
        check_names(classes, module.classifier.out_features, source)
    return wrap_model(
        module.eval(), MFNET_INPUT, classes, device=device or best_device(), name="mfnet3d"
    )


def sample_network(name: str, device: torch.device | str | None = None) -> VideoModel:
    """Load a shipped network, `mfnet`, `mfnet-iid` or `tsn`, trained on the eight sample motions.

    It takes 16 frames of 112×112 pixels. Raises FileNotFoundError if its file is missing, and
    ValueError if the file's hash is not the recorded one.
    """
    file = WEIGHTS / f"{name}.safetensors"
    facts = json.loads(file.with_suffix(".json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != facts["sha256"]:
        raise ValueError(
            f"{file} has SHA-256 {digest}, expected {facts['sha256']}: fetch the file again"
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


def _torchvision_entries() -> dict[str, Entry]:
    entries = {}
    for name, known in TORCHVISION.items():
        side = 112 if name.endswith("_18") else 224
        entries[f"torchvision/{name}"] = Entry(
            load=partial(torchvision_model, name),
            input=f"{known.frames}×{side}×{side}, stride {known.stride}",
            parameters=known.parameters,
            weights="torchvision, Kinetics-400, downloaded on first use",
        )
    return entries


MODELS = {
    "mfnet3d": Entry(mfnet3d, "16×224×224, stride 2", 7_996_368, "checkpoint="),
    "samples/mfnet": Entry(
        partial(sample_network, "mfnet"), "16×112×112, spread over the clip", 544_520, "shipped"
    ),
    "samples/mfnet-iid": Entry(
        partial(sample_network, "mfnet-iid"), "16×112×112, spread over the clip", 544_520, "shipped"
    ),
    "samples/tsn": Entry(
        partial(sample_network, "tsn"), "16×112×112, spread over the clip", 602_400, "shipped"
    ),
    **_torchvision_entries(),
    "tsn/resnet50": Entry(
        partial(tsn_model, "resnet50"),
        "8×224×224, spread over the clip",
        25_557_032,
        "torchvision, ImageNet; EPIC-Kitchens 55 and 100 by checkpoint=",
    ),
    "tsn/bninception": Entry(
        partial(tsn_model, "bninception"),
        "8×224×224, spread over the clip, BGR",
        11_295_240,
        "ImageNet; EPIC-Kitchens 55 by checkpoint=",
    ),
    "tsn/<name>": Entry(tsn_model, "8 frames, spread over the clip", None, "torchvision, ImageNet"),
    "tsn/timm/<name>": Entry(
        tsn_model, "8 frames, spread over the clip", None, "timm, mostly ImageNet"
    ),
    "hf/<id or folder>": Entry(
        hub_model, "by its configuration", None, "Hugging Face hub, or a folder on disk"
    ),
}
