"""What an explanation with its tube costs against a bare eager forward pass: a table of networks.

    python -m benchmarks networks
    python benchmarks/bench_networks.py [--minutes 4] [networks]

Random weights, each network at the size that it was trained for, on the CPU unless there is a GPU. The two take turns,
so that the ratio holds when the machine's speed drifts. What is learnt on the first clip (layer, place) is not counted,
as it is learnt once. Networks of packages that are not installed are left out.

Kinds: "exact" needs no gradients; "head" needs those of the layers behind the last map; "all blocks" those of the whole
network, for relevance.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from clock import now, seconds

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from networks import NETWORKS, Network, frames_of, randomised, spec, video

import workbench as wb
from workbench.models.networks.mfnet import MFNet3d

PAIRS = (3, 25)  # at least and at most; how many there are depends on the time left
BOUNDS = {"exact": 1.1, "head": 1.1, "all blocks": 2.2}
KINETICS = spec(16, 112)
VIT = {
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
}


def transformer(kind: str, **options: object) -> Callable[[], torch.nn.Module]:
    """Return a builder of one of transformers' video classifiers, as wide and deep as ViT-S."""

    def build() -> torch.nn.Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**{**VIT, **options})
        return transformers.AutoModelForVideoClassification.from_config(config)

    return build


def clips(frames: int, side: int) -> wb.InputSpec:
    """Return how transformers' video classifiers take clips."""
    return spec(frames, side, time_first=True, keyword="pixel_values")


def tokens(frames: int, build: Callable[[], torch.nn.Module]) -> Network:
    """Return how one of transformers' video classifiers is timed, at 112×112 pixels."""
    return Network(build, clips(frames, 112), "", (8, 7, 7), needs="transformers")


TIMED: dict[str, Network] = {
    "mfnet3d": Network(lambda: MFNet3d(400), spec(16, 224), "tail", (8, 7, 7)),
    "r3d_18": Network(video("r3d_18"), KINETICS, "layer4", (2, 7, 7)),
    "r2plus1d_18": Network(video("r2plus1d_18"), KINETICS, "layer4", (2, 7, 7)),
    "mc3_18": Network(video("mc3_18"), KINETICS, "layer4", (16, 7, 7)),
    "s3d": Network(video("s3d"), spec(16, 224), "features", (2, 7, 7)),
    "swin3d_t": Network(video("swin3d_t"), spec(16, 224), "norm", (8, 7, 7)),
    **{name: NETWORKS[name] for name in ("mvit_v2_s", "x3d_s", "slow_r50", "slowfast_r50")},
    "videomae mean": tokens(16, transformer("VideoMAE", image_size=112, use_mean_pooling=True)),
    "videomae": tokens(16, transformer("VideoMAE", image_size=112, use_mean_pooling=False)),
    "vivit": tokens(16, transformer("Vivit", image_size=112, num_frames=16)),
    "timesformer": tokens(8, transformer("Timesformer", image_size=112, num_frames=8)),
    "vjepa2": Network(
        transformer("VJEPA2", crop_size=112, frames_per_clip=16, pred_num_hidden_layers=1),
        spec(16, 112, time_first=True, keyword="pixel_values_videos"),
        "",
        (8, 7, 7),
        needs="transformers",
    ),
    "tsn resnet50": Network(frames_of("resnet50"), spec(8, 224), "backbone.layer4", (8, 7, 7)),
}


def measure(network: Network, until: float) -> tuple[wb.Explanation, list[float], list[float]]:
    """Return an explanation, the seconds of bare passes, and those of explanations over them.

    `until`: when to stop, on the clock, if there are enough of them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    module = randomised(network.build().eval(), network.input).to(device)
    model = wb.wrap_model(module, network.input)
    x = torch.randn(1, 3, network.input.frames, *network.input.resize, device=device)

    def bare() -> None:
        with torch.no_grad():
            module(network.input.arrange(x))

    def explained() -> None:
        wb.explain(model, x).tube()

    ex = wb.explain(model, x)  # finds the layer
    explained()
    bare()
    bares, ratios = [], []
    for number in range(PAIRS[1]):  # in turn, so that neither is always the second
        if number >= PAIRS[0] and now() > until:
            break
        first = seconds(bare) if number % 2 else None
        total = seconds(explained)
        bares.append(seconds(bare) if first is None else first)
        ratios.append(total / bares[-1])
    return ex, bares, ratios


def kind_of(ex: wb.Explanation) -> str:
    """Return through how much of the network gradients run."""
    if ex.exact:
        return "exact"
    return "all blocks" if ex.weighting.kind == "relevance" else "head"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=4, help="for all networks (default: 4)")
    parser.add_argument(
        "networks", nargs="*", metavar="network", help=f"{', '.join(TIMED)}; none: all"
    )
    asked = parser.parse_args()
    unknown = set(asked.networks) - set(TIMED)
    if unknown:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(TIMED)}")
    warnings.filterwarnings("ignore", module="torch|pytorchvideo")
    print(
        "| network | input | kind | bare, ms | explain + tube / bare | quartiles | pairs | bound | layer |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    names = [
        name for name in asked.networks or TIMED if importlib.util.find_spec(TIMED[name].needs)
    ]
    start = now()
    for number, name in enumerate(names, start=1):
        network = TIMED[name]
        # Whatever a network leaves of its share of the time, the next ones may use.
        ex, bares, ratios = measure(network, start + 60 * asked.minutes * number / len(names))
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        kind = kind_of(ex)
        size = f"{network.input.frames}×{network.input.resize[0]}²"
        kept = "kept" if middle <= BOUNDS[kind] else "MISSED"
        print(
            f"| {name} | {size} | {kind} | {1000 * np.median(bares):.0f} | {middle:.2f} | {low:.2f}–{high:.2f} | "
            f"{len(ratios)} | {BOUNDS[kind]:.2f} {kept} | `{ex.layer}` |",
            flush=True,
        )
        del ex
        gc.collect()
    left_out = set(asked.networks or TIMED) - set(names)
    print(f"\n{now() - start:.0f} s. Not installed: {', '.join(sorted(left_out)) or 'none'}.")


if __name__ == "__main__":
    main()
