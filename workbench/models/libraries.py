"""Networks that other libraries build, by name: torchvision's for video and for pictures, timm's for pictures."""

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
    """A network, how its library feeds it, and the names of its classes where the library knows them.

    Attributes:
        module: (B, 3, H, W) or (N, 3, T, H, W) to logits.
        resize, crop: of the picture, as `InputSpec` takes them.
        mean, std: per channel, in the network's order of channels and in units of [0, 1].
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
    """Build a video network of torchvision: `r3d_18`, `mvit_v2_s`, `swin3d_t` and so on.

    Args:
        name: as torchvision calls it.
        weights: None for random ones, "DEFAULT" for torchvision's best, the name of others, or torchvision's enum.
        classes: number of classes of a random network; None: as many as the published weights have.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
        KeyError: no network, or no weights, of that name; the message lists what there is.
        FileNotFoundError: the weights are not here and cannot be downloaded.
        ValueError: the weights' file is broken or of another network.
    """
    return _of_torchvision(name, _torchvision().video, weights, classes)


def picture_network(name: str, weights: Any = None, classes: int | None = None) -> Network:
    """Build a picture network: one of torchvision's, `timm/<name>` of timm's, or `bninception`.

    Arguments and errors are those of `video_network`; timm says which weights in the name (`timm/resnet50.a1_in1k`).
    """
    if name.startswith("timm/"):
        return _of_timm(name.removeprefix("timm/"), weights, classes)
    if name == "bninception":
        return _bninception(weights, classes)
    return _of_torchvision(name, _torchvision(), weights, classes)


def fetch(url: str) -> Path:
    """Return the file of an address in torch's folder of checkpoints, downloaded where it is not there yet.

    What torch does itself, but a file that does not arrive whole is not left, and the error says what to do.
    Raises FileNotFoundError where it cannot be downloaded.
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


def _of_torchvision(name: str, group: Any, weights: Any, classes: int | None) -> Network:
    models = _torchvision()
    names = models.list_models(module=group)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=9, cutoff=0.5) or names
        raise KeyError(
            f"torchvision has no network {name!r} of this kind; there are {', '.join(near)}"
        )
    chosen = _weights(models.get_model_weights(name), weights)
    builder = models.get_model_builder(name)
    if chosen is None:
        chosen = models.get_model_weights(
            name
        ).DEFAULT  # no weights are taken from it, but what else it says
        module = builder(**({} if classes is None else {"num_classes": classes}))
    else:
        file = fetch(chosen.url)
        read_file(
            file
        )  # torchvision does not read with weights_only: let nothing but weights come so far
        try:
            module = builder(weights=chosen)
        except RuntimeError as error:
            raise ValueError(
                f"{file} is not what {chosen.url} holds; delete it, and it is fetched again"
            ) from error
    told, known = chosen.transforms(), list(chosen.meta["categories"])
    return Network(
        module.eval(),
        _size(told.resize_size),
        _size(told.crop_size),
        tuple(told.mean),
        tuple(told.std),
        classes=known if classes in (None, len(known)) else None,
    )


def _weights(enum: Any, weights: Any) -> Any:
    """Return the member of torchvision's enum that is meant, or None."""
    if weights is None or isinstance(weights, enum):
        return weights
    name = str(weights).rpartition(".")[2]
    if name not in enum.__members__:
        raise KeyError(
            f"no weights {weights!r}; there are {', '.join(enum.__members__)}, or None for random ones"
        )
    return enum[name]


def _size(size: list[int]) -> int | tuple[int, int]:
    """Return one number for the short side or a square as it is, and a pair (height, width)."""
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


def _of_timm(name: str, weights: Any, classes: int | None) -> Network:
    timm = _timm()
    if weights not in (None, "DEFAULT"):
        raise KeyError(
            f"no weights {weights!r}: timm has them in the name, as in timm/{name.split('.')[0]}.a1_in1k"
        )
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=9, cutoff=0.5)
        raise KeyError(
            f"timm has no network {name!r}; near: {', '.join(near) or 'none'}. timm.list_models() has all"
        )
    count = {} if classes is None else {"num_classes": classes}
    try:
        module = timm.create_model(name, pretrained=weights is not None, **count)
    except Exception as error:
        if weights is None:
            raise
        url = f"https://huggingface.co/{_hub(timm.get_pretrained_cfg(name))}"
        raise FileNotFoundError(_remedy(url, "Get model.safetensors from there", error)) from error
    told = timm.data.resolve_model_data_config(module)
    side = told["input_size"][-1]
    names = _imagenet(timm, module) if classes is None else None
    return Network(
        module.eval(),
        int(side / told["crop_pct"]),
        side,
        tuple(told["mean"]),
        tuple(told["std"]),
        classes=names,
    )


def _hub(told: Any) -> str:
    """Return where on the hub timm's weights are; timm writes `timm/` and means the network's name after it."""
    place = getattr(told, "hf_hub_id", None) or "timm/"
    return (
        f"{place}{told.architecture}.{told.tag}"
        if place.endswith("/") and told is not None
        else place
    )


def _imagenet(timm: Any, module: nn.Module) -> list[str] | None:
    subset = timm.data.infer_imagenet_subset(module)
    if not subset:
        return None
    told = timm.data.ImageNetInfo(subset)
    return [told.index_to_description(number) for number in range(told.num_classes())]


def _bninception(weights: Any, classes: int | None) -> Network:
    if weights not in (None, "DEFAULT"):
        raise KeyError(f"no weights {weights!r}; there are DEFAULT, or None for random ones")
    module = BNInception(1000 if classes is None else classes)
    if weights is not None:
        file = fetch(BNINCEPTION_WEIGHTS)
        load_strictly(module, read_checkpoint(file), str(file))
    mean = (104 / 255, 117 / 255, 128 / 255)
    return Network(module.eval(), 256, 224, mean, (1 / 255,) * 3, bgr=True)
