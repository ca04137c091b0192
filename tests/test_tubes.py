"""Eq. 1 and 2 and the spline, against plain loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from workbench.saliency.tubes import Tube, activation_map, keep_features, spline_matrix, upsample


def random_maps(channels=12, size=(4, 5, 3), seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((channels, *size)).astype(np.float32), rng.standard_normal(
        channels
    ).astype(np.float32)


def tube_of(volume, **changes):
    facts = dict(target=0, label="x", tau=None, channels=np.arange(3), features=3, map=volume[:1])
    return Tube(volume=np.asarray(volume, dtype=np.float32), **{**facts, **changes})


@pytest.mark.parametrize("share", [None, 0.0, 1 / 3, 2 / 3, 1.0])
def test_weighted_sum_is_equation_1_and_2_by_a_plain_loop(share):
    maps, weights = random_maps()
    tau = None if share is None else float(np.quantile(weights, share))
    expected = np.zeros(maps.shape[1:])
    kept = []
    for channel in range(len(maps)):
        if tau is None or weights[channel] >= tau:
            kept.append(channel)
            for voxel in np.ndindex(*expected.shape):
                expected[voxel] += float(weights[channel]) * float(maps[(channel, *voxel)])
    low, channels = activation_map(torch.from_numpy(maps), torch.from_numpy(weights), tau)
    np.testing.assert_allclose(low.numpy(), expected, atol=1e-5)
    assert channels.tolist() == kept
    if share == 2 / 3:  # two thirds dropped: a third of twelve stays, and the map is another one
        assert len(kept) == 4
        assert np.abs(expected - np.tensordot(weights, maps, 1)).max() > 0.1


def test_tau_keeps_the_weight_that_equals_it():
    weights = torch.tensor([0.1, 0.2, 0.3, -0.4])
    assert keep_features(weights, float(weights[1])).tolist() == [1, 2]
    assert keep_features(weights, 0.30001).tolist() == []
    assert keep_features(weights, None).tolist() == [0, 1, 2, 3]


def test_no_feature_kept_is_an_empty_map_not_an_error():
    maps, weights = random_maps()
    low, channels = activation_map(torch.from_numpy(maps), torch.from_numpy(weights), 1e6)
    assert channels.numel() == 0
    assert not low.any()


@pytest.mark.parametrize("tau", [float("nan"), float("inf")])
def test_tau_must_be_finite(tau):
    with pytest.raises(ValueError, match="finite"):
        keep_features(torch.ones(3), tau)


@pytest.mark.parametrize("size", [(16, 20, 12), (7, 11, 13), (4, 5, 3), (3, 224, 224), (16, 5, 40)])
def test_spline_equals_scipy_zoom_for_integer_and_other_factors(size):
    maps, weights = random_maps()
    for tau in (None, 0.2):
        low, _ = activation_map(torch.from_numpy(maps), torch.from_numpy(weights), tau)
        factors = [b / a for a, b in zip(low.shape, size)]
        expected = scipy.ndimage.zoom(low.numpy().astype(np.float64), factors, order=3)
        got = upsample(low, size).numpy()
        assert got.shape == expected.shape == size
        assert np.abs(got - expected).max() <= 1e-5 * np.ptp(expected)


def test_spline_of_the_paper_s_size():
    low = torch.from_numpy(np.random.default_rng(1).standard_normal((8, 7, 7)).astype(np.float32))
    expected = scipy.ndimage.zoom(low.numpy(), (2, 32, 32), order=3)
    assert np.abs(upsample(low, (16, 224, 224)).numpy() - expected).max() <= 1e-5 * np.ptp(expected)


def test_spline_matrix_keeps_the_ends_and_is_not_writable():
    matrix = spline_matrix(7, 112)
    np.testing.assert_allclose(matrix[0], np.eye(7)[0], atol=1e-6)
    np.testing.assert_allclose(matrix[-1], np.eye(7)[-1], atol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 2


def test_a_single_map_frame_is_spread_evenly():
    low = torch.arange(4.0).view(1, 2, 2)
    volume = upsample(low, (5, 4, 4)).numpy()
    assert np.ptp(volume, axis=0).max() == 0


def test_normalising_is_over_the_whole_volume():
    volume = np.zeros((3, 2, 2), dtype=np.float32)
    volume[1] = 1
    volume[2] = 4
    tube = tube_of(volume)
    assert tube.normalized.max(axis=(1, 2)).tolist() == [0, 0.25, 1]
    assert tube.profile.tolist() == [0, 0.25, 1]


def test_the_profile_is_the_mean_over_each_frame():
    assert tube_of(np.array([[[0.0, 4.0]], [[1.0, 1.0]]])).profile.tolist() == [0.5, 0.25]


def test_signed_values_are_kept():
    tube = tube_of(np.array([[[-3.0, -1.0]]]))
    assert tube.volume.min() == -3
    assert tube.normalized.tolist() == [[[0, 1]]]


def test_a_constant_volume_has_no_contrast():
    tube = tube_of(np.full((2, 3, 3), 7.0))
    assert not tube.normalized.any()


def test_peak_and_repr():
    volume = np.zeros((4, 5, 6))
    volume[2, 3, 4] = 2
    tube = tube_of(volume, label="stir", tau=0.25)
    assert tube.peak == (2, 3, 4)
    assert repr(tube) == "<Tube of 'stir': 4×5×6, 0 to 2, τ = 0.25, 3 of 3 kept>"
    volume[0, 0, 0] = np.nan
    assert "NaN" in repr(tube_of(volume))


def test_elementwise_weights_weigh_every_voxel():
    maps, _ = random_maps(channels=3)
    weights = np.random.default_rng(2).standard_normal(maps.shape).astype(np.float32)
    low, _ = activation_map(torch.from_numpy(maps), torch.from_numpy(weights))
    np.testing.assert_allclose(low.numpy(), (maps * weights).sum(0), atol=1e-5)


def test_centred_cells_lie_at_the_middle_of_their_share():
    low = torch.zeros(4, 5, 5)
    low[1, 3, 1] = 1.0
    ends, centred = (upsample(low, (16, 30, 30), each).numpy() for each in (False, True))
    # Cell 1 of 0-3 on 0-15, 3 and 1 of 0-4 on 0-29; or each in the middle of its 4 frames and 6 pixels.
    for volume, place in ((ends, (5, 21.75, 7.25)), (centred, (5.5, 20.5, 8.5))):
        assert (
            np.abs(np.array(np.unravel_index(volume.argmax(), volume.shape)) - place).max() <= 0.75
        )
    expected = scipy.ndimage.zoom(low.numpy(), (4, 6, 6), order=3, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(centred, expected, atol=1e-5)


def test_centred_matrices_keep_a_constant():
    for source, target in ((2, 7), (7, 112), (8, 16), (1, 5)):
        np.testing.assert_allclose(spline_matrix(source, target, True).sum(1), 1, atol=1e-5)
