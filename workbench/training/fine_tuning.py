"""Fine-tuning: a network that is there already, trained further on a data set's clips."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pandas as pd

from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from .augmentation import sided_classes
from .heads import copy_for
from .runs import Run, Settings, Training, accelerator_for, own_randomness

__all__ = ["Training", "fine_tune"]


def fine_tune(
    model: VideoModel,
    data: Dataset,
    *,
    validation: Dataset | None = None,
    epochs: int = 10,
    batch: int = 8,
    rate: float = 5e-4,
    warmup: float = 0.1,
    decay: float = 0.02,
    head: str | None = None,
    head_only: bool = False,
    flip: bool | None = None,
    precision: str | None = None,
    output: str | Path | None = None,
    resume: bool = True,
    every: int = 100,
    workers: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> Training:
    """Train a copy of a model further on a data set: random windows, cut-outs and flips, AdamW, a cosine rate.

    The network is trained on the kind of device that it is on; several GPUs, or several machines, are used when the
    script runs under `accelerate launch`, each taking its share of every batch, with batch norm over that share.
    What is random follows from `seed`, epoch and clip. With `output`, the state is written to `latest.pt` there every
    so many steps, after each epoch and on Ctrl-C, and a run that was broken off goes on from it: on a CPU with the
    very same curve.

    Args:
        model: what to start from; it is copied, not changed. Where its classes are not those of `data`, the copy gets a
            new linear head.
        data: clips to learn from; windows of `model.input.frames` at `model.input.stride` are read in worker processes.
        validation: clips of the same classes to classify after each epoch, as `model.input` says, nothing random.
        epochs, batch: passes over the data, and clips in a step, all GPUs together.
        rate, warmup, decay: AdamW's highest learning rate (a new head learns at ten times that), the share of all steps
            that lead up to it, weight decay.
        head: dotted name of the last linear layer (or 1×1×1 convolution). Default: `model.head`, or found.
        head_only: leave all but the head as it is, batch-norm statistics included.
        flip: mirror every other clip. None: unless a class is named for left, right or clockwise; a warning
            names those. False and True overrule.
        precision: "no", "bf16" or "fp16"; None: on a GPU the best mixed precision it has, on a CPU "no".
        output: folder for `latest.pt` and `best.pt`; their `state_dict` is loaded by `wb.load_model`. None: no files.
        resume: go on from `latest.pt` where there is one; False begins anew and overwrites it.
        every: steps between two checkpoints.
        workers: processes that read clips; 0 reads in this one.
        seed: of every random choice, not negative.
        progress: whether to show a bar with loss and accuracy.

    Returns:
        A `Training`: model, curve, and which epoch the model is of.

    Raises:
        ValueError: no clips, missing clips, class ids that are none, no head, a loss or gradients that are not
            finite (the last checkpoint stays), a checkpoint of another network, data set or other settings.
        ClipError: a clip that cannot be read, or is shorter than the window; the message names it.
        OSError: a checkpoint cannot be written; the one before stays as it is.
        ModuleNotFoundError: accelerate is not installed.
    """
    if epochs < 1 or batch < 1 or every < 1 or seed < 0 or not rate > 0 or not 0 <= warmup < 1:
        raise ValueError(
            "expected epochs, batch and every from 1 up, seed from 0 up, rate > 0 and 0 <= warmup < 1; got "
            f"{epochs=}, {batch=}, {every=}, {seed=}, {rate=}, {warmup=}"
        )
    _check_data(data, data.classes)
    if validation is not None:
        _check_data(validation, data.classes)
    flip = _flip(data, flip)
    accelerator = accelerator_for(model, precision)
    with own_randomness(seed):
        tuned, head, new = copy_for(model, data, head)
        settings = Settings(
            epochs, batch, rate, warmup, decay, flip, head_only, new, seed, _fingerprint(data)
        )
        run = Run(
            tuned,
            head,
            settings,
            accelerator,
            data,
            validation,
            None if output is None else Path(output),
        )
        if resume:
            run.restore()
        run.train(workers, every, progress)
        return run.result()


def _check_data(data: Dataset, classes: list[str]) -> None:
    title = data.title or "the data set"
    if not len(data):
        raise ValueError(f"{title} has no clips")
    if list(data.classes) != list(classes):
        raise ValueError(
            f"{title} has other classes than the data to learn from: {data.classes[:5]} and {classes[:5]}"
        )
    ids = pd.to_numeric(data.index["class_id"], errors="coerce")
    bad = data.index.index[~ids.isin(range(len(classes)))]
    if len(bad):
        raise ValueError(
            f"{title}: {len(bad)} class ids are not 0 to {len(classes) - 1}, the first that of {bad[0]!r}"
        )
    if "present" in data.index and not data.index["present"].all():
        away = data.index.index[~data.index["present"].astype(bool)]
        raise ValueError(
            f"{title}: {len(away)} videos are not there, the first {away[0]!r}: take data.present()"
        )


def _flip(data: Dataset, flip: bool | None) -> bool:
    sided = sided_classes(data.classes)
    if flip is None and sided:
        more = f" and {len(sided) - 5} more" if len(sided) > 5 else ""
        warnings.warn(
            f"no clip is mirrored, because left and right are classes: {', '.join(sided[:5])}{more}. "
            "flip=True mirrors all the same, flip=False says nothing.",
            stacklevel=3,
        )
    return not sided if flip is None else flip


def _fingerprint(data: Dataset) -> str:
    """Return what tells one list of labelled clips from another."""
    listed = [
        list(data.classes),
        [str(name) for name in data.index.index],
        data.index["class_id"].astype(int).tolist(),
    ]
    return f"{len(data)} clips, {hashlib.sha256(repr(listed).encode()).hexdigest()[:12]}"
