"""Training: the small networks of the samples, from scratch, on clips that are drawn as they are needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..clips.sampling import frame_indices
from ..datasets.samples import CLASSES, DURATION, FPS, TRAINING_SEEDS, draw_scene
from ..datasets.scenes import render
from ..models.memory_formats import channels_last, to_channels_last
from ..models.networks.mfnet import MFNet3d
from ..models.networks.small_resnet import SmallResNet
from ..models.networks.tsn import TSN
from ..models.video_model import VideoModel, wrap_model
from ..models.zoo import SAMPLES_INPUT, SAMPLES_MFNET, WEIGHTS

__all__ = [
    "RECIPE",
    "TSN_RECIPE",
    "Stage",
    "record",
    "sample_batches",
    "save_weights",
    "small_mfnet",
    "small_tsn",
    "train_on_samples",
]


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one picture size.

    A one-cycle schedule of `steps` steps of `batch` clips that peaks at `rate` after the share `warmup`; `stop` breaks
    it off after so many steps. `mix` gives the share of each split among the clips; `frames` are drawn of each clip,
    spread over it.
    """

    pixels: int
    steps: int
    batch: int
    rate: float
    warmup: float = 0.15
    stop: int | None = None
    mix: Mapping[str, float] = field(
        default_factory=lambda: {"decorrelated": 0.4, "edge": 0.3, "pair": 0.3}
    )
    frames: int = 16


# What made `samples/mfnet`. No iid clips: a network that may not cheat by appearance has to look at the motion.
RECIPE = (
    Stage(64, 2400, 16, 3e-3, stop=1200, mix={"decorrelated": 0.45, "edge": 0.25, "pair": 0.3}),
    Stage(64, 1000, 16, 2e-3),
    Stage(112, 500, 16, 1.5e-3),
    Stage(112, 600, 16, 1.5e-3),  # until open and close were told apart
    Stage(112, 600, 16, 1.5e-3, mix={"decorrelated": 0.35, "edge": 0.2, "pair": 0.45}),
)
# What made `samples/tsn`: iid clips, whose appearance it may cheat by. It sees no motion, and on clips without that
# hint it would have nothing to learn.
TSN_RECIPE = (
    Stage(64, 600, 16, 3e-3, mix={"iid": 1.0}, frames=8),
    Stage(112, 400, 16, 1.5e-3, mix={"iid": 1.0}, frames=8),
)


def small_mfnet() -> VideoModel:
    """Return the small MFNet-3D of the samples with random weights: 0.54 M parameters, maps of 8×7×7."""
    return wrap_model(
        MFNet3d(len(CLASSES), **SAMPLES_MFNET), SAMPLES_INPUT, CLASSES, name="small MFNet"
    )


def small_tsn() -> VideoModel:
    """Return the small TSN of the samples with random weights: 0.60 M parameters, maps of 7×7 on every frame."""
    return wrap_model(TSN(SmallResNet(len(CLASSES))), SAMPLES_INPUT, CLASSES, name="small TSN")


def record(name: str = "mfnet") -> dict[str, Any]:
    """Return what is recorded of a shipped network: recipe, loss per 50 steps, and what was measured of it.

    Raises FileNotFoundError where no such network is shipped.
    """
    return json.loads((WEIGHTS / f"{name}.json").read_text())


def sample_batches(stage: Stage, *, first_seed: int = 0, workers: int = 2) -> DataLoader:
    """Return an endless loader of fresh sample clips: (N, T, H, W, 3) uint8 and targets (N, classes) float32.

    A clip of one action has a one-hot target, a pair the half of each. Every clip has a seed of its own, from
    `TRAINING_SEEDS + first_seed` on: none is seen twice, and none of them is ever measured on.
    """
    return DataLoader(_Stream(stage, first_seed), batch_size=stage.batch, num_workers=workers)


class _Stream(IterableDataset):
    def __init__(self, stage: Stage, first_seed: int) -> None:
        self.stage, self.first_seed = stage, first_seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        info = get_worker_info()
        number, step = (0, 1) if info is None else (info.id, info.num_workers)
        splits, shares = list(self.stage.mix), np.array(list(self.stage.mix.values()))
        indices = frame_indices(0, round(DURATION * FPS), self.stage.frames, None)
        size = (self.stage.pixels, self.stage.pixels)
        while True:
            seed = TRAINING_SEEDS + self.first_seed + number
            rng = np.random.default_rng(seed)
            scene = draw_scene(
                str(rng.choice(CLASSES)), seed, str(rng.choice(splits, p=shares / shares.sum()))
            )
            target = np.zeros(len(CLASSES), dtype=np.float32)
            for actor in scene.acting:
                target[CLASSES.index(str(actor.action))] += 1 / len(scene.acting)
            yield render(scene, indices, FPS, size).frames, target
            number += step


def train_on_samples(
    model: VideoModel,
    stages: Sequence[Stage] = RECIPE,
    *,
    decay: float = 0.05,
    smoothing: float = 0.05,
    first_seed: int = 0,
    report: Callable[[dict[str, Any]], None] | None = None,
    workers: int = 2,
) -> VideoModel:
    """Train a model on fresh sample clips, stage by stage: AdamW, a one-cycle rate, soft targets.

    Args:
        model: one whose classes are `wb.samples.CLASSES`; its network is trained in place, and left in eval mode.
        stages: picture sizes and steps, in order.
        decay, smoothing: of the weights and of the targets.
        first_seed: of the clips, counted from `TRAINING_SEEDS`.
        report: called after every step with stage, step, loss and accuracy.
        workers: processes that draw clips.

    Raises:
        ValueError: the model's classes are others.
    """
    if tuple(model.classes or ()) != CLASSES:
        raise ValueError(
            f"expected a model with the classes {', '.join(CLASSES)}, got {model.classes}"
        )
    module = to_channels_last(model.module.train())
    for number, stage in enumerate(stages):
        loader = sample_batches(stage, first_seed=first_seed, workers=workers)
        first_seed += 2 * stage.steps * stage.batch  # workers run ahead
        optimizer = torch.optim.AdamW(module.parameters(), lr=stage.rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, stage.rate, total_steps=stage.steps, pct_start=stage.warmup
        )
        for step, (frames, target) in zip(range(stage.stop or stage.steps), loader):
            x = channels_last(model.input.normalise(frames.to(model.device)))
            logits = module(x)
            loss = nn.functional.cross_entropy(
                logits, target.to(logits.device), label_smoothing=smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            if report is not None:
                hits = target.gather(1, logits.argmax(1, keepdim=True).cpu()) > 0
                report(
                    {
                        "stage": number,
                        "step": step,
                        "loss": loss.item(),
                        "accuracy": hits.float().mean().item(),
                    }
                )
    module.eval()
    return model


def save_weights(model: VideoModel, folder: str | Path, name: str, **facts: Any) -> Path:
    """Write a model's weights as safetensors, and beside them a JSON file with hash, classes and `facts`."""
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().cpu().contiguous() for key, value in model.module.state_dict().items()
    }
    safetensors.torch.save_file(state, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    facts = {"sha256": digest, "classes": model.classes, **facts}
    file.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    return file


def _recipe(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    return [{**asdict(stage), "mix": dict(stage.mix)} for stage in stages]


SHIPPED = {"mfnet": (small_mfnet, RECIPE), "tsn": (small_tsn, TSN_RECIPE)}

if __name__ == "__main__":  # makes a shipped network anew: python -m workbench.training tsn
    import sys

    from tqdm import tqdm

    name = sys.argv[1]
    build, stages = SHIPPED[name]
    torch.manual_seed(0)
    curve: list[dict[str, Any]] = []
    with tqdm(total=sum(stage.stop or stage.steps for stage in stages)) as bar:

        def tell(step: dict[str, Any]) -> None:
            curve.append(step)
            bar.update()
            bar.set_postfix(loss=f"{step['loss']:.3f}", accuracy=f"{step['accuracy']:.2f}")

        trained = train_on_samples(build(), stages, report=tell)
    losses = [
        round(float(np.mean([c["loss"] for c in curve[i : i + 50]])), 3)
        for i in range(0, len(curve), 50)
    ]
    print(save_weights(trained, WEIGHTS, name, recipe=_recipe(stages), loss_per_50_steps=losses))
