"""Video networks of the Hugging Face hub, or of a folder written by `save_pretrained`.

No code of a model's repository is run unless asked for. What the processor does to a picture is
measured, not read from its configuration: ViViT's stated mean and deviation of 0.5 really map
pictures to -3 … 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .input_spec import InputSpec
from .networks.tsn import TSN
from .pretrained import best_device
from .signatures import FRAMES
from .video_model import VideoModel
from .wrapping import wrap_model

__all__ = ["hub_model"]

VIDEOS = "AutoModelForVideoClassification"
PICTURES = "AutoModelForImageClassification"
TEXTS = "XCLIPModel"
GREY = 0.5  # level at which the measured mapping is checked to be linear


def hub_model(
    name: str,
    *,
    revision: str | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> VideoModel:
    """Load a video classifier, X-CLIP, or an image classifier as a TSN, through `transformers`.

    Args:
        name: an id of the hub, or a folder that `save_pretrained` has written.
        revision: branch, tag or commit of the hub; None: the default one.
        classes: class names; None: those of the configuration. X-CLIP compares the clip with these
            texts, so it needs them.
        device: where to put the network; None: a GPU if there is one.
        trust_remote_code: run code from the model's repository.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: the model is neither on disk nor can be downloaded.
        ValueError: it is no video or image classifier, X-CLIP without class texts, or its processor
            is not linear in the picture.
    """
    transformers = _transformers()
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no model {name!r} on disk, in the cache or on the hub ({_first_line(error)}). Give "
            "the folder that save_pretrained wrote, or download the model first: "
            f"hf download {name}"
        ) from error
    kind = _kind(transformers, config, name, classes)
    video = kind != PICTURES
    try:
        module = getattr(transformers, kind).from_pretrained(name, **options)
        processor = _processor(transformers, name, options, video=video)
        if kind == TEXTS:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
            module = _ClassTexts(module, tokenizer, list(classes or ()))
    except OSError as error:
        raise FileNotFoundError(f"{name} is not complete: {_first_line(error)}") from error
    config = config.vision_config if kind == TEXTS else config
    spec = _input_spec(module, processor, config, video=video)
    names = list(classes) if classes is not None else _class_names(config)
    network = module if video else TSN(_Pictures(module), spec.frames)
    return wrap_model(
        network.eval(), spec, names, device=device or best_device(), name=f"hf/{Path(name).name}"
    )


def _kind(transformers: Any, config: Any, name: str, classes: Sequence[str] | None) -> str:
    """Return the class of transformers that reads a configuration's weights."""
    for kind in (VIDEOS, PICTURES):
        if type(config) in getattr(transformers, kind)._model_mapping:
            return kind
    if config.model_type != "xclip":
        raise ValueError(
            f"{name} is a {config.model_type} network: expected a video or image classifier"
        )
    if not classes:
        raise ValueError(
            f"{name} compares clips with texts: give the class texts, for example "
            'wb.load_model("hf/…", classes=["opening a door", "stirring"])'
        )
    return TEXTS


class _ClassTexts(torch.nn.Module):
    """X-CLIP with the texts of its classes, as a network from clips to logits."""

    main_input_name = "pixel_values"

    def __init__(self, model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> None:
        super().__init__()
        self.model = model
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        self.register_buffer("input_ids", tokens["input_ids"])
        self.register_buffer("attention_mask", tokens["attention_mask"])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(
            pixel_values=pixel_values,
            input_ids=self.input_ids,
            attention_mask=self.attention_mask,
        ).logits_per_video


class _Pictures(torch.nn.Module):
    """An image classifier of transformers as a network from pictures to logits."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.model = module

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pictures).logits


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ModuleNotFoundError(
            'this network comes from transformers: pip install "saliency-workbench[hub]"',
            name=error.name,
        ) from error
    return transformers


def _processor(transformers: Any, name: str, options: dict[str, Any], *, video: bool) -> Any:
    """Return the video processor, or the image processor that older video models have."""
    if video:
        try:
            return transformers.AutoVideoProcessor.from_pretrained(name, **options)
        except (OSError, ValueError):
            pass  # written before transformers had video processors
    return transformers.AutoImageProcessor.from_pretrained(name, **options)


def _input_spec(module: Any, processor: Any, config: Any, *, video: bool) -> InputSpec:
    """Return how the network takes clips: frames from its configuration, the rest measured."""
    frames = next((int(getattr(config, key)) for key in FRAMES if hasattr(config, key)), 8)
    side = _side(config)
    key = module.main_input_name

    def processed(level: float) -> np.ndarray:
        picture = np.full((side, side, 3), round(255 * level), dtype=np.uint8)
        batch = processor([picture] * frames if video else picture, return_tensors="np")
        values = np.asarray(batch[key], dtype=np.float64)
        # Channels are the axis of 3 before height and width.
        return values.reshape(-1, 3, *values.shape[-2:]).mean((0, 2, 3))

    black, white, grey = processed(0.0), processed(1.0), processed(GREY)
    spread = white - black
    expected = black + spread * round(255 * GREY) / 255
    if not (spread > 0).all() or np.abs(grey - expected).max() > 1e-3 * spread.max():
        raise ValueError(
            f"the processor of {type(module).__name__} does not map pictures linearly: "
            f"black {black}, grey {grey}, white {white}. Wrap the network with an InputSpec"
        )
    std = 1 / spread
    mean = -black * std
    return InputSpec(
        frames=frames,
        resize=_resize(processor, side),
        crop=(side, side),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        time_first=video,
        keyword=key if video else "",
    )


def _side(config: Any) -> int:
    size = getattr(config, "image_size", getattr(config, "crop_size", 224))
    return int(size if isinstance(size, int) else size[0])


def _resize(processor: Any, side: int) -> int | tuple[int, int]:
    """Return the size before the crop, as `InputSpec` takes it."""
    size = getattr(processor, "size", None) or {}
    size = size if isinstance(size, dict) else dict(size)
    short = size.get("shortest_edge")
    if short:
        return max(int(short), side)
    if size.get("height") and size.get("width"):
        return max(int(size["height"]), side), max(int(size["width"]), side)
    return side


def _class_names(config: Any) -> list[str]:
    return [str(config.id2label[number]) for number in sorted(config.id2label)]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
