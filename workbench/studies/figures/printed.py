"""Clips and tubes at the size to print: the file's pixels, cut to what the network saw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ...clips.clip import Clip
from ...models.input_spec import InputSpec
from ...saliency.tubes import Tube
from ...views.overlays import focus, heat
from ...views.pictures import draw_boxes

__all__ = ["Panel", "boxed", "enlarged", "print_view"]


@dataclass(frozen=True)
class Panel:
    """A tube to draw over a clip: its title, the clip at the size to print, and the tube."""

    title: str
    clip: Clip
    tube: Tube

    @property
    def heat(self) -> np.ndarray:
        """(T, H, W, 3) uint8: the heat tube at the clip's size."""
        return heat(self.clip, enlarged(self.tube, self.clip))

    @property
    def focus(self) -> np.ndarray:
        """(T, H, W, 3) uint8: the focus tube at the clip's size."""
        return focus(self.clip, enlarged(self.tube, self.clip))


def print_view(clip: Clip, spec: InputSpec) -> Clip:
    """Return the part of a clip that a network sees, in the pixels and the aspect of the file.

    A network squashes and shrinks its pictures; in print they are easier to read as they were.
    Frames are sampled as `spec.view` does, and the same part is cut out."""
    clip = clip if len(clip) == spec.frames else clip.sample(spec.frames, spec.stride)
    if spec.crop is None:
        return clip
    height, width = clip.size
    resized_height, resized_width = replace(spec, crop=None).view(clip).size
    seen_height, seen_width = spec.view(clip).size
    rows = round(height * seen_height / resized_height)
    columns = round(width * seen_width / resized_width)
    return clip.crop((height - rows) // 2, (width - columns) // 2, rows, columns)


def boxed(frames: np.ndarray, clip: Clip) -> np.ndarray:
    """Return a clip's frames or overlay with the boxes of its first action, if there are any."""
    if not clip.actions or clip.actions[0].boxes is None:
        return frames
    return draw_boxes(frames, clip.action_boxes())


def enlarged(tube: Tube, clip: Clip) -> Tube:
    """Return the tube at the clip's height and width, linear between its pixels, (T, H, W)."""
    volume = torch.nn.functional.interpolate(
        torch.from_numpy(tube.volume)[None], size=clip.size, mode="bilinear"
    )
    return replace(tube, volume=volume[0].numpy())
