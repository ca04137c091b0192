"""Networks whose layouts are known from their sources, to test the proof of place on.

Each entry names a layer and what the axes of its output are: read in the network's code, not found by
the workbench. `wrong_layouts` lists every other reading of the same output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from networks import CLASSES, NETWORKS, PICTURE_NETWORKS, randomised, spec
from torch import nn

import workbench as wb
from workbench.models.hooks import Call
from workbench.models.networks.small_video import SMALL_VIDEO
from workbench.models.networks.tsn import TSN
from workbench.saliency.layouts import Layout
from workbench.training.small_transformers import small_transformer

VOLUME = "n c t h w"
LAST = "n t h w c"
FRAMES = "(n t) c h w"
FRAMES_LAST = "(n t) h w c"
TOKENS = "n (t h w) c"
SPACE_FIRST = "n (h w t) c"
FRAME_TOKENS = "(n t) (h w) c"


@dataclass(frozen=True)
class Placed:
    """A network, one of its layers, and how time, height and width lie in that layer's output.

    Attributes:
        build: makes the module.
        input: the clips it takes.
        layer: dotted name; its first call is meant.
        right: what the axes of the output are.
        family: what kind of network it is, for the table.
        trains: whether it is small enough to be trained for the table, too.
    """

    build: Callable[[], nn.Module]
    input: wb.InputSpec
    layer: str
    right: Layout
    family: str
    trains: bool = False
    call: int = 0

    @property
    def site(self) -> Call:
        """The call of the layer."""
        return Call(self.layer, self.call)


def made(placed: Placed, seed: int = 0) -> nn.Module:
    """Return the network in eval mode, with weights that differ by channel."""
    torch.manual_seed(seed)
    module = placed.build().eval()
    for parameter in module.parameters():
        # transformers begin with weights of 0.02, by which attention changes next to nothing.
        if parameter.ndim > 1 and float(parameter.detach().std()) < 0.03:
            nn.init.normal_(parameter, std=0.1)
    return randomised(module, placed.input, seed)


def wrong_layouts(right: Layout, shape: tuple[int, ...]) -> Iterator[Layout]:
    """Yield every other reading of an output: other orders, other grids, tokens shifted by one.

    Those that read the very same voxels in the same order are left out: with one voxel along an
    axis, some orders are the same.
    """
    index = torch.arange(torch.Size(shape).numel()).view(shape)
    expected = right.arranged(index)
    for layout in _readings(right):
        arranged = layout.arranged(index)
        if arranged.shape != expected.shape or not torch.equal(arranged, expected):
            yield layout


def _readings(right: Layout) -> Iterator[Layout]:
    time, height, width = right.grid
    if not right.of_tokens:
        names = right.axes.replace("(", "").replace(")", "")
        sizes = dict(zip("thw", right.grid))
        for order in permutations("thw"):
            if "(n t)" in right.axes and order[0] != "t":
                continue  # a batch of frames has time there
            renamed = names.translate(str.maketrans("thw", "".join(order)))
            grid = {new: sizes[old] for old, new in zip("thw", order)}
            axes = renamed.replace("n t", "(n t)") if "(n t)" in right.axes else renamed
            yield replace(right, axes=axes, grid=(grid["t"], grid["h"], grid["w"]))
        return
    if right.axes == FRAME_TOKENS:
        orders = ["(n t) (h w) c", "(n t) (w h) c"]
        grids = [(time, tall, height * width // tall) for tall in _divisors(height * width)]
    else:
        orders = [f"n ({' '.join(order)}) c" for order in permutations("thw")]
        count = time * height * width
        grids = [
            (n, tall, count // n // tall)
            for n in _divisors(count)
            for tall in _divisors(count // n)
        ]
    for axes in orders:
        for grid in grids:
            yield replace(right, axes=axes, grid=grid)
            if right.lead:
                # One token early: the class token as the first voxel, the last voxel left out.
                yield replace(right, axes=axes, grid=grid, lead=right.lead - 1, tail=right.tail + 1)
            if right.tail:
                yield replace(right, axes=axes, grid=grid, lead=right.lead + 1, tail=right.tail - 1)


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


# Hand-written networks: the layouts that the shape alone does not reveal


class Cells(nn.Module):
    """A stem that gives a cell for every 4×8×8 voxels, (N, 24, T', H', W'), and a head."""

    def __init__(self, cell: tuple[int, int, int] = (2, 8, 8), lead: int = 0, width: int = 24):
        super().__init__()
        self.stem = nn.Conv3d(3, width, cell, cell)
        self.extra = nn.Parameter(torch.randn(1, lead, width))
        self.norm = nn.LayerNorm(width)
        self.act = nn.ReLU()
        self.fc = nn.Linear(width, CLASSES)
        self.block = nn.TransformerEncoderLayer(
            width, 4, 48, 0.0, batch_first=True, norm_first=True
        )
        self.mix = nn.Conv3d(width, width, 3, padding=1)


class PlainConv(Cells):
    def forward(self, x):
        return self.fc(self.act(self.mix(self.stem(x))).mean((2, 3, 4)))


class MaxPooled(Cells):
    def forward(self, x):
        return self.fc(self.act(self.mix(self.stem(x))).amax((2, 3, 4)))


class Volume(Cells):
    """The volume in another order of axes, with nothing but a ReLU behind it."""

    order: tuple[int, ...] = (0, 2, 3, 4, 1)

    def __init__(self, order, **options):
        super().__init__(**options)
        self.order = order

    def forward(self, x):
        maps = self.act(self.mix(self.stem(x)).permute(*self.order))
        channels = self.order.index(1)
        return self.fc(maps.mean([axis for axis in range(1, 5) if axis != channels]))


class TokenNetwork(Cells):
    """A transformer block on tokens in some order, with extra tokens before or after them."""

    def __init__(self, order="thw", tail=False, pool="mean", **options):
        super().__init__(**options)
        self.order, self.tail, self.pool = order, tail, pool

    def forward(self, x):
        maps = self.stem(x)
        axes = [2 + "thw".index(axis) for axis in self.order]
        tokens = maps.permute(0, *axes, 1).flatten(1, 3)
        parts = (tokens, self.extra) if self.tail else (self.extra, tokens)
        tokens = self.norm(
            self.block(torch.cat([each.expand(len(x), -1, -1) for each in parts], 1))
        )
        if self.pool == "mean":
            return self.fc(tokens.mean(1))
        return self.fc(tokens[:, -1 if self.tail else 0])


class ByFrame(Cells):
    """S1: a CNN for each frame, then something over time."""

    def __init__(self, over="attention"):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 24, 8, 8), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1))
        self.gru = nn.GRU(24, 24, batch_first=True)
        self.conv = nn.Conv1d(24, 24, 3, padding=1)
        self.over = over

    def forward(self, x):
        frames = self.cnn(x.transpose(1, 2).flatten(0, 1)).relu().mean((2, 3))
        frames = frames.unflatten(0, (len(x), -1))
        if self.over == "attention":
            frames = self.block(frames)
        elif self.over == "gru":
            frames = self.gru(frames)[0]
        else:
            frames = self.conv(frames.transpose(1, 2)).relu().transpose(1, 2)
        return self.fc(frames.mean(1))


class Factorised(Cells):
    """Attention within each frame, then over the frames (VideoPrism, ViViT's second model)."""

    def forward(self, x):
        maps = self.stem(x)
        frames = maps.transpose(1, 2).flatten(0, 1).flatten(2).transpose(1, 2)
        tokens = self.norm(self.block(frames)).mean(1)
        return self.fc(tokens.unflatten(0, (len(x), -1)).mean(1))


class Mixer(Cells):
    """A perceptron over all tokens: every voxel sees the whole clip."""

    def __init__(self, tokens):
        super().__init__()
        self.across = nn.Linear(tokens, tokens)

    def forward(self, x):
        tokens = self.stem(x).flatten(2)
        tokens = tokens + self.across(tokens)
        return self.fc(self.norm(tokens.transpose(1, 2)).mean(1))


class LongRange(Cells):
    """Average pooling of a third of the clip before the map: neighbours share what they see."""

    def forward(self, x):
        maps = nn.functional.avg_pool3d(self.stem(x), 3, 1, 1)
        return self.fc(self.act(maps).mean((2, 3, 4)))


SMALL = spec(16, 64)
FLAT = spec(16, 32)
WIDE = wb.InputSpec(16, (32, 64), mean=(0.45,) * 3, std=(0.225,) * 3)


def _hand(
    build: Any, input: wb.InputSpec, layer: str, axes: str, grid: Any, **layout: Any
) -> Placed:
    return Placed(build, input, layer, Layout(axes, grid, **layout), "hand-written", trains=True)


HAND: dict[str, Placed] = {
    "conv": _hand(PlainConv, SMALL, "act", VOLUME, (8, 8, 8)),
    "conv, wide clips": _hand(PlainConv, WIDE, "act", VOLUME, (8, 4, 8)),
    "conv, cells of 4×16×16": _hand(
        lambda: PlainConv((4, 16, 16)), SMALL, "act", VOLUME, (4, 4, 4)
    ),
    "conv, cells of 32": _hand(lambda: PlainConv((4, 32, 32)), SMALL, "act", VOLUME, (4, 2, 2)),
    "conv, maximum": _hand(MaxPooled, SMALL, "act", VOLUME, (8, 8, 8)),
    "conv, pooled map": _hand(LongRange, SMALL, "act", VOLUME, (8, 8, 8)),
    "volume, channels last": _hand(
        lambda: Volume((0, 2, 3, 4, 1)), SMALL, "act", LAST, (8, 8, 8)
    ),
    "volume, time first": _hand(
        lambda: Volume((0, 2, 1, 3, 4)), SMALL, "act", "n t c h w", (8, 8, 8)
    ),
    "volume, time last": _hand(
        lambda: Volume((0, 1, 3, 4, 2)), SMALL, "act", "n c h w t", (8, 8, 8)
    ),
    "volume, time before channels": _hand(
        lambda: Volume((0, 3, 4, 2, 1)), SMALL, "act", "n h w t c", (8, 8, 8)
    ),
    "tokens": _hand(TokenNetwork, SMALL, "block", TOKENS, (8, 8, 8)),
    "tokens, wide clips": _hand(TokenNetwork, WIDE, "block", TOKENS, (8, 4, 8)),
    "tokens, 8×7×7": _hand(TokenNetwork, spec(16, 56), "block", TOKENS, (8, 7, 7)),
    "tokens, patches of 32": _hand(
        lambda: TokenNetwork(cell=(2, 32, 32)), spec(16, 128), "block", TOKENS, (8, 4, 4)
    ),
    "tokens, space first": _hand(
        lambda: TokenNetwork("hwt"), SMALL, "block", SPACE_FIRST, (8, 8, 8)
    ),
    "tokens, class token": _hand(
        lambda: TokenNetwork(lead=1, pool="first"), SMALL, "block.norm1", TOKENS, (8, 8, 8), lead=1
    ),
    "tokens, space first, class token": _hand(
        lambda: TokenNetwork("hwt", lead=1), SMALL, "block", SPACE_FIRST, (8, 8, 8), lead=1
    ),
    "tokens, two extra": _hand(
        lambda: TokenNetwork(lead=2), SMALL, "block", TOKENS, (8, 8, 8), lead=2
    ),
    "tokens, five extra": _hand(
        lambda: TokenNetwork(lead=5), SMALL, "block", TOKENS, (8, 8, 8), lead=5
    ),
    "tokens, class token at the end": _hand(
        lambda: TokenNetwork(lead=1, tail=True), SMALL, "block", TOKENS, (8, 8, 8), tail=1
    ),
    "tokens, registers at the end": _hand(
        lambda: TokenNetwork(lead=4, tail=True), SMALL, "block", TOKENS, (8, 8, 8), tail=4
    ),
    "frames, attention over time": _hand(ByFrame, FLAT, "cnn", FRAMES, (16, 4, 4)),
    "frames, GRU over time": _hand(lambda: ByFrame("gru"), FLAT, "cnn", FRAMES, (16, 4, 4)),
    "frames, convolution over time": _hand(
        lambda: ByFrame("conv"), FLAT, "cnn", FRAMES, (16, 4, 4)
    ),
    "frames, attention within each": _hand(Factorised, SMALL, "norm", FRAME_TOKENS, (8, 8, 8)),
    "mixer over all tokens": _hand(lambda: Mixer(512), SMALL, "norm", TOKENS, (8, 8, 8)),
}  # fmt: skip


# transformers, from small configurations


def _video(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of one of transformers' video classifiers."""

    def build() -> nn.Module:
        import transformers

        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": 64,
            "num_frames": 8,
            "num_labels": CLASSES,
        }
        config = getattr(transformers, f"{kind}Config")(**{**sizes, **options})
        return transformers.AutoModelForVideoClassification.from_config(config)

    return build


class Pictures(nn.Module):
    """One of transformers' picture classifiers, from pictures to logits."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        import transformers

        config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **options)
        self.model = transformers.AutoModelForImageClassification.from_config(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=x).logits


CLIPS = spec(8, 64, time_first=True, keyword="pixel_values")


def _hugging(
    build: Any, layer: str, axes: str, grid: Any, input: Any = CLIPS, **layout: Any
) -> Placed:
    return Placed(build, input, layer, Layout(axes, grid, **layout), "transformers, video")


VIDEO: dict[str, Placed] = {
    "VideoMAE": _hugging(
        _video("VideoMAE", use_mean_pooling=False), "videomae.encoder.layer.0", TOKENS, (4, 4, 4)
    ),
    "VideoMAE, mean": _hugging(
        _video("VideoMAE", use_mean_pooling=True), "videomae.encoder.layer.1", TOKENS, (4, 4, 4)
    ),
    "VideoMAE, patches of 8": _hugging(
        _video("VideoMAE", patch_size=8), "videomae.encoder.layer.1", TOKENS, (4, 8, 8)
    ),
    "TimeSformer, divided": _hugging(
        _video("Timesformer"), "timesformer.encoder.layer.0.output", SPACE_FIRST, (8, 4, 4), lead=1
    ),
    "TimeSformer, joint": _hugging(
        _video("Timesformer", attention_type="joint_space_time"),
        "timesformer.encoder.layer.0.output", SPACE_FIRST, (8, 4, 4), lead=1,
    ),
    "ViViT": _hugging(
        _video("Vivit", tubelet_size=[2, 16, 16]), "vivit.layers.0", TOKENS, (4, 4, 4), lead=1
    ),
    "ViViT, patches of 8": _hugging(
        _video("Vivit", tubelet_size=[2, 8, 8]), "vivit.layers.0", TOKENS, (4, 8, 8), lead=1
    ),
    "V-JEPA 2": _hugging(
        _video(
            "VJEPA2", crop_size=64, frames_per_clip=8, num_pooler_layers=1, pred_hidden_size=32,
            pred_num_attention_heads=4, pred_num_hidden_layers=1, hidden_size=48,
        ),
        "vjepa2.encoder.layer.0.norm2", TOKENS, (4, 4, 4),
        spec(8, 64, time_first=True, keyword="pixel_values_videos"),
    ),
}  # fmt: skip


def _known(name: str) -> Placed:
    """Return a network of `networks`, whose layer and grid are written there."""
    network = NETWORKS.get(name) or PICTURE_NETWORKS[name]
    layer = network.layer.split(" + ")[0]
    axes = FRAMES if name in PICTURE_NETWORKS else VOLUME
    grid = (8, 2, 2) if name == "slowfast" else network.grid
    if name.startswith("swin3d"):
        axes = LAST
    elif name == "timm/swin_tiny_patch4_window7_224":
        axes = FRAMES_LAST
    elif name.startswith("mvit"):
        axes = TOKENS
    elif network.lead or "hiera" in name:
        axes = FRAME_TOKENS
    family = "2-D networks, by frame" if name in PICTURE_NETWORKS else "3-D networks"
    return Placed(network.build, network.input, layer, Layout(axes, grid, network.lead), family)


LARGE = ("swin3d_t", "vit_b_16", "convnext_tiny", "densenet121", "timm/ghostnet_100")
LIBRARY: dict[str, Placed] = {
    name: _known(name)
    for name, network in {**NETWORKS, **PICTURE_NETWORKS}.items()
    if not network.slow and name not in LARGE
}

FOUR_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
ATTENTION_STAGES = {**FOUR_STAGES, "num_attention_heads": [1, 2, 2, 4]}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}
DINO = {name: value for name, value in VIT.items() if name != "intermediate_size"}
SWIN = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
STEM = {"embedding_size": 8, "hidden_sizes": [8, 16, 32], "depths": [1, 1, 1]}


def _picture(kind: str, layer: str, axes: str, side: int, lead: int = 0, **options: Any) -> Placed:
    """Return one of transformers' picture classifiers on four frames of 64×64."""
    return Placed(
        lambda: TSN(Pictures(kind, **options)),
        spec(4, 64),
        f"backbone.model.{layer}",
        Layout(axes, (4, side, side), lead),
        "2-D networks, by frame",
    )


HUGGING_PICTURES: dict[str, Placed] = {
    "hf/ViT": _picture("ViT", "vit.layers.0", FRAME_TOKENS, 4, 1, **VIT),
    "hf/ViT-MSN": _picture("ViTMSN", "vit.layers.0", FRAME_TOKENS, 4, 1, **VIT),
    "hf/BEiT": _picture("Beit", "beit.layernorm", FRAME_TOKENS, 4, 1, **VIT),
    "hf/Data2Vec": _picture("Data2VecVision", "data2vec_vision.layernorm", FRAME_TOKENS, 4, 1, **VIT),
    "hf/DINOv2": _picture("Dinov2", "dinov2.layernorm", FRAME_TOKENS, 4, 1, **DINO),
    "hf/DINOv2, registers": _picture(
        "Dinov2WithRegisters", "dinov2_with_registers.layernorm", FRAME_TOKENS, 4, 5,
        num_register_tokens=4, **DINO,
    ),
    "hf/I-JEPA": _picture("IJepa", "ijepa.layernorm", FRAME_TOKENS, 4, **VIT),
    "hf/SigLIP": _picture(
        "Siglip", "vision_model.post_layernorm", FRAME_TOKENS, 4, vision_config=VIT,
        text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    ),
    "hf/ConvNeXt": _picture("ConvNext", "convnext.encoder.stages.3", FRAMES, 2, **FOUR_STAGES),
    "hf/ConvNeXt 2": _picture("ConvNextV2", "convnextv2.encoder.stages.3", FRAMES, 2, **FOUR_STAGES),
    "hf/Swin": _picture("Swin", "swin.layernorm", FRAME_TOKENS, 8, **SWIN),
    "hf/Swin 2": _picture("Swinv2", "swinv2.layernorm", FRAME_TOKENS, 8, **SWIN),
    "hf/ResNet": _picture(
        "ResNet", "resnet.encoder.stages.2", FRAMES, 4, layer_type="basic", **STEM
    ),
    "hf/ResNet, bottlenecks": _picture(
        "ResNet", "resnet.encoder.stages.2", FRAMES, 4, layer_type="bottleneck", **STEM
    ),
    "hf/RegNet": _picture(
        "RegNet", "regnet.encoder.stages.3", FRAMES, 2, embedding_size=8,
        hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], groups_width=8,
    ),
    "hf/MobileNet": _picture(
        "MobileNetV1", "mobilenet_v1.layer.25", FRAMES, 2, image_size=64, depth_multiplier=0.25
    ),
    "hf/MobileNet 2": _picture(
        "MobileNetV2", "mobilenet_v2.conv_1x1", FRAMES, 2, image_size=64, depth_multiplier=0.35
    ),
    "hf/MobileViT": _picture(
        "MobileViT", "mobilevit.conv_1x1_exp", FRAMES, 2, image_size=64, hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 64],
    ),
    "hf/MobileViT 2": _picture(
        "MobileViTV2", "mobilevitv2.encoder.layer.4", FRAMES, 2, image_size=64, width_multiplier=0.5
    ),
    "hf/PVT 2": _picture(
        "PvtV2", "pvt_v2.encoder.layers.3.layer_norm", FRAME_TOKENS, 2, image_size=64,
        **ATTENTION_STAGES,
    ),
    "hf/SegFormer": _picture("Segformer", "segformer.stages.3", FRAMES, 2, **ATTENTION_STAGES),
    "hf/PoolFormer": _picture("PoolFormer", "norm", FRAMES, 2, **FOUR_STAGES),
    "hf/FocalNet": _picture(
        "FocalNet", "focalnet.layernorm", FRAME_TOKENS, 2, image_size=64, embed_dim=16,
        depths=[1, 1, 1, 1],
    ),
    "hf/BiT": _picture(
        "Bit", "bit.norm", FRAMES, 2, embedding_size=8, hidden_sizes=[16, 32, 64, 64],
        depths=[1, 1, 1, 1], num_groups=2,
    ),
    "hf/SwiftFormer": _picture(
        "SwiftFormer", "norm", FRAMES, 2, embed_dims=[16, 16, 32, 32], depths=[1, 1, 1, 1]
    ),
}  # fmt: skip

PLACED: dict[str, Placed] = {**HAND, **VIDEO, **LIBRARY, **HUGGING_PICTURES}

# The small networks of the study of transformers, by family; their weights are shipped.


def _study(family: str, layer: str, axes: str, grid: Any = (8, 6, 6), **layout: Any) -> Placed:
    return Placed(
        lambda: small_transformer(family).module,
        SMALL_VIDEO[family].input,
        layer,
        Layout(axes, grid, **layout),
        "small networks of the study, trained",
    )


STUDY: dict[str, Placed] = {
    family: _study(family, *about, **layout)
    for family, about, layout in (
        ("VideoMAE, mean", ("videomae.encoder.layer.0", TOKENS), {}),
        ("VideoMAE, class token", ("videomae.encoder.layer.0", TOKENS), {}),
        (
            "TimeSformer, divided",
            ("timesformer.encoder.layer.0.output", SPACE_FIRST),
            {"lead": 1},
        ),
        ("TimeSformer, joint", ("timesformer.encoder.layer.0.output", SPACE_FIRST), {"lead": 1}),
        ("ViViT", ("vivit.layers.0", TOKENS), {"lead": 1}),
        ("V-JEPA 2", ("vjepa2.encoder.layer.0.norm2", TOKENS), {}),
        ("MViT", ("blocks.0.norm2", TOKENS, (8, 12, 12)), {"lead": 1}),
        ("Swin", ("norm", LAST), {}),
        ("Hiera", ("blocks.0", TOKENS), {}),
        ("CNN + time", ("cnn.8", FRAMES, (16, 6, 6)), {}),
        ("X-CLIP", ("clip.vision_model.encoder.layers.0.layer_norm2", FRAME_TOKENS), {"lead": 1}),
    )
}

# Frames in a row, one vector each: every reading of them as pictures is wrong.
ROW = Placed(ByFrame, FLAT, "block", Layout(TOKENS, (1, 4, 4)), "hand-written")
ROW_READINGS = [
    Layout(axes, grid)
    for axes in (TOKENS, SPACE_FIRST)
    for grid in ((1, 4, 4), (1, 2, 8), (1, 8, 2), (2, 2, 4), (2, 4, 2), (4, 2, 2))
]
