"""The proof of place on networks whose layouts are known: hits, misses, and wrong layouts called proved.

    python -m benchmarks place
    python benchmarks/bench_place.py [--steps 60] [--gently] [--csv FILE] [networks]

Every network of tests/placed_networks.py, with random weights and (hand-written ones) trained for some steps, and the
small transformers whose trained weights are shipped. For each, the layer's response to the disturbed clip is scored
under the right layout and under every wrong one, and the layer search is run. With `--gently`, patches disturb the
clip in place of noise. A layout is called proved if `place.proved_score` says so and it fits the clip.
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
from placed_networks import PLACED, ROW, ROW_READINGS, STUDY, Placed, made, wrong_layouts

import workbench as wb
from workbench.models import video_model
from workbench.saliency.layer_search import choose_layers
from workbench.saliency.layouts import Layout, fits
from workbench.saliency.place import Response, place_score, proved_score, respond
from workbench.studies.transformer_study import study_clips

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


def responses_of(
    model: wb.VideoModel, placed: Placed, x: torch.Tensor, gently: bool = False
) -> Response:
    """Return what the layer gives for the clip and with each half disturbed."""
    call = placed.site

    def take(x: torch.Tensor) -> dict:
        return {call: model.run(x, [call]).taken[call][0]}

    return respond(take, x, gently=gently)[call]


def judged(response: Response, layout: Layout, x: torch.Tensor) -> bool:
    """Return whether a layout would be called proved."""
    return fits(layout.grid, tuple(x.shape[2:])) and proved_score(response, layout) is not None


def same(layout: Layout, right: Layout, shape: tuple[int, ...]) -> bool:
    """Return whether two layouts read the same voxels in the same order."""
    index = torch.arange(torch.Size(shape).numel()).view(shape)
    one, other = layout.arranged(index), right.arranged(index)
    return one.shape == other.shape and torch.equal(one, other)


def examine(
    name: str, placed: Placed, steps: int = 0, *, gently: bool = False
) -> dict[str, object]:
    """Return what the proof says of one network, under every layout, and what the search chooses."""
    if placed in STUDY.values():
        model = wb.wrap_model(placed.build().eval(), placed.input)
        x = model.prepare(study_clips(1)[0])[1]
    else:
        module = made(placed)
        if steps:
            module = trained(module, placed, steps)
        model = wb.wrap_model(module, placed.input)
        x = clip_for(placed.input, seed=1)
    response = responses_of(model, placed, x, gently)
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
    }


def examine_row(gently: bool = False) -> dict[str, object]:
    """Return the same for frames in a row, which no layout fits."""
    model = wb.wrap_model(made(ROW), ROW.input)
    x = clip_for(ROW.input, seed=1)
    response = responses_of(model, ROW, x, gently)
    proved = sum(judged(response, layout, x) for layout in ROW_READINGS)
    return {
        "family": ROW.family, "network": "frames in a row (no layout is right)", "score": np.nan,
        "right proved": np.nan, "wrong": len(ROW_READINGS), "wrong proved": proved,
        "worst": max(place_score(response, layout) for layout in ROW_READINGS), "search": "",
    }  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a family: networks, hits, unknown, wrong layouts, and those called proved.

    "search" counts what the layer search made of each network, which may take an earlier layer.
    """
    rows = []
    for family, part in [*table.groupby("family", sort=False), ("all", table)]:
        networks = part[part["search"] != ""]  # all but the frames in a row
        proved = networks["right proved"].astype(bool)
        rows.append(
            {
                "networks": family,
                "how many": len(networks),
                "right layout proved": int(proved.sum()),
                "unknown": int((~proved).sum()),
                "wrong layouts": int(part["wrong"].sum()),
                "called proved": int(part["wrong proved"].sum()),
                "best wrong score": part["worst"].max(),
                "search: place proved": int(networks["search"].isin(["right", "proved"]).sum()),
                "search: unknown": int((networks["search"] == "unknown").sum()),
                "search: wrong": int((networks["search"] == "WRONG").sum()),
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns)]
    rows += [
        [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row]
        for row in table.itertuples(index=False)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of training; 0: random only")
    parser.add_argument("--csv", help="write the rows to this file")
    parser.add_argument("--libraries", action="store_true", help="only networks of libraries")
    parser.add_argument("--gently", action="store_true", help="disturb by patches, not by noise")
    parser.add_argument("networks", nargs="*", metavar="network", help="none: all")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    video_model.faster_channels_last = lambda *_: False  # not what is measured here
    rows = []
    for name, placed in {**PLACED, **{f"study: {n}": p for n, p in STUDY.items()}}.items():
        if (asked.networks and name not in asked.networks) or (asked.libraries and placed.trains):
            continue
        for steps in (0, asked.steps) if placed.trains and asked.steps else (0,):
            rows.append(examine(name, placed, steps, gently=asked.gently))
            row = rows[-1]
            print(
                f"{name:<36}{'trained' if 'trained' in row['family'] else 'random':<8} score {row['score']:.3f}  wrong layouts "
                f"{row['wrong proved']}/{row['wrong']} proved, best {row['worst']:.2f}  search {row['search']}",
                flush=True,
            )
    if not asked.networks:
        rows.append(examine_row(asked.gently))
    table = pd.DataFrame(rows)
    if asked.csv:
        table.to_csv(asked.csv, index=False)
    print(markdown(summary(table)))


if __name__ == "__main__":
    main()
