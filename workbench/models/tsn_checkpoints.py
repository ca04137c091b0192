"""Published TSN checkpoints: how their names become those of `TSN`, and how the network is fed.

Sources, read in November 2026: github.com/epic-kitchens/epic-kitchens-55-action-models (tsn.py,
README.md), github.com/epic-kitchens/C1-Action-Recognition-TSN-TRN-TSM (src/systems.py,
configs/tsn_rgb.yaml).

- EPIC-Kitchens-55: a dict with `model_type` ("tsn"), `arch` ("resnet50", "BNInception"),
  `modality`, `segment_count`, `consensus_type`, `args` (an `argparse.Namespace`) and `state_dict`:
  `base_model.*`, `fc_verb.*` (125 classes), `fc_noun.*` (352). ResNet-50 takes pictures normalised
  as for ImageNet, BN-Inception takes BGR up to 255.
- EPIC-Kitchens-100: a Lightning checkpoint with `hyper_parameters` (plain dicts in the published
  files) and `state_dict`: `model.base_model.*`, and one `model.new_fc.*` whose 397 rows are 97
  verbs, then 300 nouns. Pictures are divided by ImageNet's *mean*, not by its standard deviation,
  according to the configuration the networks were trained with.
- TSN's own (github.com/yjxiong/tsn-pytorch): `base_model.*` and `new_fc.*` for one task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .checkpoints import class_count, read_file, state_in
from .input_spec import InputSpec

__all__ = ["TSNCheckpoint", "read_tsn_checkpoint", "renamed"]

TASKS = {"verb": 97, "noun": 300}  # EPIC-Kitchens-100, in the order of its joint head
IMAGENET_MEAN = (0.485, 0.456, 0.406)


@dataclass(frozen=True)
class TSNCheckpoint:
    """What a checkpoint holds.

    Attributes:
        state: weights by the names of `TSN`: `backbone.*`, `fc_<head>.*`. A single head outside
            the backbone is `classifier.*`.
        heads: number of classes by head; None for a single head.
        input: what the checkpoint says about its pictures, as arguments of `InputSpec`.
        backbone: name of the picture network, if the checkpoint gives it.
    """

    state: dict[str, torch.Tensor]
    heads: dict[str, int] | None = None
    input: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None


def read_tsn_checkpoint(path: str | Path) -> TSNCheckpoint:
    """Read a TSN checkpoint as published or as saved here, or one of a picture network alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable checkpoint, one of another kind of network or of optical flow,
            or malformed; the message has the path.
    """
    content = read_file(path)
    state = state_in(content, path)
    try:
        return _checkpoint(content, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checkpoint(content: Any, state: dict[str, torch.Tensor]) -> TSNCheckpoint:
    backbone, spec = _settings(content if isinstance(content, Mapping) else {})
    state = _in_our_names(state)

    # The published networks cut 224 out of 256 pixels.
    if "base_model" in {name.partition(".")[0] for name in state}:
        spec = {"resize": 256, "crop": 224, **spec}
        state = renamed(state, "base_model.", "backbone.")

    # One head may hold the tasks of EPIC-Kitchens-100 side by side.
    rows = class_count(state, "new_fc.weight", "the checkpoint")
    if rows == sum(TASKS.values()):
        state = _split(state)
        spec = {"mean": IMAGENET_MEAN, "std": IMAGENET_MEAN, **spec}
    elif rows is not None:
        state = renamed(state, "new_fc.", "classifier.")

    InputSpec(**spec)  # raises ValueError if no clip can be prepared like that
    return TSNCheckpoint(state, _heads(state) or None, spec, backbone)


def renamed(state: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    """Return a state dict with another prefix for the names that begin with `old`."""
    return {
        new + name.removeprefix(old) if name.startswith(old) else name: value
        for name, value in state.items()
    }


def _in_our_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove Lightning's prefix, and put a picture network's own weights into a backbone."""
    if all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): value for name, value in state.items()}
    if any(name.startswith(("base_model.", "backbone.")) for name in state):
        return state
    return {f"backbone.{name}": value for name, value in state.items()}


def _heads(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """Return the number of classes of each layer `fc_<head>`."""
    heads = {}
    for name in state:
        layer, _, kind = name.rpartition(".")
        if layer.startswith("fc_") and kind == "weight":
            head = layer.removeprefix("fc_")
            count = class_count(state, name, "the checkpoint")
            if not head.isidentifier() or count is None:
                raise ValueError(f"expected heads named fc_verb or fc_noun, got {layer!r:.60}")
            heads[head] = count
    return heads


def _split(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split the joint head `new_fc` into one head for each task."""
    others = {name: value for name, value in state.items() if not name.startswith("new_fc.")}
    for kind in ("weight", "bias"):
        joint = state.get(f"new_fc.{kind}")
        if joint is None or joint.shape[:1] != (sum(TASKS.values()),):
            raise ValueError(f"expected new_fc.{kind} with {sum(TASKS.values())} rows")
        for task, part in zip(TASKS, joint.split(list(TASKS.values()))):
            others[f"fc_{task}.{kind}"] = part.clone()
    return others


def _settings(content: Mapping[Any, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the backbone's name and the input that a checkpoint of an RGB TSN gives."""
    hyper = _section(content, "hyper_parameters")
    if isinstance(hyper.get("model"), Mapping):  # EPIC-Kitchens-100
        model = hyper["model"]
        facts = {"network": model.get("type"), "modality": hyper.get("modality")}
        backbone = model.get("backbone")
        spec = _preprocessing(_section(hyper, "data"))
    else:
        facts = {
            "network": content.get("model_type"),
            "modality": content.get("modality"),
            "consensus": content.get("consensus_type"),
        }
        backbone = content.get("arch")
        spec = {}
        if content.get("segment_count") is not None:
            spec["frames"] = _whole(content, "segment_count", 8)
    readable = {"network": "tsn", "modality": "rgb", "consensus": "avg"}
    for what, value in facts.items():
        if value is not None and str(value).lower() != readable[what]:
            raise ValueError(
                f"it has {what} {value!r:.60}, and only {readable[what]!r} can be read: "
                "build the network yourself and give it to wb.wrap_model"
            )
    if backbone is not None and not isinstance(backbone, str):
        raise ValueError(f"expected the backbone's name as a text, got {backbone!r:.60}")
    return None if backbone is None else backbone.lower(), spec


def _preprocessing(data: Mapping[Any, Any]) -> dict[str, Any]:
    """Return how EPIC-Kitchens-100 pictures were prepared, as arguments of `InputSpec`."""
    pictures = _section(data, "preprocessing")
    augmentation = _section(data, "test_augmentation")
    scale = 1.0 if pictures.get("rescale", True) else 1 / 255
    spec: dict[str, Any] = {
        "bgr": bool(pictures.get("bgr", False)),
        "crop": _whole(pictures, "input_size", 224),
        "resize": _whole(augmentation, "rescale_size", _whole(pictures, "scale_size", 256)),
        "frames": _whole(data, "frame_count", 8),
    }
    for key in ("mean", "std"):
        if key in pictures:
            spec[key] = tuple(value * scale for value in _three(pictures, key))
    return spec


def _section(content: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    """Return a dict inside a dict, empty if there is none."""
    section = content.get(key)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ValueError(f"expected {key} to be a dict, got {type(section).__name__}")
    return section


def _whole(content: Mapping[Any, Any], key: str, default: int) -> int:
    value = content.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10_000:
        raise ValueError(f"expected {key} from 1 to 10,000, got {value!r:.60}")
    return value


def _three(content: Mapping[Any, Any], key: str) -> list[float]:
    values = content[key]
    three = isinstance(values, (list, tuple)) and len(values) == 3
    if not three or not all(type(v) in (int, float) and abs(v) < 1e6 for v in values):
        raise ValueError(f"expected {key} to be three numbers, got {values!r:.60}")
    return list(values)
