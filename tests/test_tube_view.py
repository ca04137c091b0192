"""The explorer's script computes Python's tubes: the same vectors go through both."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.saliency.tubes import tau_for_share
from workbench.views.explorer.packing import payload

SCRIPTS = Path(__file__).with_name("js")


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found:
        return found
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail("no node: install Node.js 20 or later")
    pytest.skip("no node: install Node.js 20 or later")


def packed(values: np.ndarray) -> dict[str, str]:
    return {"$base64": base64.b64encode(values.astype(np.float32).tobytes()).decode()}


def vectors(name: str, ex: wb.Explanation, targets: Sequence[int]) -> dict[str, Any]:
    """An explanation as the browser gets it, and tubes of it: every target at many τ."""
    tubes = []
    for target in targets:
        weights = ex.channel_weights(target)
        shares = [tau_for_share(weights, share) for share in (0.75, 0.5, 0.1, 1e-9)]
        sliders = np.linspace(float(weights.min()), float(weights.max()), 5)[1:4].tolist()
        for tau in (None, *shares, *sliders):
            tube = ex.tube(target, tau)
            flat = tube.volume.ravel()
            step = max(1, len(flat) // 4001)
            tubes.append(
                {
                    "target": target, "tau": tau, "kept": tube.kept, "low": float(flat.min()),
                    "high": float(flat.max()), "peak": int(flat.argmax()), "step": step,
                    "sampled": packed(flat[::step]), "profile": packed(tube.profile),
                }
            )  # fmt: skip
    features = []
    for channel in (0, sum(map(len, ex.maps)) - 1):
        flat = ex.feature_tube(channel).volume.ravel()
        extent = {"low": float(flat.min()), "high": float(flat.max())}
        features.append({"channel": channel, "step": 7, "sampled": packed(flat[::7]), **extent})
    sent = payload(ex)
    sent["frames"] = []
    return {"name": name, "payload": sent, "tubes": tubes, "features": features}


def linear() -> wb.Explanation:
    model = wb.load_model("samples/mfnet", device="cpu")
    return wb.explain(model, wb.samples.make_clip("stir", seed=3))


def by_gradient(kind: str) -> wb.Explanation:
    model = wb.load_model("samples/mfnet", device="cpu")
    return wb.explain(model, wb.samples.make_clip("open", seed=1), weights=kind)


class TwoPathways(torch.nn.Module):
    """Two pathways whose maps have different grids, joined before a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = torch.nn.Conv3d(3, 6, 3, stride=(1, 8, 8), padding=1)
        self.fast = torch.nn.Conv3d(3, 4, 3, stride=(1, 8, 8), padding=1)
        self.pools = torch.nn.ModuleList(torch.nn.AdaptiveAvgPool3d(1) for _ in range(2))
        self.head = torch.nn.Linear(10, 5)

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        maps = [part(one).relu() for part, one in zip((self.slow, self.fast), x)]
        return self.head(torch.cat([pool(m).flatten(1) for pool, m in zip(self.pools, maps)], 1))


def of_two_pathways(kind: str | None) -> wb.Explanation:
    torch.manual_seed(0)
    spec = wb.InputSpec(frames=16, resize=(48, 64), pathways=(4, 1))
    model = wb.wrap_model(TwoPathways(), spec, list("abcde"))
    return wb.explain(model, wb.samples.make_clip("stir", seed=3), weights=kind)


def test_the_browsers_tubes_are_pythons(node: str, tmp_path: Path) -> None:
    exact, gradient, voxels = linear(), by_gradient("gradient++"), by_gradient("layer")
    cases = [
        vectors("a linear head", exact, range(len(exact.classes))),
        vectors("gradient weights", gradient, range(len(gradient.classes))),
        vectors("weights of single voxels", voxels, range(len(voxels.classes))),
        vectors("two pathways", of_two_pathways(None), range(5)),
        vectors("two pathways, single voxels", of_two_pathways("layer"), range(5)),
    ]
    text = json.dumps(
        cases, default=lambda value: {"$base64": base64.b64encode(bytes(value)).decode()}
    )
    (tmp_path / "vectors.json").write_text(text)
    done = subprocess.run(
        [node, "--test", *map(str, SCRIPTS.glob("*.mjs"))],
        env={**os.environ, "WORKBENCH_VECTORS": str(tmp_path)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.count("the tubes of") >= len(cases)


def test_the_script_has_no_syntax_errors(node: str, tmp_path: Path) -> None:
    script = Path(wb.__file__).parent / "views" / "explorer" / "tube_view.js"
    module = tmp_path / "tube_view.mjs"
    module.write_text(script.read_text())
    done = subprocess.run([node, "--check", str(module)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "</script" not in script.read_text()  # it stands in a page
