"""Fine-tuning: an existing network, trained further on a data set's clips."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd

from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from .augmentation import sided_classes
from .heads import copy_for, targets_of
from .results import Training
from .run_checkpoints import RunFolder
from .runs import Run
from .settings import Settings, accelerator_for, own_randomness

__all__ = ["Training", "fine_tune"]


def fine_tune(
    model: VideoModel,
    data: Dataset,
    *,
    validation: Dataset | None = None,
    also: Mapping[str, Dataset] | None = None,
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
    """Train a copy of a model on a data set: random windows, crops and flips, AdamW, cosine rate.

    The network is trained on the kind of device that it is on. Under `accelerate launch`, several
    GPUs or machines each take a share of every batch, with batch norm over that share. Every
    random choice follows from `seed`, epoch and clip. With `output`, the state is written to
    `latest.pt` there every so many steps, after each epoch and on Ctrl-C; an interrupted run
    resumes from it. On a CPU its curve is exactly that of a run without interruption.

    Args:
        model: the model to start from; it is copied, not changed. If its classes differ from those
            of `data`, the copy gets a new linear head.
        data: clips to learn from; windows of `model.input.frames` at `model.input.stride` are read
            in worker processes.
        validation: clips of the same classes, classified after each epoch as `model.input` says.
        also: labels of the same clips for the network's further outputs, by name, learnt together
            with those of `data`: `wb.fine_tune(tsn, verbs, also={"noun": nouns})`. The losses are
            added, and a clip counts as right if all its labels are. `model.output` is the output
            that learns `data`.
        epochs, batch: passes over the data, and clips in a step over all GPUs.
        rate, warmup, decay: AdamW's highest learning rate (a new head learns at ten times that),
            the share of all steps that lead up to it, and the weight decay.
        head: dotted name of the last linear layer (or 1×1×1 convolution). None: `model.head`, or
            searched for.
        head_only: train the head alone; batch-norm statistics stay as well.
        flip: mirror every other clip. None: unless a class is named for left, right or clockwise,
            with a warning that lists those classes.
        precision: "no", "bf16" or "fp16"; None: the best mixed precision of a GPU, "no" on a CPU.
            "bf16" on a CPU is refused for networks with 3-D convolutions.
        output: folder for `latest.pt` and `best.pt`, whose `state_dict` `wb.load_model` can load.
            None: no files.
        resume: continue from `latest.pt` if there is one; False starts anew and overwrites it.
        every: steps between two checkpoints.
        workers: processes that read clips; 0 reads in this process.
        seed: of every random choice, not negative.
        progress: whether to show a bar with loss and accuracy.

    Returns:
        A `Training`: model, curve, and the epoch the model is from.

    Raises:
        ValueError: no clips, missing clips, invalid class ids, no head, a loss or gradients that
            are not finite (the last checkpoint stays), or a checkpoint of another network, data
            set, run or other settings.
        ClipError: a clip that cannot be read, or is shorter than the window; the message names it.
        RuntimeError: another training is writing to `output`.
        OSError: a checkpoint cannot be written; the one before stays as it is.
        KeyError: `also` names an output that the network does not have.
        ModuleNotFoundError: accelerate is not installed.
    """
    if epochs < 1 or batch < 1 or every < 1 or seed < 0 or not rate > 0 or not 0 <= warmup < 1:
        raise ValueError(
            "expected epochs, batch and every from 1 up, seed from 0 up, rate > 0 and "
            f"0 <= warmup < 1; got {epochs=}, {batch=}, {every=}, {seed=}, {rate=}, {warmup=}"
        )
    _check_data(data, data.classes)
    if validation is not None:
        _check_data(validation, data.classes)
    for labels in (also or {}).values():
        _check_ids(labels, labels.classes)
    flip = _flip(data, flip)
    accelerator = accelerator_for(model, precision)
    folder = None if output is None else RunFolder(Path(output))
    locked = folder is not None and accelerator.is_main_process
    with own_randomness(seed), folder.locked() if folder and locked else nullcontext():
        tuned, tasks = copy_for(model, data, head, also)
        settings = Settings(
            epochs=epochs,
            batch=batch,
            rate=rate,
            warmup=warmup,
            decay=decay,
            flip=flip,
            head_only=head_only,
            new_head=any(task.fresh for task in tasks),
            seed=seed,
            data=_fingerprint(data, targets_of(data, tasks)[:, 1:]),
        )
        run = Run(
            tuned,
            settings,
            tasks=tasks,
            accelerator=accelerator,
            data=data,
            validation=validation,
            folder=folder,
        )
        if resume:
            run.resume()
        run.train(workers=workers, every=every, progress=progress)
        return run.result()


def _check_data(data: Dataset, classes: list[str]) -> None:
    """Raise ValueError for a data set that cannot be learnt from or validated on."""
    title = data.title or "the data set"
    if not len(data):
        raise ValueError(f"{title} has no clips")
    if list(data.classes) != list(classes):
        raise ValueError(
            f"{title} has other classes than the data to learn from: "
            f"{data.classes[:5]} and {classes[:5]}"
        )
    _check_ids(data, classes)
    if "present" in data.index and not data.index["present"].all():
        missing = data.index.index[~data.index["present"].astype(bool)]
        raise ValueError(
            f"{title}: {len(missing)} videos are not there, the first {missing[0]!r}: "
            "take data.present()"
        )


def _check_ids(data: Dataset, classes: list[str]) -> None:
    """Raise ValueError for class ids that are no positions in `classes`."""
    ids = pd.to_numeric(data.index["class_id"], errors="coerce")
    invalid = data.index.index[~ids.isin(range(len(classes)))]
    if len(invalid):
        raise ValueError(
            f"{data.title or 'the data set'}: {len(invalid)} class ids are not 0 to "
            f"{len(classes) - 1}, the first that of {invalid[0]!r}"
        )


def _flip(data: Dataset, flip: bool | None) -> bool:
    """Return whether to mirror clips; warns if the classes decide against it."""
    if flip is not None:
        return flip
    sided = sided_classes(data.classes)
    if sided:
        more = f" and {len(sided) - 5} more" if len(sided) > 5 else ""
        warnings.warn(
            "no clip is mirrored, because left and right are classes: "
            f"{', '.join(sided[:5])}{more}. flip=True mirrors them all the same, "
            "flip=False turns off this warning.",
            stacklevel=3,
        )
    return not sided


def _fingerprint(data: Dataset, further: np.ndarray) -> str:
    """Return a text that differs for different lists of labelled clips.

    `further` (clips, K) are the class ids of further outputs.
    """
    listed = [
        list(data.classes),
        [str(name) for name in data.index.index],
        data.index["class_id"].astype(int).tolist(),
    ]
    if further.size:
        listed.append(further.tolist())
    return f"{len(data)} clips, {hashlib.sha256(repr(listed).encode()).hexdigest()[:12]}"
