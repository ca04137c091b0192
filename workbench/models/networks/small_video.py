"""Small video transformers of eleven families, for clips of 48×48 pixels.

Each is built from the class that users have, with a small configuration: transformers' VideoMAE,
TimeSformer, ViViT, V-JEPA 2 and X-CLIP, torchvision's MViT and Video Swin. Hiera for video, and a
CNN with a transformer over time, have no class there. `training.small_transformers` trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..input_spec import InputSpec

__all__ = ["PATCH", "SIDE", "SMALL_VIDEO", "Family"]

SIDE, PATCH = 48, 8
WIDTH, HEADS, BLOCKS = 48, 4, 3
LEVELS: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
LONG = InputSpec(frames=16, **LEVELS)
VIT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "image_size": SIDE,
    "initializer_range": 0.06,
}


def _transformers_input(frames: int, keyword: str = "pixel_values") -> InputSpec:
    return InputSpec(frames=frames, time_first=True, keyword=keyword, **LEVELS)


def _labels(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }


def _videomae(mean_pooling: bool, classes: Sequence[str]) -> nn.Module:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    options: dict[str, Any] = {
        "patch_size": PATCH,
        "num_frames": 16,
        "use_mean_pooling": mean_pooling,
    }
    return VideoMAEForVideoClassification(VideoMAEConfig(**VIT, **options, **_labels(classes)))


def _timesformer(attention: str, classes: Sequence[str]) -> nn.Module:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    options: dict[str, Any] = {"patch_size": PATCH, "num_frames": 8, "attention_type": attention}
    return TimesformerForVideoClassification(
        TimesformerConfig(**VIT, **options, **_labels(classes))
    )


def _vivit(classes: Sequence[str]) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    options: dict[str, Any] = {"tubelet_size": [2, PATCH, PATCH], "num_frames": 16}
    return VivitForVideoClassification(VivitConfig(**VIT, **options, **_labels(classes)))


def _vjepa2(classes: Sequence[str]) -> nn.Module:
    from transformers import VJEPA2Config, VJEPA2ForVideoClassification

    config = VJEPA2Config(
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        patch_size=PATCH,
        crop_size=SIDE,
        initializer_range=0.06,
        frames_per_clip=16,
        num_pooler_layers=1,
        # The predictor takes no part in classification.
        pred_hidden_size=12,
        pred_num_attention_heads=1,
        pred_num_hidden_layers=1,
        **_labels(classes),
    )
    return VJEPA2ForVideoClassification(config)


def _mvit(classes: Sequence[str]) -> nn.Module:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    def block(
        heads: int, channels: tuple[int, int], keys: int, queries: tuple[int, ...]
    ) -> MSBlockConfig:
        return MSBlockConfig(
            num_heads=heads,
            input_channels=channels[0],
            output_channels=channels[1],
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=list(queries),
            stride_kv=[1, keys, keys],
        )

    return MViT(
        spatial_size=(SIDE, SIDE),
        temporal_size=16,
        block_setting=[
            block(1, (24, 24), 4, (1, 1, 1)),
            block(2, (24, 48), 2, (1, 2, 2)),
            block(2, (48, 48), 2, (1, 1, 1)),
        ],
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        dropout=0.0,
        num_classes=len(classes),
    )


def _swin(classes: Sequence[str]) -> nn.Module:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 6, 6],
        stochastic_depth_prob=0.0,
        num_classes=len(classes),
    )


class SmallHiera(nn.Module):
    """Hiera (Ryali et al., ICML 2023) for clips, in two stages: tokens in units, then all of them.

    As there, tokens are sorted so that those of a unit, 2×2 patches of a frame pair, are a leading
    axis: attention within units and pooling over them need no window. After pooling, the tokens lie
    (T', H', W') again, which their number alone does not tell.
    """

    def __init__(self, classes: int, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv3d(3, width, (3, 7, 7), (2, 4, 4), (1, 3, 3))
        self.place = nn.Parameter(0.02 * torch.randn(1, 12 * 12, width))
        self.time = nn.Parameter(0.02 * torch.randn(1, 8, width))
        self.unit_blocks = nn.ModuleList(_block(width, heads) for _ in range(2))
        self.widen = nn.Linear(width, 2 * width)
        self.blocks = nn.ModuleList(_block(2 * width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes) of clips (N, 3, 16, 48, 48)."""
        x = self.patches(x).flatten(3)  # (N, C, T', patches of a frame)
        x = x.permute(0, 2, 3, 1) + self.place[:, None] + self.time[:, :, None]
        count, times, places, width = x.shape
        side = round(places**0.5)
        # Units are 2×2 patches: (N, units, 4, C).
        x = x.view(count, times, side // 2, 2, side // 2, 2, width)
        x = x.permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(1, 3)
        units = x.shape[1]
        x = x.flatten(0, 1)
        for block in self.unit_blocks:
            x = block(x)
        x = self.widen(x).amax(1).unflatten(0, (count, units))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))


class FramesThenTime(nn.Module):
    """A CNN for each frame, its mean over the picture, and a transformer over the frames."""

    def __init__(self, classes: int, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.time = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(_block(width, heads) for _ in range(2))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes) of clips (N, 3, 16, H, W)."""
        count, _, frames, _, _ = x.shape
        maps = self.cnn(x.transpose(1, 2).flatten(0, 1))
        x = maps.mean((2, 3)).unflatten(0, (count, frames)) + self.time
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class TextClasses(nn.Module):
    """X-CLIP (Ni et al., ECCV 2022) with a class for each of a few texts of one word.

    The logit of a class is the cosine of the clip's vector with that of the class's text, which the
    clip prompts.
    """

    def __init__(self, classes: int, width: int = 48, frames: int = 8) -> None:
        from transformers import XCLIPConfig, XCLIPModel

        super().__init__()
        tower = {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": 4,
        }
        config = XCLIPConfig(
            text_config={
                **tower,
                "num_hidden_layers": 1,
                "vocab_size": classes + 1,
                "max_position_embeddings": 2,
            },
            vision_config={
                **tower,
                "num_hidden_layers": 3,
                "image_size": 48,
                "patch_size": 8,
                "num_frames": frames,
                "mit_hidden_size": width,
                "mit_intermediate_size": 4 * width,
                "mit_num_attention_heads": 4,
                "initializer_range": 0.06,
            },
            projection_dim=width,
            prompt_layers=1,
            prompt_num_attention_heads=4,
        )
        self.clip = XCLIPModel(config)
        # A trained text tower tells the words apart, and a new one hardly.
        nn.init.normal_(self.clip.text_model.embeddings.token_embedding.weight, std=1.0)
        nn.init.normal_(self.clip.mit.position_embedding, std=0.02)
        # Begin and the class's word. The tower's answer is that of the token of highest number.
        words = torch.arange(1, classes + 1)
        self.register_buffer("texts", torch.stack([0 * words, words], 1), persistent=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes) of clips (N, T, 3, 48, 48)."""
        return self.clip(input_ids=self.texts, pixel_values=pixel_values).logits_per_video


def _block(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )


@dataclass(frozen=True)
class Family:
    """A family of networks: how its small one is built for some classes, and fed."""

    build: Callable[[Sequence[str]], nn.Module]
    input: InputSpec


SMALL_VIDEO = {
    "VideoMAE, mean": Family(partial(_videomae, True), _transformers_input(16)),
    "VideoMAE, class token": Family(partial(_videomae, False), _transformers_input(16)),
    "TimeSformer, divided": Family(
        partial(_timesformer, "divided_space_time"), _transformers_input(8)
    ),
    "TimeSformer, joint": Family(partial(_timesformer, "joint_space_time"), _transformers_input(8)),
    "ViViT": Family(_vivit, _transformers_input(16)),
    "V-JEPA 2": Family(_vjepa2, _transformers_input(16, "pixel_values_videos")),
    "MViT": Family(_mvit, LONG),
    "Swin": Family(_swin, LONG),
    "Hiera": Family(lambda classes: SmallHiera(len(classes)), LONG),
    "CNN + time": Family(lambda classes: FramesThenTime(len(classes)), LONG),
    "X-CLIP": Family(lambda classes: TextClasses(len(classes)), _transformers_input(8)),
}
