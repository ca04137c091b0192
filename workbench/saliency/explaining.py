"""Explaining: one forward pass, from which any Saliency Tube follows.

`explain` runs a network on a clip and keeps the activation maps of the target layer and the class
weights: those of the linear head if `layer_search` has proved it, gradients otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from ..clips.clip import Clip
from ..models.hooks import keeping_saved_values
from ..models.locks import network_lock
from ..models.outputs import as_logits
from ..models.time_axes import answer_times
from ..models.video_model import Pass, VideoModel, find_module
from .class_weights import KINDS, GradientWeights, HeadWeights, RecordedGraph, join_calls
from .explanation import Explanation
from .frame_answers import (
    FrameAnswers,
    FrameGradientWeights,
    FrameHeadWeights,
    as_answers,
    frame_head_weights,
)
from .layer_search import Choices, LayerChoice, choose_layers, tolerance
from .linear_heads import Head, NormedHead, heads_of, joined_heads, linear_head, residual
from .relevance import held_linear

__all__ = ["chosen_head", "explain", "explain_batch"]


def explain(
    model: VideoModel,
    clip: Clip | torch.Tensor,
    weights: str | None = None,
    *,
    place: bool = True,
) -> Explanation:
    """Run a model on a clip once, and keep what every tube needs.

    Args:
        model: from `wb.load_model` or `wb.wrap_model`. On its first clip the target layer and its
            head are searched for (or `model.layer`, `model.head` taken) and remembered.
        clip: a `Clip`; one with more frames than the network takes is sampled as `model.input`
            says. A ready tensor (1, 3, T, H, W) is taken as it is.
        weights: None: those of the head if it is pooled and linear. Otherwise conserved relevance
            if attention mixes the tokens of the whole clip, and gradients of the last layer if not;
            `docs/networks.md` has the measurements. "gradient", "gradient++", "layer" and
            "relevance" ask for those, see `saliency.class_weights`.
        place: on the network's first clip, also prove how time, height and width lie in the maps,
            by six more passes; see `saliency.place`.

    Returns:
        An `Explanation` of the first output, if the network has several (or of `model.output`). If
        the network answers over time, `logits` is the mean of its answers, and `tube(frame=…)`
        explains single ones. Several threads may explain the same network, one after another. The
        network's training flags, hooks, gradients and memory format are as before.

    Raises:
        ValueError: a clip of the wrong length or size, NaN in the network, no layer with a
            spatio-temporal map, or another number of class names than of logits.
        KeyError: `model.layer` or `model.head` names no module.
    """
    return explain_batch(model, [clip], weights, place=place)[0]


def explain_batch(
    model: VideoModel,
    clips: Sequence[Clip | torch.Tensor | tuple[Clip, torch.Tensor]],
    weights: str | None = None,
    *,
    place: bool = True,
) -> list[Explanation]:
    """Explain several clips of one size by one forward pass; see `explain`.

    A pair is what `model.prepare` returned for a clip, perhaps in another thread.
    """
    if not isinstance(model, VideoModel):
        got = type(model).__name__
        raise TypeError(f"expected a model from wb.wrap_model or wb.load_model, got {got}")
    if weights is not None and weights not in KINDS:
        raise ValueError(f"weights: expected None or one of {', '.join(KINDS)}; got {weights!r}")
    # Inference mode would leave tensors that cannot be differentiated, and autocast rounds.
    with (
        network_lock(model.network),
        torch.inference_mode(False),
        torch.autocast(model.device.type, enabled=False),
    ):
        prepared = [clip if isinstance(clip, tuple) else model.prepare(clip) for clip in clips]
        seen = [clip for clip, _ in prepared]
        x = torch.cat([tensor for _, tensor in prepared])
        # The sum is finite in a fraction of the time, unless the values are out of all proportion.
        if not (x.sum().isfinite() or x.isfinite().all()):
            raise ValueError("the input holds NaN or infinite values")
        # The network may have changed since it was searched: then search once more.
        for again in (False, True):
            choices = choose_layers(model, x[:1], again=again, place=place, weights=weights)
            try:
                return _explanations(model, seen, x, choices, weights)
            except _OutdatedError:
                continue
    network = type(model.network).__name__
    raise ValueError(f"{network} gives another answer for the same clip each time")


class _OutdatedError(Exception):
    """The remembered choice of layers does not hold for the network as it is now."""


def _explanations(
    model: VideoModel, clips: list[Clip], x: torch.Tensor, choices: Choices, weights: str | None
) -> list[Explanation]:
    """Return the explanation of each clip by these layers."""
    # One pass serves all outputs. Gradients begin at the layers of those that need them.
    calls, starts = set(), set()
    for choice in choices.values():
        sites = {site.call for site in choice.sites}
        calls |= sites if choice.logits is None else {*sites, choice.logits}
        # Single answers over time may need gradients even if their mean does not.
        if weights is not None or choice.head is None or choice.time_axis is not None:
            starts |= sites
    try:
        kinds = {weights or choice.weights for choice in choices.values()}
        with ExitStack() as stack:
            if "relevance" in kinds:
                stack.enter_context(held_linear(model.network))
            if any(choice.overwrites for choice in choices.values()):
                stack.enter_context(keeping_saved_values())
            passed = model.run(x, calls, gradients_from=starts, measure=len(x) > 1)
        answers = {name: _answers(passed, choice, len(x)) for name, choice in choices.items()}
        logits = {
            name: _logits(passed, choice, len(x), answers[name]) for name, choice in choices.items()
        }
    except KeyError as error:  # a layer or an output is gone, or is called less often
        raise _OutdatedError from error
    main = model.main_output(logits)
    by_output = {}
    for name, choice in choices.items():
        classes = model.class_names(name, logits[name].shape[1], main=name == main)
        by_output[name] = _of_output(
            model,
            clips,
            passed,
            choice,
            logits[name],
            answers=answers[name],
            classes=classes,
            weights=weights,
        )
    explained = []
    for number in range(len(clips)):
        siblings = {name: explanations[number] for name, explanations in by_output.items()}
        several = siblings if len(siblings) > 1 else {}
        explained.append(replace(siblings[main], _siblings=several))
    return explained


def _recording(passed: Pass) -> bool:
    return any(each.requires_grad for copies in passed.taken.values() for each in copies)


def _answers(passed: Pass, choice: LayerChoice, batch: int) -> torch.Tensor | None:
    """Return the logits (batch, K, N) of answers over time; None for one answer per clip."""
    answers = passed.answers.get(choice.output)
    if (answers is None) != (choice.time_axis is None):
        raise KeyError(choice.output)  # it has another number of axes than when it was searched
    if answers is None or choice.time_axis is None:
        return None
    with torch.set_grad_enabled(_recording(passed)):
        if choice.logits is None:
            return as_logits(answers)
        values = passed.taken[choice.logits][-1].float()
        return as_answers(values, choice.time_axis, batch, answers.shape[-1])


def _logits(
    passed: Pass, choice: LayerChoice, batch: int, answers: torch.Tensor | None
) -> torch.Tensor:
    """Return the logits (batch, N) of an output, with gradients if they were recorded."""
    with torch.set_grad_enabled(_recording(passed)):
        if answers is not None:
            return answers.mean(1)
        if choice.logits is None:
            return as_logits(passed.outputs[choice.output])
        return passed.taken[choice.logits][-1].reshape(batch, -1).float()


def _of_output(
    model: VideoModel,
    clips: list[Clip],
    passed: Pass,
    choice: LayerChoice,
    logits: torch.Tensor,
    *,
    answers: torch.Tensor | None,
    classes: list[str],
    weights: str | None,
) -> list[Explanation]:
    """Return the explanation of one output for each clip."""
    by_gradient = choice.head is None or weights is not None
    outputs = tuple(passed.taken[site.call] for site in choice.sites)
    layouts = tuple(site.layout for site in choice.sites)
    # A gradient is with respect to the layer's own output, before a ReLU that is not a layer.
    batched = [
        (layout.arranged if by_gradient else layout.maps)(join_calls(output).detach()).float()
        for layout, output in zip(layouts, outputs)
    ]
    lock = network_lock(model.network)
    graph = RecordedGraph(logits, outputs, layouts, lock) if by_gradient else None
    timed = None if answers is None else RecordedGraph(answers, outputs, layouts, lock)
    head = None if by_gradient else chosen_head(model, choice, logits.shape[1])
    allowed = tolerance(model, norm=choice.norm is not None)
    explanations = []
    for number, clip in enumerate(clips):
        maps = tuple(each[number].contiguous() for each in batched)
        values = logits[number].detach()
        weighting: HeadWeights | GradientWeights
        if head is not None:
            weighting = _head_weights(head, choice, maps, values, allowed=allowed)
        elif graph is not None:
            kind = weights or choice.weights
            weighting = GradientWeights(
                kind, graph, number, maps, choice.mixed, choice.bypassed and kind == "relevance"
            )
        explanations.append(
            Explanation(
                logits=values,
                maps=maps,
                weighting=weighting,
                layer=choice.layer,
                clip=clip,
                classes=classes,
                model=model.name,
                output=choice.output,
                place=choice.place,
                independent=choice.independent,
                per_frame=None
                if timed is None
                else _frames(model, timed, number, maps, clip, weights, choice.weights),
            )
        )
    return explanations


def _frames(
    model: VideoModel,
    graph: RecordedGraph,
    number: int,
    maps: tuple[torch.Tensor, ...],
    clip: Clip,
    weights: str | None,
    default: str,
) -> FrameAnswers:
    """Return the answers over time of one clip: by a head if one gives every answer.

    `default`: the kind of weights if neither a head does nor `weights` asks for one.
    """
    logits = graph.logits[number].detach()
    weighting: FrameHeadWeights | FrameGradientWeights | None = None
    if weights is None:
        heads = heads_of(model.network, model.head, logits.shape[1])
        weighting = frame_head_weights(logits, maps, list(heads.values()), tolerance(model))
    weighting = weighting or FrameGradientWeights(weights or default, graph, number, maps)
    times = answer_times(len(logits), clip.times, model.answer_frames)
    return FrameAnswers(logits, times, weighting)


def chosen_head(model: VideoModel, choice: LayerChoice, classes: int) -> NormedHead:
    """Return a copy of the head that was chosen, as it is now; of several, joined."""
    parts = (linear_head(find_module(model.network, name)) for name in choice.heads)
    heads = [part for part in parts if part is not None and len(part.weight) == classes]
    if not heads or len(heads) < len(choice.heads):
        raise _OutdatedError
    head = joined_heads(heads, choice.share)
    norm = None if choice.norm is None else find_module(model.network, choice.norm)
    if not isinstance(norm, torch.nn.LayerNorm | None):
        raise _OutdatedError
    return NormedHead(Head(head.weight.clone(), head.bias.clone()), norm)


def _head_weights(
    chosen: NormedHead,
    choice: LayerChoice,
    maps: tuple[torch.Tensor, ...],
    logits: torch.Tensor,
    *,
    allowed: float,
) -> HeadWeights:
    """Return the head's weights, after testing on this clip that they give the logits."""
    means = torch.cat([each.mean((1, 2, 3)) for each in maps])
    if chosen.head.weight.shape[1] != len(means):
        raise _OutdatedError
    head = chosen.held(means)
    missed = residual(means, head, logits)
    if not missed <= allowed:
        raise _OutdatedError
    widths = tuple(map(len, maps))
    return HeadWeights(head.weight, head.bias, missed, widths, choice.norm, choice.mixed)
