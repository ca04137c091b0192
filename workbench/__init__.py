"""The Saliency Tubes workbench: where and when in a video does a network find its evidence?

    clip = wb.read_clip("video.mp4", frames=16)
    ex = wb.explain(wb.load_model("samples/mfnet"), clip)
    wb.explore(ex)

Conventions, which hold in every module:

- Axes are named: frames (T, H, W, 3) uint8 RGB; network input (N, C, T, H, W) float32; activation
  maps (C, T', H', W'); class weights (N, C) for N classes; tubes (T, H, W) float32.
- Time is in seconds from the start of the file, by presentation timestamps. Intervals are
  half-open. Frame indices and class ids are 0-based; a class id is a position in `classes`.
- Boxes are (x0, y0, x1, y1) in pixels of the clip that they belong to, half-open, NaN for no box.
- Scaling to [0, 1] is over the whole volume, never per frame: brightness over time is the finding.
- Signed values are kept; negative ones are clipped only on request.
- τ (`tau`) is in the units of the class weights, as in Eq. 1 of the paper; None keeps all features.
- Inputs are never changed. A network's training flags, hooks and gradients are restored on every
  way out.
- Mistakes raise ValueError, KeyError, FileNotFoundError or `wb.ClipError` (a video that cannot be
  read). The message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import os

import lazy_loader

__version__ = "0.1.0"

# On Linux, PyTorch then takes large tensors from the system in pages of 2 MB, not of 4 kB: MFNet's
# passes on a processor spent a third of their time on those. It is read at the first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


# The public names stand in `__init__.pyi`, once, and are loaded on first use: `import workbench`
# alone loads no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
