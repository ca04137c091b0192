"""A network with what it takes to feed it a clip and to name its outputs.

`VideoModel.run` is the only place in the package where a network is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from ..clips.clip import Clip
from .hooks import Call, Observer, Taken, find_module, observing, taking
from .input_spec import InputSpec
from .locks import network_lock
from .memory_formats import faster_channels_last, in_channels_last
from .outputs import are_probabilities, as_logits, named_outputs, pick_output
from .refusals import raise_on_nan, unsuitable_input
from .restoring import bare, eval_mode, own_buffers
from .time_axes import by_answer, find_time_axis

__all__ = ["Pass", "VideoModel", "bare", "find_module"]

# What a network raises when its input has the wrong shape or type.
UNSUITABLE = (RuntimeError, IndexError, TypeError, AttributeError, AssertionError, ValueError)
TENSOR_RATE = 25.0  # frames per second of a bare tensor, which knows no time


@dataclass(frozen=True)
class Pass:
    """What one forward pass gave.

    Attributes:
        outputs: the network's outputs by name, each (N, classes); of an output over time the mean
            of its answers.
        taken: the outputs of the layers asked for, see `hooks.taking`.
        answers: of outputs over time all answers, (N, K, classes).
    """

    outputs: dict[str, torch.Tensor]
    taken: Taken
    answers: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(eq=False, repr=False)
class VideoModel:
    """A network, how it takes clips, and its class names.

    Attributes:
        module: the network, (1, 3, T, H, W) to logits (1, N), or to (1, T, N) or (1, N, T) if it
            answers over time, or to several outputs in a tuple or a dict. It belongs to the user:
            nothing here changes it for good.
        input: how clips become its input.
        classes: N names; None numbers them once the first logits are seen.
        layer, head: dotted names of the layer to explain and of its linear head; None: found and
            proved.
        output: which of several outputs is meant; None: the one that has as many classes as there
            are names, or the first.
        name: what to call the model.
        precision: torch.float16 or torch.bfloat16 to run in mixed precision; None: as the weights.
        named: class names of further outputs.
        time_axis: which axis of the output counts time steps, 1 or 2, for a network that answers
            over time; None: found, see `time_axes`.
        answer_frames: the frame that each answer over time belongs to, from 0, fractions allowed;
            None: the answers share the clip evenly.
    """

    module: nn.Module
    input: InputSpec
    classes: list[str] | None = None
    layer: str | None = None
    head: str | None = None
    name: str = ""
    output: str | None = None
    precision: torch.dtype | None = None
    named: dict[str, list[str]] = field(default_factory=dict)
    time_axis: int | None = None
    answer_frames: Sequence[float] | None = None
    # Which axis of each output counts time steps, once known.
    _time_axes: dict[str, int] = field(default_factory=dict, init=False)
    # Whether channels last is the faster memory format, by input size and kind of device.
    _faster_last: dict[Any, bool] = field(default_factory=dict, init=False)

    @property
    def network(self) -> nn.Module:
        """The network itself, without what DataParallel or torch.compile put around it."""
        return bare(self.module)

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        first = next(chain(self.module.parameters(), self.module.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    def prepare(self, clip: Clip | torch.Tensor) -> tuple[Clip, torch.Tensor]:
        """Return the clip as the network sees it, and the input (1, 3, T, H, W) on its device.

        A ready tensor (1, 3, T, H, W) is taken as it is.

        Raises:
            ValueError: a tensor of another shape, or a clip that is too short or too small.
            TypeError: neither a clip nor a tensor.
        """
        if isinstance(clip, torch.Tensor):
            channels = self.input.channels
            if clip.ndim != 5 or clip.shape[0] != 1 or clip.shape[1] != channels:
                raise ValueError(
                    f"expected a tensor (1, {channels}, T, H, W) of one clip, "
                    f"got {tuple(clip.shape)}"
                )
            return Clip(self.input.picture(clip), TENSOR_RATE), clip.to(self.device)
        if not isinstance(clip, Clip):
            raise TypeError(
                f"expected a wb.Clip or a tensor (1, 3, T, H, W), got {type(clip).__name__}. "
                "From a file: wb.read_clip(path); from an array: wb.Clip(frames=array, fps=25)."
            )
        seen = self.input.view(clip)
        return seen, self.input.tensor(seen, self.device)

    def run(
        self,
        x: torch.Tensor,
        take: Iterable[Call] = (),
        *,
        gradients_from: Iterable[Call] = (),
        observe: Observer | None = None,
        within: AbstractContextManager[Any] | None = None,
        network: nn.Module | None = None,
        training: bool = False,
        measure: bool = True,
    ) -> Pass:
        """Run the network once on inputs (N, 3, T, H, W).

        It runs in eval mode, in `precision`, in the memory format that was measured to be the
        faster one for such inputs, and outside a user's own inference mode and autocast. Training
        flags, buffers, hooks, memory format and the input are as before on every way out.

        Args:
            x: what `prepare` returns, or several of them concatenated.
            take: calls of layers whose outputs to return.
            gradients_from: those of them at which gradients begin; without any, none are recorded.
            observe: called with every layer's name, inputs and output.
            within: a context to run in, for example one that intercepts operations.
            network: what to call in place of the bare network: the same one inside a wrapper.
            training: leave mode, precision, memory format and gradients as they are, and do not
                check for NaN: a training step does that for itself.
            measure: find out which memory format is faster for such inputs, if that is not known,
                by two to four more passes.

        Raises:
            ValueError: the network does not take such an input, returns no logits, or gives NaN;
                the message names the first weights or the first layer that hold it.
            KeyError: a layer in `take` does not exist or was not called.
        """
        calls, starts = set(take), set(gradients_from)
        called = network or self.network
        if training:
            return self._read(called, x, self._call(called, x), {})
        # A user's own inference mode would leave tensors that refuse to be differentiated.
        with (
            network_lock(self.network),
            torch.inference_mode(False),
            eval_mode(self.network),
            own_buffers(self.network),
            torch.autocast(x.device.type, self.precision, enabled=self.precision is not None),
            self._memory_format(called, x, measure),
        ):
            with (
                torch.inference_mode(not starts),
                torch.no_grad(),
                taking(self.network, calls, gradients_from=starts) as taken,
                observing(self.network, observe) if observe else nullcontext(),
                within or nullcontext(),
            ):
                output = self._call(called, x)
            with torch.inference_mode(not starts), torch.set_grad_enabled(bool(starts)):
                passed = self._read(called, x, output, taken)
            values = chain(passed.outputs.values(), *taken.values())
            if not all(each.detach().isfinite().all() for each in values):
                raise_on_nan(self.network, x, lambda: self._call(called, x))
        if missing := calls - set(taken):
            raise KeyError(f"{', '.join(call.layer for call in missing)} gave no tensor")
        if starts:
            return passed
        # Inference tensors would refuse to take part in a user's own gradients.
        return Pass(
            {name: each.clone() for name, each in passed.outputs.items()},
            {call: [each.clone() for each in copies] for call, copies in taken.items()},
            {name: each.clone() for name, each in passed.answers.items()},
        )

    def layers_without_gradients(self, x: torch.Tensor) -> list[str]:
        """Return the layers that the network itself runs under no_grad or inference mode."""
        found: list[str] = []

        def observer(layer: str, _inputs: Any, _output: Any) -> None:
            if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
                found.append(layer)

        network = self.network
        with (
            network_lock(network),
            torch.inference_mode(False),
            torch.enable_grad(),
            eval_mode(network),
            own_buffers(network),
            observing(network, observer),
        ):
            self._call(network, x)
        return found

    def main_output(self, outputs: Mapping[str, torch.Tensor]) -> str:
        """Return the name of the output that is meant, of several (…, classes)."""
        if self.output is not None:
            return pick_output(outputs, self.output)
        count = None if self.classes is None else len(self.classes)
        fitting = (name for name, each in outputs.items() if each.shape[-1] == count)
        return next(fitting, next(iter(outputs)))

    def logits(self, clip: Clip | torch.Tensor) -> torch.Tensor:
        """Return the logits (N,) of a clip.

        If the network ends in a softmax, these are the logarithms of its probabilities: logits up
        to a constant.
        """
        _, x = self.prepare(clip)
        outputs = self.run(x).outputs
        return as_logits(outputs[self.main_output(outputs)])[0]

    def score(self, target: int | str, batch: int = 4) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from clips (N, T, H, W, 3) uint8 to a class's probability (N,).

        The clips are as the network sees them; `batch` of them pass through it at a time. Deletion
        and insertion call it.
        """

        def probability(frames: np.ndarray) -> np.ndarray:
            values = []
            for start in range(0, len(frames), batch):
                part = np.ascontiguousarray(frames[start : start + batch])
                x = self.input.normalise(torch.from_numpy(part).to(self.device))
                values.append(self._probability(x, target))
            return np.concatenate(values)

        return probability

    def class_names(self, output: str, count: int, *, main: bool = True) -> list[str]:
        """Return the names of an output's `count` classes; numbers if none were given.

        `classes` names those of the main output; `main` says whether this is it.

        Raises:
            ValueError: there is another number of names.
        """
        numbers = [str(number) for number in range(count)]
        if output in self.named:
            names = self.named[output]
        elif main:
            if self.classes is None or self.classes == [str(n) for n in range(len(self.classes))]:
                self.classes = numbers
            names = self.classes
        else:
            names = numbers
        if len(names) != count:
            raise ValueError(
                f"the network gives {count} logits and there are {len(names)} class names"
            )
        return names

    def _probability(self, x: torch.Tensor, target: int | str) -> np.ndarray:
        """Return a class's probability (N,) for inputs (N, 3, T, H, W)."""
        outputs = self.run(x).outputs
        name = self.main_output(outputs)
        rows = outputs[name].float()
        names = self.class_names(name, rows.shape[1])
        number = names.index(target) if isinstance(target, str) else target
        probabilities = rows if are_probabilities(rows[0]) else rows.softmax(1)
        return probabilities[:, number].cpu().numpy()

    def _read(self, network: nn.Module, x: torch.Tensor, output: Any, taken: Taken) -> Pass:
        """Return what a network returned for inputs (N, 3, T, H, W), with its time axes named."""
        outputs, answers = {}, {}
        for name, part in self._named(output, x).items():
            if part.is_inference() and not torch.is_inference_mode_enabled():
                part = part.clone()  # the network's own inference mode: no gradients from here
            answer = by_answer(part, self._axis_of_time(network, x, name, tuple(part.shape)))
            if answer.ndim == 2:
                outputs[name] = answer
            else:
                outputs[name] = answer.mean(1)
                answers[name] = answer
        return Pass(outputs, taken, answers)

    def _named(self, output: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
        wanted = {*self.named} if self.output is None else {*self.named, self.output}
        return named_outputs(output, len(x), x.shape[2], wanted)

    def _axis_of_time(
        self, network: nn.Module, x: torch.Tensor, name: str, shape: tuple[int, ...]
    ) -> int:
        """Return the axis of an output that counts time steps; what is found is remembered."""
        if self.time_axis is not None and self.time_axis < len(shape):
            return self.time_axis
        if name not in self._time_axes:
            names = self.named.get(name, self.classes)

            def other() -> tuple[int, ...] | None:
                """Return the output's shape for one clip of half or twice the length."""
                for longer in (x[:1, :, : x.shape[2] // 2], torch.cat([x[:1], x[:1]], 2)):
                    try:
                        with torch.no_grad():
                            parts = self._named(self._call(network, longer), longer)
                    except ValueError:
                        continue
                    if name in parts and parts[name].ndim == len(shape):
                        return tuple(parts[name].shape)
                return None

            self._time_axes[name] = find_time_axis(
                name,
                (1, *shape[1:]),
                frames=x.shape[2],
                classes=None if names is None else len(names),
                other=other,
            )
        return self._time_axes[name]

    @contextmanager
    def _memory_format(self, network: nn.Module, x: torch.Tensor, measure: bool) -> Iterator[None]:
        """Use the faster memory format for inputs like `x`; which one it is gets measured once."""
        key = (tuple(x.shape[1:]), x.device.type)
        if measure and key not in self._faster_last:
            first = x[:1]
            self._faster_last[key] = faster_channels_last(
                self.network, lambda: self._call(network, first)
            )
        with in_channels_last(self.network) if self._faster_last.get(key) else nullcontext():
            yield

    def _call(self, network: nn.Module, x: torch.Tensor) -> Any:
        """Return what a network returns for inputs (N, 3, T, H, W); refuse unsuitable ones."""
        # `module.compile()` hides the layers from hooks: call what it compiled.
        hidden = getattr(network, "_compiled_call_impl", None) is not None
        run = network._call_impl if hidden else network
        floats = (each.dtype for each in network.parameters() if each.is_floating_point())
        # A network may write into its input, so it gets a copy.
        arranged = self.input.arrange(x.to(next(floats, x.dtype), copy=True))
        keyword = self.input.keyword
        try:
            return run(**{keyword: arranged}) if keyword else run(arranged)
        except UNSUITABLE as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise

            def call(other: torch.Tensor) -> Any:
                other = other.to(next(floats, x.dtype))
                return run(**{keyword: other}) if keyword else run(other)

            told = unsuitable_input(network, self.input, x, error, call)
            raise ValueError(told) from error

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.module.parameters())
        classes = "?" if self.classes is None else len(self.classes)
        return (
            f"<VideoModel {self.name or type(self.module).__name__}: {count:,} parameters, "
            f"{classes} classes, {self.input.frames} frames, {self.device}>"
        )
