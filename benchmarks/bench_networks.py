"""What an explanation with its tube costs on other networks than MFNet, against a bare eager forward pass.

    python benchmarks/bench_networks.py [--pairs 7] [networks]

Random weights, each network at the size that it was trained for, on the CPU unless there is a GPU. The two take turns,
so that the ratio holds when the machine's speed drifts; what is learnt on the first two clips (layer, memory format) is
not counted, as it is learnt once. Networks of packages that are not installed are left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from clock import seconds

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from networks import NETWORKS, Network, frames_of, randomised, spec, video

import workbench as wb
from workbench.models.networks.mfnet import MFNet3d

PAIRS = 7
SECONDS = 20.0  # for the pairs of one network; slow ones make do with fewer, but never fewer than 3
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
    "tsn resnet50": Network(frames_of("resnet50"), spec(8, 224), "backbone.layer4", (8, 7, 7)),
}


def measure(network: Network, pairs: int) -> tuple[wb.Explanation, list[float], list[float], bool]:
    """Return an explanation, the seconds of bare passes, those of explanations over them, and whether channels last."""
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

    ex = wb.explain(model, x)  # warms up, too
    explained()
    bare()
    both = 2 * seconds(bare)
    count = max(min(pairs, 3), min(pairs, int(SECONDS / both)))
    bares, ratios = [], []
    for number in range(count):  # in turn, so that neither is always the second
        first = seconds(bare) if number % 2 else None
        total = seconds(explained)
        bares.append(seconds(bare) if first is None else first)
        ratios.append(total / bares[-1])
    return ex, bares, ratios, any(model._faster_last.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument(
        "networks", nargs="*", metavar="network", help=f"{', '.join(TIMED)}; none: all"
    )
    asked = parser.parse_args()
    unknown = set(asked.networks) - set(TIMED)
    if unknown:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(TIMED)}")
    warnings.filterwarnings("ignore", module="torch|pytorchvideo")
    print(f"{'network':<16}{'input':>12}  {'exact':<6}{'residual':>9}{'bare ms':>9}", end="")
    print(f"  {'explain + tube / bare':<24}{'pairs':>6}  {'memory':<14}layer")
    for name in asked.networks or TIMED:
        network = TIMED[name]
        if importlib.util.find_spec(network.needs) is None:
            print(f"{name:<16}{network.needs} is not installed")
            continue
        ex, bares, ratios, lent = measure(network, asked.pairs)
        size = f"{network.input.frames}×{network.input.resize[0]}²"
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        told = f"{middle:.3f} ({low:.3f}–{high:.3f})"
        print(f"{name:<16}{size:>12}  {'yes' if ex.exact else 'no':<6}", end="")
        print(
            f"{'' if not ex.exact else format(ex.residual, '.0e'):>9}{1000 * statistics.median(bares):>9.0f}",
            end="",
        )
        print(
            f"  {told:<24}{len(ratios):>6}  {'channels last' if lent else 'as it is':<14}{ex.layer}",
            flush=True,
        )
        del ex
        gc.collect()


if __name__ == "__main__":
    main()
