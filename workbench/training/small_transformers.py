"""The recipe that trains the small transformers of `models.networks.small_video` on gratings.

They learn from fresh clips in minutes of one core. The study of transformers explains them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from tqdm.auto import tqdm

from ..clips.sampling import frame_indices
from ..datasets.gratings import GRATINGS, Gratings, draw_gratings
from ..datasets.samples import FOLDER
from ..models.networks.small_video import SMALL_VIDEO
from ..models.video_model import VideoModel
from ..models.wrapping import wrap_model
from .sample_networks import save_weights

__all__ = [
    "RECIPES",
    "Recipe",
    "small_transformer",
    "train_small_transformer",
    "train_small_transformers",
    "trained_families",
]

TRAINED = FOLDER.parent / "study" / "transformers"  # the shipped weights
TRAINING = 1_000  # seeds of training begin with it; those of measuring are single numbers
EASY = 0.35  # share of the steps with larger gratings: without them, 300 steps learn nothing
BATCH = 16
MEASURED = 400  # clips, for the accuracy that is recorded
MEASURING_SEED = 1


@dataclass(frozen=True)
class Recipe:
    """How the small network of a family is trained: steps of `BATCH` clips, highest rate."""

    steps: int = 400
    rate: float = 2e-3


RECIPES = dict.fromkeys(SMALL_VIDEO, Recipe()) | {
    "VideoMAE, mean": Recipe(steps=600),
    "VideoMAE, class token": Recipe(steps=600),
    "TimeSformer, divided": Recipe(steps=600),
    "ViViT": Recipe(steps=500),
    "X-CLIP": Recipe(steps=900),
    "Hiera": Recipe(steps=300),
    "Swin": Recipe(steps=600),
    "MViT": Recipe(steps=600),
}


def small_transformer(family: str, *, trained: bool = True) -> VideoModel:
    """Return the small network of a family, with the shipped weights or with random ones.

    Raises:
        KeyError: no such family; the message lists them.
        FileNotFoundError: no trained weights; they come with the repository, not the package.
        ValueError: the weights are not those of the record beside them.
    """
    if family not in SMALL_VIDEO:
        raise KeyError(f"no family {family!r}; there are {', '.join(SMALL_VIDEO)}")
    module = SMALL_VIDEO[family].build(GRATINGS)
    if trained:
        file = TRAINED / f"{file_name(family)}.safetensors"
        if not file.is_file():
            raise FileNotFoundError(
                f"no weights at {file}: work in a checkout of the repository, or run "
                f'`python -m workbench train-transformers "{family}"`'
            )
        content = file.read_bytes()
        expected = json.loads(file.with_suffix(".json").read_text())["sha256"]
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"{file} is damaged: its SHA-256 is not that of its record")
        module.load_state_dict(safetensors.torch.load(content))
    spec = SMALL_VIDEO[family].input
    return wrap_model(module.eval(), spec, GRATINGS, device="cpu", name=f"small {family}")


def trained_families() -> list[str]:
    """Return the families whose trained weights are shipped."""
    return [
        family for family in SMALL_VIDEO if (TRAINED / f"{file_name(family)}.safetensors").is_file()
    ]


def train_small_transformer(
    family: str, *, steps: int | None = None, seed: int = 0, progress: bool = True
) -> tuple[VideoModel, list[float]]:
    """Train the small network of a family on fresh gratings: AdamW, one-cycle rate, soft targets.

    The first third of the clips are easy ones. Takes one to three minutes on a core.

    Args:
        family: of `models.networks.small_video.SMALL_VIDEO`.
        steps: of 16 clips; None: as many as the family needs.
        seed: of weights and clips.
        progress: whether to show a bar.

    Returns:
        The model, and the loss of every step.
    """
    torch.manual_seed(seed)
    model = small_transformer(family, trained=False)
    recipe = RECIPES[family]
    steps = steps or recipe.steps
    module = model.module.train()
    rng = np.random.default_rng([TRAINING, seed])
    optimizer = torch.optim.AdamW(module.parameters(), lr=recipe.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=steps, pct_start=0.2
    )
    losses = []
    for step in tqdm(range(steps), desc=family, disable=not progress):
        drawn = draw_gratings(BATCH, rng, easy=step < EASY * steps)
        loss = nn.functional.cross_entropy(_logits(model, drawn), torch.tensor(drawn.targets()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    module.eval()
    return model, losses


def train_small_transformers(
    families: Sequence[str] = (), folder: str | Path = TRAINED, progress: bool = True
) -> Path:
    """Train the families, or all of them, and write weights (in half precision) and record.

    The record of a family has steps, loss, and what share of 400 unseen clips the network names.
    Returns the folder.
    """
    for family in families or SMALL_VIDEO:
        model, losses = train_small_transformer(family, progress=progress)
        # What is measured is what is shipped.
        model.module.half().float()
        means = np.array(losses[: len(losses) // 50 * 50]).reshape(-1, 50).mean(1)
        save_weights(
            model,
            folder,
            file_name(family),
            half=True,
            family=family,
            parameters=sum(p.numel() for p in model.module.parameters()),
            steps=len(losses),
            loss_per_50_steps=means.round(3).tolist(),
            **share_named(model),
        )
    return Path(folder)


def share_named(model: VideoModel, clips: int = MEASURED) -> dict[str, float]:
    """Return how often a network is right on unseen clips.

    `named`: the first answer is a class of the clip. `both_named`: the two first answers are the
    two classes of a pair.
    """
    rng = np.random.default_rng(MEASURING_SEED)
    named, both = [], []
    for _ in range(0, clips, 40):
        drawn = draw_gratings(40, rng)
        with torch.no_grad():
            first, second = _logits(model, drawn).topk(2).indices.T.numpy()
        shown = drawn.targets() > 0
        rows = np.arange(len(shown))
        named.append(shown[rows, first])
        both.append((shown[rows, first] & shown[rows, second])[shown.sum(1) == 2])
    return {
        "named": float(np.concatenate(named).mean()),
        "both_named": float(np.concatenate(both).mean()),
    }


def file_name(family: str) -> str:
    """Return a family's name as that of a file: `VideoMAE, mean` is `videomae_mean`."""
    words = family.lower().replace(",", " ").replace("-", "").replace("+", " ").split()
    return "_".join(words)


def _logits(model: VideoModel, drawn: Gratings) -> torch.Tensor:
    """Return (N, classes), with gradients: `model.run` has none, and networks train here."""
    spec = model.input
    chosen = frame_indices(0, drawn.frames.shape[1], spec.frames, None)
    x = spec.arrange(spec.normalise(torch.from_numpy(drawn.frames[:, chosen])))
    answer = model.module(**{spec.keyword: x}) if spec.keyword else model.module(x)
    return answer if isinstance(answer, torch.Tensor) else answer.logits
