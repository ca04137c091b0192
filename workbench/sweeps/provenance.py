"""Provenance: what made a store, and the hash of all that determines its numbers."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import torch

from ..models.video_model import VideoModel
from ..saliency.explanation import Explanation
from .records import StoreSettings, outputs_of
from .store import FORMAT

__all__ = ["describe", "determining", "network_hash"]

PACKAGES = ("saliency-workbench", "torch", "numpy", "scipy", "zarr", "pyarrow", "av", "decord")


def determining(model: VideoModel, settings: StoreSettings) -> dict[str, Any]:
    """Return everything that determines a store's numbers; equal facts, equal numbers."""
    classes = model.classes
    if classes == list(map(str, range(len(classes or [])))):
        classes = None  # numbers are what classes without names get
    facts = {
        "network": network_hash(model.network),
        "input": asdict(model.input),
        "classes": classes,
        "layer": model.layer,
        "head": model.head,
        "output": model.output,
        "autocast": str(model.precision),
        "weights": settings.weights,
        "precision": "full" if settings.full else "half",
        "top": settings.top,
    }
    return json.loads(json.dumps(facts))  # tuples become lists, as they will in the file


def network_hash(network: torch.nn.Module) -> str:
    """Return the SHA-256 of a network's layers and weights."""
    digest = hashlib.sha256(str(network).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(
            f"{name} {getattr(value, 'dtype', '')} {getattr(value, 'shape', value)}".encode()
        )
        if isinstance(value, torch.Tensor):
            digest.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return digest.hexdigest()


def describe(
    model: VideoModel, ex: Explanation, *, settings: StoreSettings, data: str
) -> dict[str, Any]:
    """Return what `store.json` says; `ex` is the explanation of any clip of the data set."""
    determines = determining(model, settings)
    identity = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()
    return {
        "format": FORMAT,
        "identity": identity,
        "model": model.name,
        "output": ex.output,
        "outputs": [asdict(output) for output in outputs_of(ex, settings.weights)],
        "data": data,
        "determines": determines,
        # Which format was faster is measured, and changes the last bits.
        "channels_last": [[*key, faster] for key, faster in model._faster_last.items()],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # decord has no wheels for some platforms
            continue
    return versions
