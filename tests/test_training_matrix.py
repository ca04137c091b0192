"""The training matrix: alike but for one thing, reproducible, and measured by clip and by action."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from workbench.datasets.samples import SPLITS
from workbench.studies import training_matrix as matrix
from workbench.training import sample_networks
from workbench.training.sample_networks import SHIPPED, TSN_RECIPE, Stage, tsn_stages

TINY = (Stage(32, 2, 2, 1e-3, mix={"iid": 1.0}, frames=8),)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_networks, "TSN_RECIPE", TINY)


def test_cells_differ_in_network_data_and_seed_only() -> None:
    assert len(matrix.CELLS) == 12
    assert {cell.name for cell in matrix.CELLS} >= {"mfnet_iid_0", "tsn_decorrelated_2"}
    assert tsn_stages("iid", 8) == TSN_RECIPE
    deep = tsn_stages("decorrelated", 16)
    assert [(s.pixels, s.steps, s.rate, s.mix, s.frames) for s in deep] == [
        (s.pixels, s.steps, s.rate, {"decorrelated": 1.0}, 16) for s in TSN_RECIPE
    ]
    assert SHIPPED["mfnet-iid"][1] == tsn_stages("iid", 16)


def test_a_cell_is_trained_by_its_seed(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    drawn = sample_networks.sample_batches

    def batches(stage: Stage, *, first_seed: int, workers: int):  # type: ignore[no-untyped-def]
        seeds.append((stage.mix, stage.frames, first_seed, workers))
        return drawn(stage, first_seed=first_seed, workers=0)

    monkeypatch.setattr(sample_networks, "sample_batches", batches)
    cell = matrix.Cell("tsn", "decorrelated", 1)
    first = matrix.train_cell(cell, tmp_path / "a", progress=False)
    again = matrix.train_cell(cell, tmp_path / "b", progress=False)
    other = matrix.train_cell(matrix.Cell("tsn", "decorrelated", 2), tmp_path, progress=False)
    assert seeds[0] == seeds[1] == ({"decorrelated": 1.0}, 8, 10_000_000, 1)
    assert seeds[2] == ({"decorrelated": 1.0}, 8, 20_000_000, 1)
    weights = [safetensors.torch.load_file(path) for path in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    back = matrix.load_cell(cell, tmp_path / "a").module.state_dict()
    assert all(torch.equal(weights[0][name], back[name]) for name in back)


def test_a_cell_is_measured_by_action(tiny: None, tmp_path: Path) -> None:
    cell = matrix.Cell("mfnet", "iid", 0)
    sample_networks.save_weights(sample_networks.small_mfnet(), tmp_path, cell.name)
    rows = matrix.measure_cell(cell, tmp_path, 2, ("edge", "pair"))
    assert rows["data"].tolist() == ["samples, edge"] * 2 + ["samples, pair"] * 4
    assert rows.groupby("clip")["correct"].nunique().max() == 1
    assert set(matrix.MEASURES) <= set(rows.columns)
    assert (rows["network"] == "mfnet").all()


def test_means_are_over_seeds_with_accuracy_by_clip() -> None:
    rows = pd.DataFrame(
        [
            # One clip of two actions that is right, one of one action that is wrong.
            ("a", 0, 0, True, 0.8), ("a", 1, 0, True, 0.4), ("b", 0, 0, False, 0.6),
            ("a", 0, 1, True, 0.0), ("a", 1, 1, True, 0.3), ("b", 0, 1, True, 0.0),
        ],
        columns=["clip", "action", "seed", "correct", "temporal AUC"],
    )  # fmt: skip
    rows = rows.assign(network="tsn", mix="iid", data="pair")
    rows = rows.assign(**{"temporal variation": 0.5, "points ±5%": True})
    means = matrix.matrix_means(rows).loc[("tsn", "iid", "pair")]
    assert means["correct"].tolist() == [0.75, 0.5, 1.0]
    np.testing.assert_allclose(means["temporal AUC"], [0.35, 0.1, 0.6])


def test_the_record_has_every_cell() -> None:
    rows = matrix.recorded_matrix()
    cells = {matrix.Cell(*which) for which in zip(rows["network"], rows["mix"], rows["seed"])}
    assert cells == set(matrix.CELLS)
    clips = rows.groupby(["network", "mix", "seed", "data"])["clip"].nunique()
    assert len(clips) == len(cells) * len(SPLITS)
    assert (clips >= 100).all()
