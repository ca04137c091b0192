"""The recipes of the shipped networks: trained from scratch on freshly drawn sample clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from ..clips.files import whole_file
from ..clips.sampling import frame_indices
from ..datasets.samples import CLASSES, DURATION, FPS, TRAINING_SEEDS, draw_scene
from ..datasets.scenes import render
from ..models.memory_formats import channels_last, to_channels_last
from ..models.networks.mfnet import MFNet3d
from ..models.networks.small_resnet import SmallResNet
from ..models.networks.tsn import TSN
from ..models.video_model import VideoModel
from ..models.wrapping import wrap_model
from ..models.zoo import SAMPLES_INPUT, SAMPLES_MFNET, WEIGHTS

__all__ = [
    "RECIPE",
    "TSN_RECIPE",
    "Stage",
    "record",
    "retrain",
    "sample_batches",
    "save_weights",
    "small_mfnet",
    "small_tsn",
    "train_and_save",
    "train_on_samples",
    "tsn_stages",
]

RECORDED_STEPS = 50  # the recorded loss is a mean over so many steps
SEED_STRIDE = 10_000_000  # clips of a seed of training; a recipe draws fewer


@dataclass(frozen=True)
class Stage:
    """A stage of training at one picture size, with a one-cycle learning rate.

    Attributes:
        pixels: height and width.
        steps, batch: steps of the schedule, and clips in a step.
        rate, warmup: the highest rate, and the share of the steps that lead up to it.
        stop: end the stage after so many steps of the schedule; None: after all.
        mix: share of each split of `wb.samples` among the clips.
        frames: frames of each clip, spread over it.
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


# The recipe of `samples/mfnet`. It has no iid clips: without appearance as a hint, the network has
# to look at the motion.
RECIPE = (
    Stage(64, 2400, 16, 3e-3, stop=1200, mix={"decorrelated": 0.45, "edge": 0.25, "pair": 0.3}),
    Stage(64, 1000, 16, 2e-3),
    Stage(112, 500, 16, 1.5e-3),
    Stage(112, 600, 16, 1.5e-3),  # until it tells open from close
    Stage(112, 600, 16, 1.5e-3, mix={"decorrelated": 0.35, "edge": 0.2, "pair": 0.45}),
)
# The recipe of `samples/tsn`: iid clips only. A network that sees no motion can learn nothing from
# clips whose appearance gives no hint.
TSN_RECIPE = (
    Stage(64, 600, 16, 3e-3, mix={"iid": 1.0}, frames=8),
    Stage(112, 400, 16, 1.5e-3, mix={"iid": 1.0}, frames=8),
)


def tsn_stages(mix: str, frames: int) -> tuple[Stage, ...]:
    """Return `TSN_RECIPE` on clips of one split, `mix`, and another number of frames."""
    return tuple(replace(stage, mix={mix: 1.0}, frames=frames) for stage in TSN_RECIPE)


def small_mfnet() -> VideoModel:
    """Return the samples' small MFNet-3D with random weights: 0.54 M parameters, maps of 8×7×7."""
    module = MFNet3d(len(CLASSES), **SAMPLES_MFNET)
    return wrap_model(module, SAMPLES_INPUT, CLASSES, name="small MFNet")


def small_tsn() -> VideoModel:
    """Return the samples' small TSN with random weights: 0.60 M parameters, 7×7 maps per frame."""
    module = TSN(SmallResNet(len(CLASSES)))
    return wrap_model(module, SAMPLES_INPUT, CLASSES, name="small TSN")


SHIPPED: dict[str, tuple[Callable[[], VideoModel], Sequence[Stage]]] = {
    "mfnet": (small_mfnet, RECIPE),
    "tsn": (small_tsn, TSN_RECIPE),
    "mfnet-iid": (small_mfnet, tsn_stages("iid", frames=16)),
}


def record(name: str = "mfnet") -> dict[str, Any]:
    """Return the record of a shipped network: recipe, loss per 50 steps, and measurements.

    Raises FileNotFoundError if no such network is shipped.
    """
    return json.loads((WEIGHTS / f"{name}.json").read_text())


def sample_batches(stage: Stage, *, first_seed: int = 0, workers: int = 2) -> DataLoader:
    """Return an endless loader of new clips: (N, T, H, W, 3) uint8, targets (N, classes) float32.

    The target of a clip with one action is one-hot; of a clip with two, 0.5 for each. Every clip
    has its own seed, from `TRAINING_SEEDS + first_seed` up, so no clip is repeated, and none is
    ever used for measuring.
    """
    return DataLoader(_Stream(stage, first_seed), batch_size=stage.batch, num_workers=workers)


class _Stream(IterableDataset):
    def __init__(self, stage: Stage, first_seed: int) -> None:
        self.stage = stage
        self.first_seed = first_seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # Workers take turns: the first of two draws the even seeds.
        worker = get_worker_info()
        number, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        splits = list(self.stage.mix)
        shares = np.array(list(self.stage.mix.values()))
        shares = shares / shares.sum()
        indices = frame_indices(0, round(DURATION * FPS), self.stage.frames, None)
        size = (self.stage.pixels, self.stage.pixels)
        while True:
            seed = TRAINING_SEEDS + self.first_seed + number
            rng = np.random.default_rng(seed)
            label = str(rng.choice(CLASSES))
            split = str(rng.choice(splits, p=shares))
            scene = draw_scene(label, seed, split)
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
    """Train a model on new sample clips, stage by stage: AdamW, one-cycle rate, soft targets.

    Args:
        model: a model with the classes `wb.samples.CLASSES`; its network is trained in place and
            left in eval mode.
        stages: picture sizes and steps, in order.
        decay, smoothing: weight decay and label smoothing.
        first_seed: of the clips, counted from `TRAINING_SEEDS`.
        report: called after every step with stage, step, loss and accuracy.
        workers: processes that draw clips.

    Raises:
        ValueError: the model has other classes.
    """
    if tuple(model.classes or ()) != CLASSES:
        raise ValueError(
            f"expected a model with the classes {', '.join(CLASSES)}, got {model.classes}"
        )
    module = to_channels_last(model.module.train())
    for number, stage in enumerate(stages):
        loader = sample_batches(stage, first_seed=first_seed, workers=workers)
        first_seed += 2 * stage.steps * stage.batch  # workers draw clips in advance
        optimizer = torch.optim.AdamW(module.parameters(), lr=stage.rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, stage.rate, total_steps=stage.steps, pct_start=stage.warmup
        )
        for step, (frames, targets) in zip(range(stage.stop or stage.steps), loader):
            x = channels_last(model.input.normalise(frames.to(model.device)))
            targets = targets.to(model.device)
            logits = module(x)
            loss = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            if report is not None:
                hits = targets.gather(1, logits.argmax(1, keepdim=True)) > 0
                accuracy = hits.float().mean().item()
                report({"stage": number, "step": step, "loss": loss.item(), "accuracy": accuracy})
    module.eval()
    return model


def save_weights(
    model: VideoModel, folder: str | Path, name: str, *, half: bool = False, **facts: Any
) -> Path:
    """Write a model's weights as safetensors, and a JSON file with hash, classes and `facts`.

    `half`: in half precision, which takes half of the space.

    Returns the path of the weights. Raises OSError if a file cannot be written.
    """
    file = Path(folder) / f"{name}.safetensors"
    state = model.module.state_dict()
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if half:
        tensors = {
            key: value.half() if value.is_floating_point() else value
            for key, value in tensors.items()
        }
    content = safetensors.torch.save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    facts = {"sha256": digest, "classes": model.classes, **facts}
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
    with whole_file(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")
    return file


def retrain(name: str, progress: bool = True) -> Path:
    """Train a shipped network, `mfnet`, `tsn` or `mfnet-iid`, from scratch and replace its weights.

    Takes hours on a CPU. Returns the path of the weights.

    Raises:
        KeyError: no such network; the message lists them.
    """
    if name not in SHIPPED:
        raise KeyError(f"no shipped network {name!r}; there are {', '.join(SHIPPED)}")
    build, stages = SHIPPED[name]
    # The number of workers decides the order of the clips; the last was trained with the matrix.
    workers = 1 if name == "mfnet-iid" else 2
    return train_and_save(build, stages, WEIGHTS, name, workers=workers, progress=progress)


def train_and_save(
    build: Callable[[], VideoModel],
    stages: Sequence[Stage],
    folder: str | Path,
    name: str,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Train a new network on sample clips, and write its weights and the record of its training.

    Args:
        build: returns the network with random weights.
        stages: as for `train_on_samples`.
        folder, name: of the weights, as for `save_weights`.
        seed: of the weights and of the clips; those of two seeds do not overlap.
        workers: processes that draw clips; their number decides the clips' order.
        progress: whether to show a bar.

    Returns the path of the weights.
    """
    torch.manual_seed(seed)
    losses: list[float] = []
    steps = sum(stage.stop or stage.steps for stage in stages)
    with tqdm(total=steps, desc=name, disable=not progress) as bar:

        def report(step: dict[str, Any]) -> None:
            losses.append(step["loss"])
            bar.set_postfix(loss=f"{step['loss']:.3f}", accuracy=f"{step['accuracy']:.2f}")
            bar.update()

        model = train_on_samples(
            build(), stages, first_seed=seed * SEED_STRIDE, report=report, workers=workers
        )
    starts = range(0, len(losses), RECORDED_STEPS)
    means = [float(np.mean(losses[start : start + RECORDED_STEPS])) for start in starts]
    return save_weights(
        model,
        folder,
        name,
        recipe=[{**asdict(stage), "mix": dict(stage.mix)} for stage in stages],
        loss_per_50_steps=[round(loss, 3) for loss in means],
    )
