"""Two networks with the same weights, which explain two batches of a sweep at the same time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sweep_material import CLASSES, SPEC, Tiny, clips, several, tiny

import workbench as wb
from workbench.sweeps import engine


class Uncopied(Tiny):
    """A network of which there can be only one."""

    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("this network cannot be copied")


class Changed(Tiny):
    """A network whose copy gives other answers."""

    def __deepcopy__(self, memo: object) -> Tiny:
        return Tiny(seed=1)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[wb.VideoModel]]:
    """The models that explain the batches of a sweep, which has two threads."""
    found: list[wb.VideoModel] = []
    explain_batch = engine.explain_batch

    def recorded(model, batch, weights):  # type: ignore[no-untyped-def]
        if len(batch) > 1:
            found.append(model)
        return explain_batch(model, batch, weights)

    monkeypatch.setattr(engine, "explain_batch", recorded)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield found
    torch.set_num_threads(threads)


@pytest.mark.parametrize("make", [tiny, several, lambda: tiny(linear=False)])
def test_two_networks_share_a_sweep_and_their_weights(tmp_path, models, monkeypatch, make) -> None:  # type: ignore[no-untyped-def]
    model = make()
    before = copy.deepcopy(model.network.state_dict())
    two = wb.sweep(clips(32), model, tmp_path / "two", batch=2, progress=False)
    assert len({id(each) for each in models}) == 2
    first, second = {id(each): each.network for each in models}.values()
    assert first is not second
    for one, other in zip(first.parameters(), second.parameters()):
        assert one.data_ptr() == other.data_ptr()
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, before[key])

    monkeypatch.setattr(engine, "NETWORKS", 1)
    models.clear()
    one = wb.sweep(clips(32), make(), tmp_path / "one", batch=2, progress=False)
    assert len({id(each) for each in models}) == 1
    for name in one.names:
        np.testing.assert_array_equal(two[name].tube().volume, one[name].tube().volume)


@pytest.mark.parametrize("network", [Uncopied, Changed])
def test_one_network_does_if_its_copy_is_not_the_same(tmp_path: Path, models, network) -> None:  # type: ignore[no-untyped-def]
    model = wb.wrap_model(network().eval(), SPEC, CLASSES, device="cpu")
    store = wb.sweep(clips(12), model, tmp_path / "store", batch=2, progress=False)
    assert len(store) == 12
    assert {id(each) for each in models} == {id(model)}
