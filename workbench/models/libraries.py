"""Networks built by other libraries: torchvision's for video and pictures, timm's for pictures."""

from __future__ import annotations

import difflib
import http.client
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoints import load_strictly, read_checkpoint, read_file
from .networks.bninception import BNInception

__all__ = ["Network", "fetch", "picture_network", "video_network"]

BNINCEPTION_WEIGHTS = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-239d2248.pth"


@dataclass(frozen=True)
class Network:
    """A network, how its library feeds it, and the names of its classes if the library has them.

    Attributes:
        module: (B, 3, H, W) or (N, 3, T, H, W) to logits.
        resize, crop: picture sizes, as in `InputSpec`.
        mean, std: per channel, in the network's channel order and in units of [0, 1].
        bgr: the network takes blue, green, red.
        classes: names, or None.
    """

    module: nn.Module
    resize: int | tuple[int, int]
    crop: int | tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False
    classes: list[str] | None = None


def video_network(name: str, weights: Any = None, classes: int | None = None) -> Network:
    """Build a torchvision video network: `r3d_18`, `mvit_v2_s`, `swin3d_t` and others.

    Args:
        name: torchvision's name.
        weights: None for random weights, "DEFAULT" for torchvision's best, the name of others, or
            a member of torchvision's enum.
        classes: number of classes of a random network; None: as many as the published weights.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
        KeyError: unknown network or weights; the message lists the known ones.
        FileNotFoundError: the weights cannot be downloaded.
        ValueError: the file of weights is damaged or belongs to another network.
    """
    return _from_torchvision(name, _torchvision().video, weights=weights, classes=classes)


def picture_network(name: str, weights: Any = None, classes: int | None = None) -> Network:
    """Build a picture network: torchvision's, `timm/<name>`, or `bninception`.

    Arguments and errors are those of `video_network`. timm has the weights in the name
    (`timm/resnet50.a1_in1k`).
    """
    if name.startswith("timm/"):
        return _from_timm(name.removeprefix("timm/"), weights, classes)
    if name == "bninception":
        return _bninception(weights, classes)
    return _from_torchvision(name, _torchvision(), weights=weights, classes=classes)


def fetch(url: str) -> Path:
    """Return the file behind an address, downloaded to torch's checkpoint folder if needed.

    This is what torch does itself, except that an incomplete file is not left behind, and that the
    error says what to do. Raises FileNotFoundError if the file cannot be downloaded.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if file.is_file():
        return file
    digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), digest and digest[1], progress=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise FileNotFoundError(_remedy(url, f"Put the file at {file}", error)) from error
    return file


def _remedy(url: str, place: str, error: Exception) -> str:
    return (
        f"the weights could not be downloaded from {url} ({error}). {place}, "
        "or give checkpoint= with its path; weights=None gives random weights"
    )


def _torchvision() -> Any:
    try:
        import torchvision.models
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] != "torchvision":
            raise
        raise ModuleNotFoundError(
            'this network comes from torchvision: pip install "saliency-workbench[zoo]"',
            name=error.name,
        ) from error
    return torchvision.models


def _from_torchvision(name: str, group: Any, *, weights: Any, classes: int | None) -> Network:
    models = _torchvision()
    names = models.list_models(module=group)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=9, cutoff=0.5) or names
        raise KeyError(
            f"torchvision has no network {name!r} of this kind; there are {', '.join(near)}"
        )
    published = models.get_model_weights(name)
    chosen = _member(published, weights)
    build = models.get_model_builder(name)
    if chosen is None:
        module = build() if classes is None else build(num_classes=classes)
    else:
        # torchvision would run code in a damaged file: read it safely first.
        file = fetch(chosen.url)
        read_file(file)
        try:
            module = build(weights=chosen)
        except RuntimeError as error:
            raise ValueError(
                f"{file} is not what {chosen.url} holds; delete it, and it is fetched again"
            ) from error
    # Random weights are fed and named like the best published ones.
    facts = chosen or published.DEFAULT
    preset = facts.transforms()
    names = list(facts.meta["categories"])
    return Network(
        module.eval(),
        resize=_size(preset.resize_size),
        crop=_size(preset.crop_size),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        classes=names if classes in (None, len(names)) else None,
    )


def _member(published: Any, weights: Any) -> Any:
    """Return the member of torchvision's enum that is meant, or None."""
    if weights is None or isinstance(weights, published):
        return weights
    name = str(weights).rpartition(".")[2]
    if name not in published.__members__:
        raise KeyError(
            f"no weights {weights!r}; there are {', '.join(published.__members__)}, "
            "or None for random weights"
        )
    return published[name]


def _size(size: list[int]) -> int | tuple[int, int]:
    """Return a number for the short side or a square, or a pair (height, width)."""
    return size[0] if len(size) == 1 else (size[0], size[1])


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ModuleNotFoundError(
            "this network comes from timm: pip install timm", name=error.name
        ) from error
    return timm


def _from_timm(name: str, weights: Any, classes: int | None) -> Network:
    timm = _timm()
    if weights not in (None, "DEFAULT"):
        raise KeyError(
            f"no weights {weights!r}: timm has them in the name, "
            f"as in timm/{name.split('.')[0]}.a1_in1k"
        )
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=9, cutoff=0.5)
        raise KeyError(
            f"timm has no network {name!r}; near: {', '.join(near) or 'none'}. "
            "timm.list_models() lists them all"
        )
    count = {} if classes is None else {"num_classes": classes}
    try:
        module = timm.create_model(name, pretrained=weights is not None, **count)
    except Exception as error:
        if weights is None:
            raise
        url = f"https://huggingface.co/{_hub_id(timm.get_pretrained_cfg(name))}"
        raise FileNotFoundError(_remedy(url, "Get model.safetensors from there", error)) from error
    config = timm.data.resolve_model_data_config(module)
    side = config["input_size"][-1]
    return Network(
        module.eval(),
        resize=int(side / config["crop_pct"]),
        crop=side,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        classes=_imagenet_names(timm, module) if classes is None else None,
    )


def _hub_id(config: Any) -> str:
    """Return the Hugging Face id of timm's weights; `timm/` stands for `timm/<name>.<tag>`."""
    place = getattr(config, "hf_hub_id", None) or "timm/"
    if config is None or not place.endswith("/"):
        return place
    return f"{place}{config.architecture}.{config.tag}"


def _imagenet_names(timm: Any, module: nn.Module) -> list[str] | None:
    subset = timm.data.infer_imagenet_subset(module)
    if not subset:
        return None
    info = timm.data.ImageNetInfo(subset)
    return [info.index_to_description(number) for number in range(info.num_classes())]


def _bninception(weights: Any, classes: int | None) -> Network:
    if weights not in (None, "DEFAULT"):
        raise KeyError(f"no weights {weights!r}; there are DEFAULT, or None for random weights")
    module = BNInception(1000 if classes is None else classes)
    if weights is not None:
        file = fetch(BNINCEPTION_WEIGHTS)
        load_strictly(module, read_checkpoint(file), str(file))
    return Network(
        module.eval(),
        resize=256,
        crop=224,
        mean=(104 / 255, 117 / 255, 128 / 255),
        std=(1 / 255,) * 3,
        bgr=True,
    )
