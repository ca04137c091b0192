"""Video networks at small sizes with random weights, for tests and benchmarks: build("r3d_18").

Batch norms have statistics near what passes through them, but not equal to it, and every norm has a gain and a shift of
its own for each channel, as trained ones do: where all channels are alike, a tube with swapped channels looks right.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import workbench as wb
from workbench.models.networks.tsn import TSN

CLASSES = 7
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Network:
    """How a network is built, and what is known of it.

    Attributes:
        build: makes the module, weights as the library initialises them.
        input: the smallest clips it honestly takes.
        layer: the one that is to be found.
        grid: (T', H', W') of its maps.
        exact: whether it ends in pooling and a linear head.
        lead: how many tokens come before those of the maps.
        before_softmax: the layer that gives the logits; "" where that is the network itself.
        needs: the package it comes from, where that is none of the workbench's own.
        slow: whether it takes more than a few seconds.
    """

    build: Callable[[], nn.Module]
    input: wb.InputSpec
    layer: str
    grid: tuple[int, int, int]
    exact: bool = True
    lead: int = 0
    before_softmax: str = ""
    needs: str = "torchvision"
    slow: bool = False


def spec(frames: int, pixels: int, **options: Any) -> wb.InputSpec:
    """Return an input of square pictures, values about -2 to 2."""
    return wb.InputSpec(
        frames, (pixels, pixels), mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225), **options
    )


def build(name: str, seed: int = 0, randomise: bool = True) -> nn.Module:
    """Return a network of NETWORKS in eval mode, its norms made different by channel unless said otherwise."""
    network = NETWORKS.get(name) or PICTURE_NETWORKS[name]
    torch.manual_seed(seed)
    module = network.build().eval()
    return randomised(module, network.input, seed) if randomise else module


def clip_for(input: wb.InputSpec, seed: int = 0) -> torch.Tensor:
    """Return a random clip (1, 3, T, H, W): blobs that change over time, so that maps differ by place and time."""
    height, width = input.resize
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, max(2, input.frames // 4), 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, (input.frames, height, width), mode="trilinear") * 2


@torch.no_grad()
def randomised(module: nn.Module, input: wb.InputSpec, seed: int = 0) -> nn.Module:
    """Give every norm gains and shifts that differ by channel, and batch norms statistics that nearly fit the clip."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    handles = []
    for part in module.modules():
        if isinstance(part, NORMS) and part.weight is not None:
            part.weight.copy_(1 + 0.3 * noise(part.weight))
            part.bias.copy_(0.3 * noise(part.bias))
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            handles.append(part.register_forward_pre_hook(_fit))
        if isinstance(part, nn.Linear) and part.bias is not None:
            part.bias.copy_(0.3 * noise(part.bias))
        if isinstance(part, nn.Linear) and not part.weight.any():  # some heads begin with zeros
            part.weight.copy_(0.1 * noise(part.weight))
    module(input.arrange(clip_for(input, seed)))
    for handle in handles:
        handle.remove()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.add_(0.3 * part.running_var.sqrt() * noise(part.running_mean))
            part.running_var.mul_(torch.exp(0.3 * noise(part.running_var)))
    return module


def _fit(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
    variance, mean = torch.var_mean(inputs[0], axes, correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance + 1e-2 * variance.mean() + 1e-6)


# Builders. Where a network is too large for a test, it is the library's own class with fewer or narrower blocks.


def video(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of one of torchvision's video networks."""
    return lambda: importlib.import_module("torchvision.models.video").__dict__[name](
        num_classes=CLASSES, **options
    )


def small_swin() -> nn.Module:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return SwinTransformer3d([2, 4, 4], 12, [1, 1, 1], [1, 2, 4], [4, 4, 4], num_classes=CLASSES)


def small_mvit(version: int) -> nn.Module:
    """Return torchvision's MViT of four blocks, with what tells version 1 and 2 apart, for 8 frames of 64×64."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    widths = [(12, 24, 24, 48, 48), (12, 12, 24, 48, 48)][
        version - 1
    ]  # version 1 widens a block earlier
    strides = [(1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 1, 1)]
    blocks = [
        MSBlockConfig(
            num_heads=2,
            input_channels=wide,
            output_channels=wider,
            kernel_q=[3, 3, 3] if version == 2 or stride != (1, 1, 1) else [],
            kernel_kv=[3, 3, 3],
            stride_q=list(stride) if version == 2 or stride != (1, 1, 1) else [],
            stride_kv=[1, 2, 2],
        )
        for wide, wider, stride in zip(widths, widths[1:], strides)
    ]
    return MViT(
        spatial_size=(64, 64),
        temporal_size=8,
        block_setting=blocks,
        residual_pool=version == 2,
        residual_with_cls_embed=False,
        rel_pos_embed=version == 2,
        proj_after_attn=version == 2,
        num_classes=CLASSES,
    )


def facebook(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of one of PyTorchVideo's networks."""

    def made() -> nn.Module:
        return getattr(importlib.import_module(f"pytorchvideo.models.{module}"), name)(
            model_num_class=CLASSES, **options
        )

    return made


def c2d_i3d(kernels: Any, stem: tuple[int, int, int]) -> Callable[[], nn.Module]:
    """Return a builder of PyTorchVideo's C2D or I3D, which differ in the time that their kernels span."""
    return facebook(
        "resnet",
        "create_resnet",
        stem_conv_kernel_size=stem,
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=kernels,
        head_pool_kernel_size=(4, 2, 2),
    )


def hub(name: str) -> Callable[[], nn.Module]:
    """Return a builder of a network of PyTorchVideo's hub, as published."""
    return facebook("hub", name)


def frames_of(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a TSN around one of torchvision's picture networks."""
    return lambda: TSN(
        importlib.import_module("torchvision.models").__dict__[name](num_classes=CLASSES, **options)
    )


def timm_of(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a TSN around one of timm's picture networks."""
    return lambda: TSN(
        importlib.import_module("timm").create_model(name, num_classes=CLASSES, **options)
    )


FLAT = (((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)), (1, 7, 7))
INFLATED = (
    ((3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)]),
    (5, 7, 7),
)
WIDE = spec(16, 64)
SHORT = spec(8, 64)
PICTURES = spec(3, 64)
SHORT_LARGE = spec(8, 224)
PACKED = spec(32, 64, pathways=(4, 1))

NETWORKS: dict[str, Network] = {
    # torchvision, video
    "r3d_18": Network(video("r3d_18"), WIDE, "layer4", (2, 4, 4)),
    "mc3_18": Network(video("mc3_18"), spec(4, 64), "layer4", (4, 4, 4), slow=True),
    "r2plus1d_18": Network(video("r2plus1d_18"), WIDE, "layer4", (2, 4, 4), slow=True),
    "s3d": Network(video("s3d"), spec(14, 224), "features", (2, 7, 7), slow=True),
    "swin3d": Network(small_swin, SHORT, "norm", (4, 4, 4)),
    "swin3d_t": Network(video("swin3d_t"), SHORT, "norm", (4, 2, 2)),
    "mvit_v1": Network(lambda: small_mvit(1), SHORT, "blocks.3.norm1", (4, 4, 4), False, lead=1),
    "mvit_v2": Network(lambda: small_mvit(2), SHORT, "blocks.3.norm1", (4, 4, 4), False, lead=1),
    # PyTorchVideo
    "slow": Network(
        facebook("resnet", "create_resnet", stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=(4, 2, 2)),
        spec(4, 64), "blocks.4", (4, 2, 2), needs="pytorchvideo",
    ),
    "c2d": Network(c2d_i3d(*FLAT), SHORT, "blocks.5", (4, 2, 2), needs="pytorchvideo"),
    "i3d": Network(c2d_i3d(*INFLATED), SHORT, "blocks.5", (4, 2, 2), needs="pytorchvideo"),
    "csn": Network(
        facebook("csn", "create_csn", stem_pool=nn.MaxPool3d, head_pool_kernel_size=(2, 2, 2)),
        WIDE, "blocks.4", (2, 2, 2), needs="pytorchvideo",
    ),
    "r2plus1d": Network(
        facebook("r2plus1d", "create_r2plus1d", head_pool_kernel_size=(2, 2, 2)),
        SHORT, "blocks.4", (2, 2, 2), needs="pytorchvideo", before_softmax="blocks.5.proj",
    ),
    "x3d": Network(
        facebook("x3d", "create_x3d", input_clip_length=4, input_crop_size=64),
        spec(4, 64), "blocks.5.pool.pre_act", (4, 2, 2), False,
        needs="pytorchvideo", before_softmax="blocks.5.proj",
    ),
    "slowfast": Network(
        facebook("slowfast", "create_slowfast", head_pool_kernel_sizes=((8, 2, 2), (32, 2, 2))),
        PACKED, "blocks.4.multipathway_blocks.0 + blocks.4.multipathway_blocks.1", (32, 2, 2), needs="pytorchvideo",
    ),
    # The real ones, at the size they were trained for
    "mvit_v1_b": Network(
        video("mvit_v1_b"), spec(16, 224), "blocks.15.norm1", (8, 7, 7), False, lead=1, slow=True
    ),
    "mvit_v2_s": Network(
        video("mvit_v2_s"), spec(16, 224), "blocks.15.norm1", (8, 7, 7), False, lead=1, slow=True
    ),
    "swin3d_s": Network(video("swin3d_s"), spec(16, 112), "norm", (8, 4, 4), slow=True),
    "swin3d_b": Network(video("swin3d_b"), spec(16, 112), "norm", (8, 4, 4), slow=True),
    "slow_r50": Network(hub("slow_r50"), spec(8, 224), "blocks.4", (8, 7, 7), needs="pytorchvideo", slow=True),
    "c2d_r50": Network(hub("c2d_r50"), SHORT_LARGE, "blocks.5", (4, 7, 7), needs="pytorchvideo", slow=True),
    "i3d_r50": Network(hub("i3d_r50"), SHORT_LARGE, "blocks.5", (4, 7, 7), needs="pytorchvideo", slow=True),
    "csn_r101": Network(hub("csn_r101"), spec(32, 224), "blocks.4", (4, 7, 7), needs="pytorchvideo", slow=True),
    "r2plus1d_r50": Network(
        hub("r2plus1d_r50"), spec(16, 224), "blocks.4", (4, 7, 7),
        needs="pytorchvideo", before_softmax="blocks.5.proj", slow=True,
    ),
    "x3d_s": Network(
        hub("x3d_s"), spec(13, 160), "blocks.5.pool.pre_act", (13, 5, 5), False,
        needs="pytorchvideo", before_softmax="blocks.5.proj", slow=True,
    ),
    "slowfast_r50": Network(
        hub("slowfast_r50"), spec(32, 224, pathways=(4, 1)),
        "blocks.4.multipathway_blocks.0 + blocks.4.multipathway_blocks.1", (32, 7, 7), needs="pytorchvideo", slow=True,
    ),
}  # fmt: skip

PICTURE_NETWORKS: dict[str, Network] = {
    # torchvision
    "resnet18": Network(frames_of("resnet18"), PICTURES, "backbone.layer4", (3, 2, 2)),
    "mobilenet_v2": Network(frames_of("mobilenet_v2"), PICTURES, "backbone.features", (3, 2, 2)),
    "convnext_tiny": Network(frames_of("convnext_tiny"), PICTURES, "backbone.features", (3, 2, 2), False),
    "densenet121": Network(frames_of("densenet121"), PICTURES, "backbone.features", (3, 2, 2)),
    "swin_t": Network(frames_of("swin_t"), PICTURES, "backbone.permute", (3, 2, 2)),
    "vit_b_16": Network(
        frames_of("vit_b_16", image_size=64), PICTURES, "backbone.encoder.layers.encoder_layer_11.ln_1", (3, 4, 4),
        False, lead=1,
    ),
    "mobilenet_v3_small": Network(frames_of("mobilenet_v3_small"), PICTURES, "backbone.features", (3, 2, 2), False),
    "squeezenet1_1": Network(frames_of("squeezenet1_1"), PICTURES, "backbone.classifier.2", (3, 3, 3), False),
    # timm
    "timm/resnet26d": Network(timm_of("resnet26d"), PICTURES, "backbone.layer4", (3, 2, 2), needs="timm"),
    "timm/efficientnet_lite0": Network(
        timm_of("efficientnet_lite0"), PICTURES, "backbone.bn2", (3, 2, 2), needs="timm"
    ),
    "timm/convnext_atto": Network(
        timm_of("convnext_atto"), PICTURES, "backbone.norm_pre", (3, 2, 2), False, needs="timm"
    ),
    "timm/ghostnet_100": Network(
        timm_of("ghostnet_100"), PICTURES, "backbone.blocks", (3, 2, 2), False, needs="timm"
    ),
    "timm/vit_tiny_patch16_224": Network(
        timm_of("vit_tiny_patch16_224", img_size=64), PICTURES, "backbone.blocks.11.norm1", (3, 4, 4), False, lead=1,
        needs="timm",
    ),
    "timm/deit_tiny_distilled_patch16_224": Network(
        timm_of("deit_tiny_distilled_patch16_224", img_size=64), PICTURES, "backbone.blocks.11.norm1", (3, 4, 4),
        False, lead=2, needs="timm",
    ),
    "timm/swin_tiny_patch4_window7_224": Network(
        timm_of("swin_tiny_patch4_window7_224", img_size=64, window_size=4), PICTURES, "backbone.norm", (3, 2, 2),
        needs="timm",
    ),
    "timm/hiera_tiny_224": Network(
        timm_of("hiera_tiny_224", img_size=64), PICTURES, "backbone.blocks.11", (3, 2, 2), False, needs="timm"
    ),
}  # fmt: skip
