"""The proof of place on networks whose layouts are known: hits, misses, and wrong layouts called proved.

    python -m benchmarks place
    python benchmarks/bench_place.py [--steps 60] [--markdown] [networks]

Every network of tests/placed_networks.py, with random weights and (hand-written ones) trained for some steps. For each,
the layer's response to the disturbed clip is scored under the right layout and under every wrong one, and the layer
search is run. A layout is called proved if it fits the clip and scores 0.85 or more. The last column is the gap between
Σ relevance and the logit, as a share of the largest logit: median over classes.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from networks import CLASSES, clip_for
from placed_networks import PLACED, ROW, ROW_READINGS, Placed, made, wrong_layouts

import workbench as wb
from workbench.models import video_model
from workbench.saliency.layer_search import choose_layers
from workbench.saliency.layouts import Layout, fits
from workbench.saliency.place import Response, place_score, proved_score, respond

STEPS = 60
BATCH = 6


def trained(module: nn.Module, placed: Placed, steps: int) -> nn.Module:
    """Train a network to name which of seven tints a box in noise has."""
    generator = torch.Generator().manual_seed(0)
    tints = torch.randn(CLASSES, 3, 1, 1, 1, generator=generator) * 2
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    frames, (height, width) = placed.input.frames, placed.input.resize
    for _ in range(steps):
        classes = torch.randint(CLASSES, (BATCH,), generator=generator)
        x = 0.5 * torch.randn(BATCH, 3, frames, height, width, generator=generator)
        for row, number in enumerate(classes.tolist()):
            t, y, z = (int(torch.randint(n // 2, (), generator=generator)) for n in x.shape[2:])
            x[row, :, t : t + frames // 2, y : y + height // 2, z : z + width // 2] += tints[number]
        loss = nn.functional.cross_entropy(module(placed.input.arrange(x)), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module.eval()


def responses_of(model: wb.VideoModel, placed: Placed, x: torch.Tensor) -> Response:
    """Return what the layer gives for the clip and with each half disturbed."""
    call = placed.site

    def take(x: torch.Tensor) -> dict:
        return {call: model.run(x, [call]).taken[call][0]}

    return respond(take, x)[call]


def judged(response: Response, layout: Layout, x: torch.Tensor) -> bool:
    """Return whether a layout would be called proved."""
    return fits(layout.grid, tuple(x.shape[2:])) and proved_score(response, layout) is not None


def same(layout: Layout, right: Layout, shape: tuple[int, ...]) -> bool:
    """Return whether two layouts read the same voxels in the same order."""
    index = torch.arange(torch.Size(shape).numel()).view(shape)
    one, other = layout.arranged(index), right.arranged(index)
    return one.shape == other.shape and torch.equal(one, other)


def examine(name: str, placed: Placed, steps: int = 0) -> dict[str, object]:
    """Return what the proof says of one network, under every layout, and what the search chooses."""
    module = made(placed)
    if steps:
        module = trained(module, placed, steps)
    model = wb.wrap_model(module, placed.input)
    x = clip_for(placed.input, seed=1)
    response = responses_of(model, placed, x)
    shape = tuple(response.plain.shape)
    wrong = list(wrong_layouts(placed.right, shape))
    (choice,) = choose_layers(model, x).values()
    site = choice.sites[0]
    searched = "unknown" if choice.place is None else "proved"
    chosen = model.run(x, [site.call]).taken[site.call][0]
    # All token layers of a network lie alike, whichever one the search takes.
    if choice.place is not None and tuple(chosen.shape) == shape:
        searched = "right" if same(site.layout, placed.right, shape) else "WRONG"
    return {
        "family": placed.family + (", trained" if steps else ""),
        "network": name,
        "score": place_score(response, placed.right),
        "right proved": judged(response, placed.right, x),
        "wrong": len(wrong),
        "wrong proved": sum(judged(response, layout, x) for layout in wrong),
        "worst": max(
            (place_score(response, w) for w in wrong if fits(w.grid, tuple(x.shape[2:]))),
            default=np.nan,
        ),
        "search": searched,
        "relevance gap": relevance_gap(model, x),
    }


def relevance_gap(model: wb.VideoModel, x: torch.Tensor) -> float:
    """Return by how much Σ relevance misses the logits; NaN for networks without tokens."""
    try:
        ex = wb.explain(model, x, weights="relevance", place=False)
    except (ValueError, NotImplementedError, RuntimeError):
        return float("nan")
    if not ex.weighting.graph.layouts[0].of_tokens:
        return float("nan")
    logits = ex.logits.numpy()
    sums = np.array([ex.weighting.conserved(n) * logits[n] for n in range(len(logits))])
    return float(np.median(np.abs(sums - logits)) / np.abs(logits).max())


def examine_row() -> dict[str, object]:
    """Return the same for frames in a row, which no layout fits."""
    model = wb.wrap_model(made(ROW), ROW.input)
    x = clip_for(ROW.input, seed=1)
    response = responses_of(model, ROW, x)
    proved = sum(judged(response, layout, x) for layout in ROW_READINGS)
    return {
        "family": ROW.family, "network": "frames in a row (no layout is right)", "score": np.nan,
        "right proved": np.nan, "wrong": len(ROW_READINGS), "wrong proved": proved,
        "worst": max(place_score(response, layout) for layout in ROW_READINGS), "search": "",
        "relevance gap": np.nan,
    }  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a family: networks, hits, unknown, wrong layouts, and those called proved."""
    known = table[table["score"].notna() | (table["search"] != "")]
    rows = []
    for family, part in [*known.groupby("family", sort=False), ("all", known)]:
        rows.append(
            {
                "family": family,
                "networks": len(part),
                "right layout proved": int(part["right proved"].sum()),
                "unknown": int((~part["right proved"].astype(bool)).sum()),
                "wrong layouts": int(part["wrong"].sum()),
                "of them proved": int(part["wrong proved"].sum()),
                "search right or earlier": int(part["search"].isin(["right", "proved"]).sum()),
                "search unknown": int((part["search"] == "unknown").sum()),
                "search wrong": int((part["search"] == "WRONG").sum()),
                "relevance gap": part["relevance gap"].median(),
            }
        )
    return pd.DataFrame(rows).set_index("family")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of training; 0: random only")
    parser.add_argument("--csv", help="write the rows to this file")
    parser.add_argument("--libraries", action="store_true", help="only networks of libraries")
    parser.add_argument("networks", nargs="*", metavar="network", help="none: all")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    video_model.faster_channels_last = lambda *_: False  # not what is measured here
    rows = []
    for name, placed in PLACED.items():
        if (asked.networks and name not in asked.networks) or (asked.libraries and placed.trains):
            continue
        for steps in (0, asked.steps) if placed.trains and asked.steps else (0,):
            rows.append(examine(name, placed, steps))
            row = rows[-1]
            print(
                f"{name:<36}{'trained' if steps else 'random':<8} score {row['score']:.3f}  wrong layouts "
                f"{row['wrong proved']}/{row['wrong']} proved, best {row['worst']:.2f}  search {row['search']}",
                flush=True,
            )
    if not asked.networks:
        rows.append(examine_row())
    table = pd.DataFrame(rows)
    if asked.csv:
        table.to_csv(asked.csv, index=False)
    print(summary(table).round(4).to_string())


if __name__ == "__main__":
    main()
