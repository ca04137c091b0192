"""Layouts of published TSN checkpoints: how a file's names become those of `TSN`, and how its network is fed.

Sources, read in November 2026: github.com/epic-kitchens/epic-kitchens-55-action-models (tsn.py, README.md),
github.com/epic-kitchens/C1-Action-Recognition-TSN-TRN-TSM (src/systems.py, configs/tsn_rgb.yaml).

- EPIC-Kitchens-55: a dict with `model_type` ("tsn"), `arch` ("resnet50", "BNInception"), `modality`,
  `segment_count`, `consensus_type`, `args` (an `argparse.Namespace`) and `state_dict`: `base_model.*`, `fc_verb.*`
  (125 classes), `fc_noun.*` (352). ResNet-50 takes pictures as ImageNet's do, BN-Inception in BGR up to 255.
- EPIC-Kitchens-100: a Lightning checkpoint with `hyper_parameters` (plain dicts in the published files) and
  `state_dict`: `model.base_model.*`, and one `model.new_fc.*` whose 397 rows are 97 verbs, then 300 nouns. Its
  pictures are divided by ImageNet's *mean*, not its deviation: so says the configuration that they were trained with.
- TSN's own (github.com/yjxiong/tsn-pytorch): `base_model.*` and `new_fc.*` of one task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .checkpoints import read_file, state_in

__all__ = ["TSNCheckpoint", "read_tsn_checkpoint"]

TASKS = {"verb": 97, "noun": 300}  # of EPIC-Kitchens-100, in the order of its one head
IMAGENET_MEAN = (0.485, 0.456, 0.406)


@dataclass(frozen=True)
class TSNCheckpoint:
    """What a checkpoint holds.

    Attributes:
        state: weights by the names of `TSN`: `backbone.*`, `fc_<head>.*`; a single head that was none of the
            backbone's layers is `classifier.*`.
        heads: number of classes by head; None for a single one.
        input: what is told of the pictures, as `InputSpec` takes it.
        backbone: name of the picture network, where it is told.
    """

    state: dict[str, torch.Tensor]
    heads: dict[str, int] | None = None
    input: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None


def read_tsn_checkpoint(path: str | Path) -> TSNCheckpoint:
    """Read a checkpoint of a TSN as published, as this package saves it, or of a picture network alone.

    Raises FileNotFoundError, or ValueError where it cannot be read, or is of another kind of network or of flow.
    """
    content = read_file(path)
    state = state_in(content, path)
    told = _settings(content, path)
    if all(name.startswith("model.") for name in state):  # what Lightning puts before the names
        state = {name.removeprefix("model."): value for name, value in state.items()}
    if not any(name.startswith(("base_model.", "backbone.")) for name in state):
        state = {f"backbone.{name}": value for name, value in state.items()}
    if any(
        name.startswith("base_model.") for name in state
    ):  # all that were published cut 224 out of 256 pixels
        told["input"] = {"resize": 256, "crop": 224, **told["input"]}
    state = {_renamed(name): value for name, value in state.items()}
    joint = state.get("new_fc.weight")
    if joint is not None and len(joint) == sum(TASKS.values()):
        state.update(
            _split(state.pop("new_fc.weight"), "weight"), **_split(state.pop("new_fc.bias"), "bias")
        )
        told["input"] = {"mean": IMAGENET_MEAN, "std": IMAGENET_MEAN, **told["input"]}
    elif joint is not None:
        names = [name for name in state if name.startswith("new_fc.")]
        state.update({name.replace("new_fc", "classifier"): state.pop(name) for name in names})
    heads = {name[3:-7]: len(value) for name, value in state.items() if _is_head(name)}
    return TSNCheckpoint(state, heads or None, **told)


def _renamed(name: str) -> str:
    return (
        f"backbone.{name.removeprefix('base_model.')}" if name.startswith("base_model.") else name
    )


def _is_head(name: str) -> bool:
    return name.startswith("fc_") and name.endswith(".weight")


def _split(joint: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    parts = joint.split(list(TASKS.values()))
    return {f"fc_{task}.{kind}": part.clone() for task, part in zip(TASKS, parts)}


def _settings(content: Any, path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says of backbone and input; raises ValueError where it is not of an RGB TSN."""
    content = content if isinstance(content, Mapping) else {}
    known = content.get("hyper_parameters")
    if isinstance(known, Mapping) and isinstance(known.get("model"), Mapping):  # EPIC-Kitchens-100
        model, data = known["model"], known.get("data") or {}
        kind, backbone, modality = model.get("type"), model.get("backbone"), known.get("modality")
        consensus, spec = "avg", _preprocessing(data)
    else:
        kind, backbone, modality, consensus = (
            content.get(key) for key in ("model_type", "arch", "modality", "consensus_type")
        )
        spec = (
            {"frames": content["segment_count"]}
            if isinstance(content.get("segment_count"), int)
            else {}
        )
    for what, value, right in (
        ("network", kind, "tsn"),
        ("modality", modality, "rgb"),
        ("consensus", consensus, "avg"),
    ):
        if value is not None and str(value).lower() != right:
            raise ValueError(
                f"{path} is of {what} {value!r}, and only {right!r} is read here: give the network itself"
            )
    return {"backbone": None if backbone is None else str(backbone).lower(), "input": spec}


def _preprocessing(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an EPIC-Kitchens-100 checkpoint says that its pictures were prepared, as `InputSpec` takes it."""
    told: Mapping[str, Any] = data.get("preprocessing") or {}
    spec: dict[str, Any] = {}
    scale = 1.0 if told.get("rescale", True) else 1 / 255
    for key in ("mean", "std"):
        if key in told:
            spec[key] = tuple(float(value) * scale for value in told[key])
    spec["bgr"] = bool(told.get("bgr", False))
    spec["crop"] = int(told.get("input_size", 224))
    spec["resize"] = int(
        (data.get("test_augmentation") or {}).get("rescale_size", told.get("scale_size", 256))
    )
    spec["frames"] = int(data.get("frame_count", 8))
    return spec
