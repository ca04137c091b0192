"""Saliency Tubes: Eq. 1 and 2 of Stergiou et al. (ICIP 2019, arXiv 1902.01078), and the spline.

Everything here is linear algebra on activation maps (C, T', H', W') and class weights (C,); no
network is run. A tube costs a weighted sum over channels and three small matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.ndimage
import torch

__all__ = ["Tube", "activation_map", "keep_features", "spline_matrix", "tau_for_share", "upsample"]


@dataclass(frozen=True, eq=False, repr=False)
class Tube:
    """Where and when the evidence for a class lies: a number for each voxel of the clip.

    Attributes:
        volume: (T, H, W) float32, signed: the spline-upsampled class activation map (Eq. 2).
        target: class id, 0-based; None for the tube of a single feature (Fig. 1b).
        label: the class name, or "feature 12" for a single feature.
        tau: the threshold of Eq. 1 in units of the class weights; None kept all features.
        channels: (K,) int64, the features that were summed.
        features: how many features the target layer has, C.
        map: (T', H', W') float32, the sum before the spline.
        times: (T,) seconds, when each frame is shown; None if not known.
    """

    volume: np.ndarray
    target: int | None
    label: str
    tau: float | None
    channels: np.ndarray
    features: int
    map: np.ndarray
    times: np.ndarray | None = None

    @property
    def kept(self) -> int:
        """How many features passed τ."""
        return len(self.channels)

    @cached_property
    def normalized(self) -> np.ndarray:
        """(T, H, W) float32: the volume, min-max over the *whole* volume to [0, 1].

        Per-frame scaling would hide when the evidence is strong, which is the finding. A constant
        volume, for example with no feature kept, has no contrast and gives zeros.
        """
        low, high = float(self.volume.min()), float(self.volume.max())
        if not high > low:
            return np.zeros_like(self.volume)
        return (self.volume - np.float32(low)) / np.float32(high - low)

    @cached_property
    def profile(self) -> np.ndarray:
        """(T,) float32: saliency over time, the mean of `normalized` over height and width."""
        return self.normalized.mean(axis=(1, 2))

    @property
    def peak(self) -> tuple[int, int, int]:
        """Frame, row and column of the largest voxel."""
        frame, row, column = np.unravel_index(int(self.volume.argmax()), self.volume.shape)
        return int(frame), int(row), int(column)

    def __repr__(self) -> str:
        shape = "×".join(str(n) for n in self.volume.shape)
        tau = "all features" if self.tau is None else f"τ = {self.tau:.4g}"
        nan = ", has NaN" if np.isnan(self.volume).any() else ""
        return (
            f"<Tube of {self.label!r}: {shape}, "
            f"{self.volume.min():.4g} to {self.volume.max():.4g}, {tau}, "
            f"{self.kept} of {self.features} kept{nan}>"
        )


def keep_features(weights: torch.Tensor, tau: float | None) -> torch.Tensor:
    """Return (K,) the channels j with y_j ≥ τ (Eq. 1). The others are the paper's set E.

    Args:
        weights: (C,) class weights of one class.
        tau: threshold in the units of the weights; None keeps all, as the authors' code does.

    Raises:
        ValueError: τ is not a finite number.
    """
    if tau is None:
        return torch.arange(len(weights), device=weights.device)
    if not np.isfinite(tau):
        raise ValueError(
            f"tau: expected a finite number in the units of the class weights, or None; got {tau}"
        )
    return torch.nonzero(weights >= tau).flatten()


def tau_for_share(weights: torch.Tensor | np.ndarray, share: float) -> float:
    """Return the τ of Eq. 1 that keeps a share of the features: those with the largest weights.

    Args:
        weights: (C,) class weights of one class, `ex.channel_weights(target)`.
        share: above 0, at most 1. At least one feature is kept, and every feature that ties with
            the last one.

    Raises:
        ValueError: weights of another shape or not finite, or a share outside 0 to 1.
    """
    if isinstance(weights, torch.Tensor):
        weights = weights.detach().cpu().numpy()
    values = np.asarray(weights)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"weights: expected (C,) finite numbers, got {values.shape}")
    if not 0 < share <= 1:
        raise ValueError(f"share: expected above 0 and at most 1, got {share}")
    kept = max(1, round(share * len(values)))
    return float(np.sort(values)[-kept])


def activation_map(
    activations: torch.Tensor, weights: torch.Tensor, tau: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute Σ_j y_j a_j over the features with y_j ≥ τ (Eq. 1 and 2), before the spline.

    Args:
        activations: (C, T', H', W') maps of the target layer.
        weights: (C,) class weights, or (C, T', H', W') element-wise ones; then τ is compared with
            their mean over a channel's voxels.
        tau: threshold; None keeps all features.

    Returns:
        The map (T', H', W') and the kept channels (K,).

    Deviations:
        Eq. 1 is printed with sums over frames, width and height. Like the authors' code and their
        figures this keeps the map, so the product is per voxel.
    """
    channel_weights = weights if weights.ndim == 1 else weights.flatten(1).mean(1)
    kept = keep_features(channel_weights, tau)
    if weights.ndim > 1:
        return (weights[kept] * activations[kept]).sum(0), kept
    # Masking the weights is one small product; gathering the maps would copy them.
    masked = weights if tau is None else weights * (weights >= tau)
    return (masked @ activations.flatten(1)).view(activations.shape[1:]), kept


@lru_cache(maxsize=256)
def spline_matrix(source: int, target: int, centred: bool = False) -> np.ndarray:
    """Return (target, source) float32: cubic spline interpolation of one axis as a matrix.

    `scipy.ndimage.zoom(order=3)` is linear and separable, so its action on the identity is all of
    it. Its first and last samples stay where they are. `centred` puts every sample at the middle of
    its share of the axis instead (`grid_mode=True`), and continues the outermost values beyond
    them. The matrix is shared: do not write to it.
    """
    place = {"grid_mode": True, "mode": "nearest"} if centred else {}
    zoomed = scipy.ndimage.zoom(np.eye(source), (target / source, 1), order=3, **place)
    matrix = zoomed.astype(np.float32)
    if matrix.shape[0] != target:  # zoom rounds target / source * source
        raise AssertionError(f"spline from {source} to {target} came out as {matrix.shape[0]}")
    matrix.setflags(write=False)
    return matrix


def upsample(low: torch.Tensor, size: tuple[int, int, int], centred: bool = False) -> torch.Tensor:
    """Interpolate a map (T', H', W') to (T, H, W) by cubic splines, on the map's device.

    Equals `scipy.ndimage.zoom(low, …, order=3)`, the authors' choice, to within float32. Cubic
    splines overshoot, so the volume's range is a little wider than the map's. `centred`: see
    `spline_matrix`.
    """
    pairs = zip(low.shape, size, strict=True)
    along_t, along_h, along_w = (_device_matrix(a, b, centred, low.device) for a, b in pairs)
    # Time last: it is the cheapest axis to leave until the picture is at full size.
    wide = torch.matmul(along_h @ low.float(), along_w.T)
    return (along_t @ wide.flatten(1)).view(size)


@lru_cache(maxsize=256)
def _device_matrix(source: int, target: int, centred: bool, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(spline_matrix(source, target, centred).copy()).to(device)
