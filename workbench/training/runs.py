"""A training in progress: its steps, its validation, and its state."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
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
from .batches import Feed, Plan, loader, readable
from .heads import Task, targets_of
from .interrupts import Interrupt, deferred_interrupt
from .results import COLUMNS, Training
from .run_checkpoints import RunFolder
from .settings import Settings, optimizer_for

__all__ = ["Run"]

GRADIENT = 5.0  # gradients are clipped to this norm


class Run:
    """A training in progress: the network, its optimiser, the steps done, and the curve."""

    def __init__(
        self,
        tuned: VideoModel,
        settings: Settings,
        *,
        tasks: list[Task],
        accelerator: Any,
        data: Dataset,
        validation: Dataset | None,
        folder: RunFolder | None,
    ) -> None:
        self.tuned = tuned
        self.settings = settings
        self.accelerator = accelerator
        self.data = data
        self.validation = validation
        self.folder = folder
        self.tasks = tasks
        self.heads = [find_module(tuned.module, task.head) for task in tasks]
        self.flags = [(p, p.requires_grad) for p in tuned.module.parameters()]
        if settings.head_only:
            tuned.module.requires_grad_(False)
            for head in self.heads:
                head.requires_grad_(True)
        new_heads = [head for head, task in zip(self.heads, tasks) if task.fresh]
        optimizer = optimizer_for(tuned.module, new_heads, settings)
        self.network, self.optimizer = accelerator.prepare(tuned.module, optimizer)
        plan = Plan(clips=len(data), batch=settings.batch, total=0, seed=settings.seed)
        self.epoch_steps = plan.epoch_steps
        self.total = self.epoch_steps * settings.epochs
        self.step = 0  # steps done
        self.rows: list[list[float]] = []  # the curve
        self.best: dict[str, Any] | None = None
        self.between_steps = True  # the state is consistent and may be saved

    def train(self, *, workers: int, every: int, progress: bool) -> None:
        """Train to the last step, validating after each epoch and saving `every` so many steps."""
        shown = progress and self.accelerator.is_local_main_process
        with (
            deferred_interrupt() as interrupt,
            tqdm(total=self.total, initial=self.step, disable=not shown) as bar,
        ):
            batches = readable(self._training_batches(workers), interrupt)
            validation = self._validation_batches(workers)
            try:
                while True:
                    # A run can be resumed between an epoch's last step and its validation.
                    if validation is not None and self._epoch_lacks_validation():
                        self._validate(validation, interrupt, shown=shown)
                        self.save()
                    if self.step == self.total:
                        break
                    self._learn(*next(batches))
                    self._show(bar)
                    if self.step % every == 0 or self.step % self.epoch_steps == 0:
                        self.save()
            except (KeyboardInterrupt, ClipError):
                if self.between_steps:
                    self.save()
                raise

    def save(self) -> None:
        """Write the state to `latest.pt`, if there is a folder.

        Raises ValueError instead of saving a network with weights that are not finite.
        """
        if self.folder is None:
            return
        state = self.tuned.module.state_dict()
        for name, value in state.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self._diverged(f"the network's {name} holds NaN or infinite values")
        scaler = self.accelerator.scaler
        content = {
            "state_dict": state,
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "epoch": self.step // self.epoch_steps,
            "step": self.step,
            "curve": torch.tensor(self.rows, dtype=torch.float64).reshape(-1, len(COLUMNS)),
            "best": None if self.best is None else self.best["epoch"],
            "classes": self.tuned.classes,
            "settings": asdict(self.settings),
        }
        self._write("latest.pt", content)

    def resume(self) -> None:
        """Continue from `latest.pt`, if there is one.

        Raises ValueError if it belongs to another network, other classes or clips, or was made
        with other settings.
        """
        saved = None if self.folder is None else self.folder.read()
        if saved is None or self.folder is None:
            return
        latest, self.best = saved
        path = self.folder.path / "latest.pt"
        differences = self.settings.differences(latest["settings"])
        if latest["classes"] != self.tuned.classes:
            differences.append("other classes")
        if differences:
            raise ValueError(
                f"{path} is of another training ({'; '.join(differences)}): "
                "give another output=, or resume=False"
            )
        load_strictly(self.tuned.module, latest["state_dict"], str(path))
        self.optimizer.load_state_dict(latest["optimizer"])
        if latest.get("scaler") and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(latest["scaler"])
        self.step = latest["step"]
        self.rows = latest["curve"].tolist()
        self.folder.run = latest["run"]

    def result(self) -> Training:
        """Return the best network, without accelerate's wrapper and with the user's own flags."""
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        epoch = self.settings.epochs
        if self.best is not None:
            epoch = self.best["epoch"]
            self.tuned.module.load_state_dict(self.best["state_dict"])
        for parameter, flag in self.flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        self.tuned.module.eval()
        curve = pd.DataFrame(self.rows, columns=COLUMNS).astype({"epoch": int, "step": int})
        output = None if self.folder is None else self.folder.path
        return Training(self.tuned, curve, epoch, self.settings.flip, output)

    def _training_batches(self, workers: int) -> Iterable[Any]:
        if self.step == self.total:
            return ()
        plan = Plan(
            clips=len(self.data),
            batch=self.settings.batch,
            total=self.total,
            seed=self.settings.seed,
            first=self.step,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        feed = Feed(
            self.data,
            self.tuned.input,
            seed=self.settings.seed,
            flip=self.settings.flip,
            targets=targets_of(self.data, self.tasks),
        )
        return loader(feed, plan, workers)

    def _validation_batches(self, workers: int) -> torch.utils.data.DataLoader | None:
        if self.validation is None:
            return None
        first, step = self.accelerator.process_index, self.accelerator.num_processes
        clips = range(first, len(self.validation), step)
        size = self.settings.batch
        starts = range(0, len(clips), size)
        keys = [[(0, clip) for clip in clips[start : start + size]] for start in starts]
        targets = targets_of(self.validation, self.tasks)
        feed = Feed(self.validation, self.tuned.input, seed=None, targets=targets)
        return loader(feed, keys, workers)

    def _learn(self, frames: torch.Tensor, targets: torch.Tensor) -> None:
        """Do one step on clips (N, T, H, W, 3) uint8 of classes (N, tasks)."""
        self.between_steps = False
        # Dropout draws the same numbers in a run that was resumed.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        self._set_training_mode()
        rate = self.settings.rate_at(self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]

        loss, hits = self._loss_and_hits(frames, targets, training=True)
        mean, accuracy = self._means(loss.detach() * len(targets), hits, len(targets))
        if not math.isfinite(mean):
            raise self._diverged(f"the loss is {mean}")

        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), GRADIENT))
        # In fp16 the loss scaler skips a step with infinite gradients.
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise self._diverged(f"the norm of the gradients is {norm}")
        self.optimizer.step()

        epoch = self.step // self.epoch_steps + 1
        self.step += 1
        self.rows.append([epoch, self.step, rate, mean, accuracy, math.nan, math.nan])
        self.between_steps = True

    def _set_training_mode(self) -> None:
        self.network.train()
        if self.settings.head_only:  # batch norm's statistics stay as well
            self.tuned.module.eval()
            for head in self.heads:
                head.train()

    def _epoch_lacks_validation(self) -> bool:
        ended = self.step > 0 and self.step % self.epoch_steps == 0
        return ended and math.isnan(self.rows[-1][-1])

    def _validate(
        self, batches: torch.utils.data.DataLoader, interrupt: Interrupt, *, shown: bool
    ) -> None:
        """Classify the validation clips, complete the curve's last row, and keep the best."""
        self.tuned.module.eval()
        loss, hits, count = torch.zeros(()), torch.zeros(()), 0
        with (
            torch.no_grad(),
            tqdm(total=len(batches), desc="validation", leave=False, disable=not shown) as bar,
        ):
            for frames, targets in readable(batches, interrupt):
                mean_loss, right = self._loss_and_hits(frames, targets)
                loss += mean_loss.cpu() * len(targets)
                hits += right.cpu()
                count += len(targets)
                bar.update()
        mean, accuracy = self._means(loss, hits, count)
        self.rows[-1][-2:] = [mean, accuracy]
        if self.best is None or (accuracy, -mean) > (self.best["accuracy"], -self.best["loss"]):
            state = self.tuned.module.state_dict()
            self.best = {
                "state_dict": {name: value.detach().cpu().clone() for name, value in state.items()},
                "epoch": self.step // self.epoch_steps,
                "accuracy": accuracy,
                "loss": mean,
            }
            self._write("best.pt", {**self.best, "classes": self.tuned.classes})

    def _loss_and_hits(
        self, frames: torch.Tensor, targets: torch.Tensor, *, training: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean loss of clips, summed over tasks, and how many are right in all tasks."""
        targets = targets.to(self.accelerator.device)
        rows = self._logits(frames, training=training)
        losses = [
            nn.functional.cross_entropy(logits, targets[:, number])
            for number, logits in enumerate(rows)
        ]
        right = [logits.argmax(1) == targets[:, number] for number, logits in enumerate(rows)]
        return torch.stack(losses).sum(), torch.stack(right).all(0).sum()

    def _logits(self, frames: torch.Tensor, *, training: bool = False) -> list[torch.Tensor]:
        """Return logits (N, classes) of clips (N, T, H, W, 3) uint8, for each task."""
        x = self.tuned.input.normalise(frames.to(self.accelerator.device, non_blocking=True))
        outputs = self.tuned.run(x, network=self.network, training=training).outputs
        rows = []
        for task in self.tasks:
            logits = outputs[task.output or self.tuned.main_output(outputs)]
            expected = (len(frames), len(task.classes))
            if logits.shape != expected:
                raise ValueError(
                    f"expected the network to return logits {expected}, got "
                    f"{tuple(logits.shape)}: name its head with head="
                )
            rows.append(logits.float())
        return rows

    def _means(self, loss: torch.Tensor, hits: torch.Tensor, count: int) -> tuple[float, float]:
        """Return mean loss and accuracy over the clips of all processes, from this one's sums."""
        sums = torch.stack([loss.cpu(), hits.cpu(), torch.tensor(count)]).float()
        reduced = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        total_loss, total_hits, clips = reduced.tolist()
        return total_loss / clips, total_hits / clips

    def _show(self, bar: tqdm) -> None:
        """Show the mean loss and accuracy of this epoch, and the latest validation accuracy."""
        steps = (self.step - 1) % self.epoch_steps + 1
        loss, accuracy = np.mean([row[3:5] for row in self.rows[-steps:]], axis=0)
        shown = {"loss": f"{loss:.3f}", "accuracy": f"{accuracy:.2f}"}
        validated = [row[-1] for row in self.rows if not math.isnan(row[-1])]
        if validated:
            shown["validation"] = f"{validated[-1]:.2f}"
        epoch = int(self.rows[-1][0])
        bar.set_description(f"epoch {epoch}/{self.settings.epochs}", refresh=False)
        bar.set_postfix(shown)
        bar.update()

    def _diverged(self, what: str) -> ValueError:
        kept = "" if self.folder is None else f"; earlier checkpoints stay in {self.folder.path}"
        return ValueError(
            f"{what} at step {self.step + 1} of {self.total} "
            f"(epoch {self.step // self.epoch_steps + 1}): try a smaller rate than "
            f"{self.settings.rate:g}, a longer warm-up, or precision='no'{kept}"
        )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self.folder is not None and self.accelerator.is_main_process:
            self.folder.write(name, content)
