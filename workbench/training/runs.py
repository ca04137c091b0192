"""A training under way: steps, validation, checkpoints, and what comes of it."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ..clips.errors import ClipError
from ..datasets.table import Dataset
from ..models.checkpoints import load_strictly
from ..models.video_model import VideoModel, find_module
from .augmentation import Feed, Plan, Unreadable, loader
from .run_checkpoints import read_state, write_state

__all__ = ["Run", "Settings", "Training", "accelerator_for", "own_randomness"]

COLUMNS = ["epoch", "step", "rate", "loss", "accuracy", "validation loss", "validation accuracy"]
HEAD = 10.0  # times the rate is that of a new head: it has all to learn, the rest next to nothing
GRADIENT = 5.0  # the norm that gradients are clipped to


@dataclass(frozen=True, eq=False, repr=False)
class Training:
    """What `fine_tune` made.

    Attributes:
        model: the trained network in eval mode, ready for `wb.explain`: of the epoch with the best validation
            accuracy, or of the last one where nothing was validated.
        curve: DataFrame, a row a step: epoch and step (from 1), rate, loss and accuracy of the step's batch, and at the
            end of each epoch validation loss and accuracy, NaN elsewhere. Accuracies are top-1, in [0, 1].
        epoch: the one that `model` is of.
        flip: whether clips were mirrored.
        output: folder of `latest.pt` and `best.pt`, or None.
    """

    model: VideoModel
    curve: pd.DataFrame
    epoch: int
    flip: bool
    output: Path | None = None

    @property
    def epochs(self) -> pd.DataFrame:
        """The curve by epoch: mean loss and accuracy in training, and those of the validation at its end."""
        how = {**dict.fromkeys(COLUMNS[3:5], "mean"), **dict.fromkeys(COLUMNS[5:], "last")}
        return self.curve.groupby("epoch").agg(how)

    def __repr__(self) -> str:
        last = self.epochs.loc[self.epoch].to_dict()
        validated = last["validation accuracy"]
        told = "" if math.isnan(validated) else f", validation {validated:.1%}"
        return (
            f"<Training of {self.model.name}: {len(self.curve)} steps in {len(self.epochs)} epochs; "
            f"epoch {self.epoch}: loss {last['loss']:.3f}, accuracy {last['accuracy']:.1%}{told}>"
        )


@dataclass(frozen=True)
class Settings:
    """What decides the course of a training; a checkpoint is only gone on from with the same."""

    epochs: int
    batch: int
    rate: float
    warmup: float
    decay: float
    flip: bool
    head_only: bool
    new_head: bool
    seed: int
    data: str

    def rate_at(self, step: int, total: int) -> float:
        """Return the learning rate of a step, counted from 0: a linear warm-up, then half a cosine down to 0."""
        warm = self.warmup * total
        if step < warm:
            return self.rate * (step + 1) / (warm + 1)
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, total - warm)))


class Run:
    """A training under way: the network, its optimiser, how far it is, and its curve."""

    def __init__(
        self,
        tuned: VideoModel,
        head: str,
        settings: Settings,
        accelerator: Any,
        data: Dataset,
        validation: Dataset | None,
        output: Path | None,
    ) -> None:
        self.tuned, self.settings, self.accelerator, self.output = (
            tuned,
            settings,
            accelerator,
            output,
        )
        self.data, self.validation = data, validation
        self.head = find_module(tuned.module, head)
        self.flags = [
            (parameter, parameter.requires_grad) for parameter in tuned.module.parameters()
        ]
        if settings.head_only:
            tuned.module.requires_grad_(False)
            self.head.requires_grad_(True)
        parameters = [p for p in tuned.module.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("no parameter of the network takes gradients: nothing to train")
        self.network, self.optimizer = accelerator.prepare(
            tuned.module, self._optimizer(parameters)
        )
        self.steps = Plan(len(data), settings.batch, 0, settings.seed).epoch_steps  # in an epoch
        self.total = self.steps * settings.epochs
        self.step = 0  # done
        self.rows: list[list[float]] = []
        self.best: dict[str, Any] | None = None
        self.whole = True  # between two steps, so that the state may be written

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return AdamW: `HEAD` times the rate for a new head, no decay of biases and batch norms."""
        scales = dict.fromkeys(self.head.parameters(), HEAD if self.settings.new_head else 1.0)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for each in parameters:
            decay = self.settings.decay if each.ndim > 1 else 0.0
            groups.setdefault((scales.get(each, 1.0), decay), []).append(each)
        return torch.optim.AdamW(
            [
                {"params": part, "scale": scale, "weight_decay": decay}
                for (scale, decay), part in groups.items()
            ],
            lr=self.settings.rate,
        )

    def train(self, workers: int, every: int, progress: bool) -> None:
        """Train from the step that is reached to the last one, validating after each epoch."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        plan = Plan(
            len(self.data),
            self.settings.batch,
            self.total,
            self.settings.seed,
            self.step,
            process,
            processes,
        )
        feed = Feed(self.data, self.tuned.input, seed=self.settings.seed, flip=self.settings.flip)
        shown = progress and self.accelerator.is_local_main_process
        with (
            _deferred_interrupt() as asked,
            tqdm(total=self.total, initial=self.step, disable=not shown) as bar,
        ):
            batches = _fetched(loader(feed, plan, workers), asked) if len(plan) else iter(())
            judge = self._judge(workers)
            try:
                while True:
                    if (
                        self.step
                        and self.step % self.steps == 0
                        and math.isnan(self.rows[-1][-1])
                        and judge
                    ):
                        self._validate(judge, asked, shown)
                        self.save()
                    if self.step == self.total:
                        break
                    frames, targets = next(batches)
                    self._learn(frames, targets)
                    self._tell(bar)
                    if self.step % every == 0 or self.step % self.steps == 0:
                        self.save()
            except (KeyboardInterrupt, ClipError):
                if self.whole:
                    self.save()
                raise

    def _learn(self, frames: torch.Tensor, targets: torch.Tensor) -> None:
        """Do one step on clips (N, T, H, W, 3) uint8 of classes (N,)."""
        torch.manual_seed(
            self.settings.seed * 1_000_003 + self.step
        )  # for dropout and the like, resumed or not
        self.whole = False
        self._training_mode()
        rate = self.settings.rate_at(self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        targets = targets.to(self.accelerator.device)
        logits = self._logits(frames)
        loss = nn.functional.cross_entropy(logits, targets)
        mean, accuracy = self._shared(
            loss.detach() * len(targets), (logits.argmax(1) == targets).sum(), len(targets)
        )
        if not math.isfinite(mean):
            raise self._diverged(f"the loss is {mean}")
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), GRADIENT))
        if (
            not math.isfinite(norm) and self.accelerator.scaler is None
        ):  # a scaler skips such a step
            raise self._diverged(f"the norm of the gradients is {norm}")
        self.optimizer.step()
        self.rows.append(
            [self.step // self.steps + 1, self.step + 1, rate, mean, accuracy, math.nan, math.nan]
        )
        self.step += 1
        self.whole = True

    def _judge(self, workers: int) -> torch.utils.data.DataLoader | None:
        if self.validation is None:
            return None
        mine = range(len(self.validation))[
            self.accelerator.process_index :: self.accelerator.num_processes
        ]
        size = self.settings.batch
        keys = [[(0, number) for number in mine[i : i + size]] for i in range(0, len(mine), size)]
        return loader(Feed(self.validation, self.tuned.input, seed=None), keys, workers)

    def _validate(self, judge: torch.utils.data.DataLoader, asked: list[int], shown: bool) -> None:
        """Classify the validation clips, note loss and accuracy in the curve's last row, and keep the best."""
        self.tuned.module.eval()
        loss, hits, count = torch.zeros(()), torch.zeros(()), 0
        with (
            torch.no_grad(),
            tqdm(total=len(judge), desc="validation", leave=False, disable=not shown) as bar,
        ):
            for frames, targets in _fetched(judge, asked):
                logits = self._logits(frames)
                targets = targets.to(self.accelerator.device)
                loss = loss + nn.functional.cross_entropy(logits, targets, reduction="sum").cpu()
                hits = hits + (logits.argmax(1) == targets).sum().cpu()
                count += len(targets)
                bar.update()
        mean, accuracy = self._shared(loss, hits, count)
        self.rows[-1][-2:] = [mean, accuracy]
        if self.best is None or (accuracy, -mean) > (self.best["accuracy"], -self.best["loss"]):
            epoch = self.step // self.steps
            state = {
                name: value.detach().cpu().clone()
                for name, value in self.tuned.module.state_dict().items()
            }
            self.best = {"state_dict": state, "epoch": epoch, "accuracy": accuracy, "loss": mean}
            self._write("best.pt", {**self.best, "classes": self.tuned.classes})

    def _logits(self, frames: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) of clips (N, T, H, W, 3) uint8."""
        device_frames = frames.to(self.accelerator.device, non_blocking=True)
        logits = self.network(self.tuned.input.normalise(device_frames))
        expected = (len(frames), len(self.tuned.classes or ()))
        if not isinstance(logits, torch.Tensor) or logits.shape != expected:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"expected the network to return logits {expected}, got {got}: name its head with head="
            )
        return logits.float()

    def _shared(self, loss: torch.Tensor, hits: torch.Tensor, count: int) -> tuple[float, float]:
        """Return mean loss and accuracy over the clips of all processes, from this one's sums."""
        sums = (
            torch.stack([loss.cpu(), hits.cpu(), torch.tensor(count)])
            .float()
            .to(self.accelerator.device)
        )
        losses, right, clips = self.accelerator.reduce(sums, "sum").tolist()
        return losses / clips, right / clips

    def _training_mode(self) -> None:
        self.network.train()
        if self.settings.head_only:
            self.tuned.module.eval()
            self.head.train()

    def _tell(self, bar: tqdm) -> None:
        epoch = int(self.rows[-1][0])
        here = np.array(
            [row[3:5] for row in self.rows[-1 : -1 - (self.step - 1) % self.steps - 1 : -1]]
        )
        validated = [row[-1] for row in self.rows if not math.isnan(row[-1])]
        told = {"validation": f"{validated[-1]:.2f}"} if validated else {}
        bar.set_description(f"epoch {epoch}/{self.settings.epochs}", refresh=False)
        bar.set_postfix(
            loss=f"{here[:, 0].mean():.3f}", accuracy=f"{here[:, 1].mean():.2f}", **told
        )
        bar.update()

    def _diverged(self, what: str) -> ValueError:
        return ValueError(
            f"{what} at step {self.step + 1} of {self.total} (epoch {self.step // self.steps + 1}): try a smaller rate "
            f"than {self.settings.rate:g}, a longer warm-up, or precision='no'"
            + (
                ""
                if self.output is None
                else f"; what was written to {self.output} before stays there"
            )
        )

    def save(self) -> None:
        """Write the state to `latest.pt`, if there is a folder for it."""
        if self.output is None:
            return
        state = self.tuned.module.state_dict()
        bad = [
            name
            for name, value in state.items()
            if value.is_floating_point() and not value.isfinite().all()
        ]
        if bad:
            raise self._diverged(f"the network's {bad[0]} holds NaN or infinite values")
        scaler = self.accelerator.scaler
        content = {
            "state_dict": state,
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "epoch": self.step // self.steps,
            "step": self.step,
            "curve": torch.tensor(self.rows, dtype=torch.float64).reshape(-1, len(COLUMNS)),
            "best": None if self.best is None else self.best["epoch"],
            "classes": self.tuned.classes,
            "settings": asdict(self.settings),
        }
        self._write("latest.pt", content)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self.output is not None and self.accelerator.is_main_process:
            write_state(self.output / name, content)

    def restore(self) -> None:
        """Go on from `latest.pt`, if there is one.

        Raises ValueError where it is of another network, of other classes or clips, or made with other settings.
        """
        if self.output is None or not (self.output / "latest.pt").is_file():
            return
        path = self.output / "latest.pt"
        content = read_state(
            path, {"state_dict", "optimizer", "step", "curve", "best", "classes", "settings"}
        )
        mine, theirs = asdict(self.settings), content["settings"]
        other = [
            f"{key} {theirs.get(key)}, now {value}"
            for key, value in mine.items()
            if theirs.get(key) != value
        ]
        if content["classes"] != self.tuned.classes or other:
            what = "; ".join(other) or "other classes"
            raise ValueError(
                f"{path} is of another training ({what}): give another output=, or resume=False"
            )
        load_strictly(self.tuned.module, content["state_dict"], str(path))
        self.optimizer.load_state_dict(content["optimizer"])
        if content.get("scaler") and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.step, self.rows = content["step"], content["curve"].tolist()
        if content["best"] is not None:
            self.best = read_state(
                self.output / "best.pt", {"state_dict", "epoch", "accuracy", "loss"}
            )

    def result(self) -> Training:
        """Return what was made, the network as the user's: unwrapped, in eval mode, with its own flags."""
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        if self.best is not None:
            self.tuned.module.load_state_dict(self.best["state_dict"])
        for parameter, flag in self.flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        self.tuned.module.eval()
        curve = pd.DataFrame(self.rows, columns=COLUMNS).astype({"epoch": int, "step": int})
        epoch = self.settings.epochs if self.best is None else self.best["epoch"]
        return Training(self.tuned, curve, epoch, self.settings.flip, self.output)


def accelerator_for(model: VideoModel, precision: str | None) -> Any:
    """Return an accelerate.Accelerator for the kind of device that a model is on."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise ModuleNotFoundError(
            'wb.fine_tune needs accelerate: pip install "saliency-workbench[train]"',
            name=error.name,
        ) from error
    if precision not in (None, "no", "bf16", "fp16"):
        raise ValueError(f"precision: expected 'no', 'bf16', 'fp16' or None, got {precision!r}")
    if precision is None:
        mixed = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp16"
        precision = mixed if model.device.type == "cuda" else "no"
    if not PartialState._shared_state or PartialState().num_processes == 1:
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # accelerate remembers the first choice for good
    return Accelerator(cpu=model.device.type == "cpu", mixed_precision=precision)


def _fetched(
    batches: Iterable[Any], asked: list[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches; KeyboardInterrupt once that was asked for, ClipError for one that could not be read."""
    for batch in batches:
        if asked:
            raise KeyboardInterrupt
        if isinstance(batch, Unreadable):
            raise ClipError(batch.message)
        yield batch


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[list[int]]:
    """Let Ctrl-C be noted in the list yielded, to stop between two steps; a second one interrupts at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch, and leave its random state as it was."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
