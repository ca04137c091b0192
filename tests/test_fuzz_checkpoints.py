"""A short run of the checkpoint fuzzer; `make fuzz` makes a long one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fuzz import checkpoints


@pytest.mark.slow
def test_damaged_checkpoints_load_or_are_refused_with_their_path():
    rows = checkpoints.run(seed=22, count=20)
    assert len(rows) == 20
    assert [f"{row.case}: {row.outcome}: {row.detail}" for row in rows if row.bad] == []
    assert {row.outcome for row in rows} == {"loaded", "ValueError"}


def test_the_same_seed_makes_the_same_checkpoint(tmp_path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        rng = np.random.default_rng([0, 3])
        mutation, path = checkpoints.mutate(tmp_path / name, rng, tmp_path / "ran")
        made.append((mutation, path.read_bytes()))
    assert made[0] == made[1]


def test_the_valid_checkpoints_load(tmp_path):
    for make in (checkpoints.mfnet, checkpoints.epic55, checkpoints.epic100):
        path = tmp_path / f"{make.__name__}.pth"
        torch.save(make(), path)
        assert checkpoints.load(path) == ("loaded", "")
