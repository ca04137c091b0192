"""What only a GPU can show; `make gpu` runs these where there is one."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sweep_material import clips, tiny

import workbench as wb

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA"),
]


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, the default of cuDNN, rounds to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def on_gpu(model: wb.VideoModel, precision: torch.dtype | None = None) -> wb.VideoModel:
    module = copy.deepcopy(model.module).cuda()
    return wb.wrap_model(module, model.input, model.classes, precision=precision)


def relative(tube: wb.Tube, expected: wb.Tube) -> float:
    """The largest difference, as a share of the expected range."""
    return float(np.abs(tube.volume - expected.volume).max() / np.ptp(expected.volume))


@pytest.fixture(scope="module")
def model() -> wb.VideoModel:
    return wb.load_model("samples/mfnet", device="cpu")


@pytest.fixture(scope="module")
def clip() -> wb.Clip:
    return wb.samples.make_clip("stir", 3)


def test_tubes_are_those_of_the_cpu(model: wb.VideoModel, clip: wb.Clip) -> None:
    expected, ex = wb.explain(model, clip), wb.explain(on_gpu(model), clip)
    assert ex.maps[0].is_cuda
    assert ex.exact == expected.exact
    assert ex.layer == expected.layer
    for target, tau in ((None, None), ("open", 0.02), (3, -0.05)):
        assert relative(ex.tube(target, tau=tau), expected.tube(target, tau=tau)) < 1e-4


def test_gradient_tubes_are_those_of_the_cpu(clip: wb.Clip) -> None:
    model = tiny(linear=False)
    for kind in ("gradient", "gradient++", "layer"):
        expected = wb.explain(model, clip, kind).tube()
        assert relative(wb.explain(on_gpu(model), clip, kind).tube(), expected) < 1e-3


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(
    model: wb.VideoModel, clip: wb.Clip, precision: torch.dtype
) -> None:
    expected = wb.explain(model, clip).tube("stir")
    tube = wb.explain(on_gpu(model, precision), clip).tube("stir")
    assert relative(tube, expected) < 2e-2


def test_a_sweep_keeps_the_gpu_busy(tmp_path: Path) -> None:
    model = wb.load_model("mfnet3d")
    assert model.device.type == "cuda"
    data = clips(256)
    _, x = model.prepare(data[0].resize(256, 256).select(np.arange(16) % 8))
    x = x.repeat(16, 1, 1, 1, 1)
    model.run(x)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(16):
        model.run(x)
    torch.cuda.synchronize()
    bare = 256 / (time.perf_counter() - begin)
    long = wb.Dataset(data.index, data.classes, _sixteen_frames)
    wb.sweep(long.subset(data.index.index[:16]), model, tmp_path, batch=16, progress=False)
    begin = time.perf_counter()
    store = wb.sweep(long, model, tmp_path, batch=16, progress=False)
    rate = 240 / (time.perf_counter() - begin)
    assert len(store) == 256
    print(f"bare {bare:.0f} clips/s, sweep {rate:.0f} clips/s")
    assert rate > 0.5 * bare


def _sixteen_frames(row, frames, stride):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(row["seed"])
    pixels = rng.integers(0, 255, (16, 240, 320, 3), dtype=np.uint8)
    return wb.Clip(pixels, 25, name=str(row.name), label=row["class"])


def test_a_sweep_frees_its_gpu_memory(tmp_path: Path) -> None:
    model = on_gpu(tiny(linear=False))
    wb.sweep(clips(8), model, tmp_path, batch=4, progress=False)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    wb.sweep(clips(200), model, tmp_path, batch=4, progress=False)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 2**20


def test_a_store_made_on_a_gpu_opens_without_one(tmp_path: Path) -> None:
    store = wb.sweep(clips(8), on_gpu(tiny()), tmp_path, batch=4, progress=False)
    ex = store["clip_003"]
    assert ex.maps[0].device.type == "cpu"
    expected = wb.explain(tiny(), clips().read("clip_003")).tube(ex.class_id())
    assert relative(ex.tube(), expected) < 2e-3
