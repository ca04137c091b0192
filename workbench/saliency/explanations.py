"""Explanations: one forward pass, from which any Saliency Tube follows.

`explain` runs a network on a clip and keeps the activation maps of the target layer and the class weights: those of
the linear head where the network ends in average pooling and one, gradients elsewhere. `targets` finds which.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..clips.clip import Clip
from ..models.outputs import are_probabilities, named_outputs, pick_output
from ..models.video_model import VideoModel, find_module
from .hooks import EVERY, Capture, Key, joined, refuse_nan
from .layer_search import TOLERANCE, Target, find_targets, linear_head, residual
from .tubes import Tube, activation_map, upsample

__all__ = ["WEIGHTS", "Explanation", "explain"]

HALVES = (torch.float16, torch.bfloat16)
COARSE = 0.03  # TOLERANCE in half precision
WEIGHTS = ("gradient", "gradient++", "layer")  # kinds that can be asked for


@dataclass(frozen=True)
class _Graph:
    """What gradients are taken of: logits (N,), and each pathway's layer output as the network made it, by call."""

    logits: torch.Tensor
    outputs: tuple[list[torch.Tensor], ...]
    target: Target
    kind: str


@dataclass(eq=False, repr=False)
class Explanation:
    """What a network said of a clip, and all that is needed to say why.

    Attributes:
        logits: (N,) float32.
        maps: activation maps (C, T', H', W') float32 of the target layer, one tensor for each pathway.
        bias: (N,) of the linear head, zeros where weights come from gradients.
        exact: whether mean(tube before upsampling) + bias is the logit, for every class.
        residual: the largest violation of that identity, as a share of the largest |logit|; NaN where not exact.
        layer: dotted name of the target layer; of two pathways both, joined by " + ".
        clip: the clip as the network saw it; every tube has its size.
        classes: N class names.
        model: name of the model.
        output: which of the network's outputs this explains; `outputs` has all, and `select` gives another's.
    """

    logits: torch.Tensor
    maps: tuple[torch.Tensor, ...]
    bias: torch.Tensor
    exact: bool
    residual: float
    layer: str
    clip: Clip
    classes: list[str]
    model: str = ""
    output: str = "logits"
    _weights: torch.Tensor | None = None
    _graph: _Graph | None = None
    _rows: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    _stacked: torch.Tensor | None = None
    _others: dict[str, Explanation] = field(
        default_factory=dict
    )  # of the same pass, this one among them

    @property
    def activations(self) -> torch.Tensor:
        """(C, T', H', W') float32: the maps of the target layer.

        Of two pathways one after the other, each repeated to the finer grid, which leaves their means as they are.
        """
        if len(self.maps) == 1:
            return self.maps[0]
        grid = [max(maps.shape[axis] for maps in self.maps) for axis in (1, 2, 3)]
        return torch.cat([_repeated(maps, grid) for maps in self.maps])

    @property
    def pathways(self) -> tuple[str, ...]:
        """The layer of each pathway; most networks have one."""
        return tuple(self.layer.split(" + "))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the network's outputs, `output` among them."""
        return tuple(self._others) or (self.output,)

    def select(self, output: str) -> Explanation:
        """Return the explanation of another output (the nouns beside the verbs), from the same forward pass.

        Raises KeyError that lists the outputs.
        """
        every = self._others or {self.output: self}
        # What is in `_others` knows no others: no cycle keeps the tensors alive.
        return replace(every[pick_output(every, output)], _others=self._others)

    @property
    def probabilities(self) -> torch.Tensor:
        """(N,) softmax of the logits."""
        return self.logits.softmax(0)

    @property
    def how(self) -> str:
        """In words: exact, and how exact, or by which weights."""
        kind = "gradient" if self._graph is None else self._graph.kind
        return f"exact, residual {self.residual:.1e}" if self.exact else f"{kind} weights"

    @property
    def weights(self) -> torch.Tensor | None:
        """(N, C) class weights y; where they come from gradients, None until all classes have been asked for."""
        if self._weights is not None:
            return self._weights
        if self._stacked is None and len(self._rows) == len(self.classes):
            self._stacked = torch.stack([self.channel_weights(i) for i in range(len(self.classes))])
        return self._stacked

    def class_weights(self, target: int | str | None = None) -> torch.Tensor:
        """Return (C,) the class weights y_i of one class.

        Where the head is pooled and linear these are its weights. Elsewhere they are Grad-CAM's (Selvaraju et
        al., ICCV 2017), ∂logit_i/∂a_j summed over a map's voxels; on a pooled linear head that sum is the head's
        weight, so τ has the same units. Computed from the kept graph: no second forward pass.

        Of an explanation made with weights="gradient++" those of Grad-CAM++ (Chattopadhay et al., WACV 2018); with
        "layer" LayerCAM's (Jiang et al., TIP 2021), one for each voxel: (C, T', H', W').
        """
        weights = self._pathway_weights(self.class_id(target))
        if weights[0].ndim > 1:
            weights = [_repeated(each, list(self.activations.shape[1:])) for each in weights]
        return torch.cat(weights)

    def channel_weights(self, target: int | str | None = None) -> torch.Tensor:
        """Return (C,) one weight a feature, which τ is held against: of element-wise weights the mean over voxels."""
        weights = self.class_weights(target)
        return weights if weights.ndim == 1 else weights.flatten(1).mean(1)

    def _pathway_weights(self, number: int) -> list[torch.Tensor]:
        """Return the class weights of each pathway: (C,), or (C, T', H', W') of its maps."""
        if self._weights is not None:
            return list(self._weights[number].split([len(maps) for maps in self.maps]))
        if number not in self._rows:
            if self._graph is None:
                raise RuntimeError(
                    "the gradients of this explanation are gone: explain the clip again"
                )
            self._rows[number] = self._from_graph(self._graph, number)
        return self._rows[number]

    def _from_graph(self, graph: _Graph, number: int) -> list[torch.Tensor]:
        every = [each for outputs in graph.outputs for each in outputs]
        try:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
            ):  # whatever the user's own code is in
                gradients = iter(
                    torch.autograd.grad(graph.logits[number], every, retain_graph=True)
                )
        except (
            RuntimeError
        ) as error:  # the explanation was copied or loaded, or the weights have changed
            gone = "the gradients of this explanation are gone: explain the clip again"
            raise RuntimeError(f"{gone} ({error})") from error
        layouts = [site.layout for site in graph.target.sites]
        return [
            _KINDS[graph.kind](
                layout.arranged(joined(list(islice(gradients, len(outputs))))).float(), maps
            )
            for layout, outputs, maps in zip(layouts, graph.outputs, self.maps)
        ]

    def class_id(self, target: int | str | None = None) -> int:
        """Return the 0-based class id of a name, an id, or (None) of the predicted class.

        Raises KeyError that lists near names, IndexError for an id beyond the classes.
        """
        if target is None:
            return int(self.logits.argmax())
        if isinstance(target, str):
            if target not in self.classes:
                raise KeyError(_no_class(target, self.classes))
            return self.classes.index(target)
        if not 0 <= int(target) < len(self.classes):
            raise IndexError(
                f"class id {target}: the network has {len(self.classes)} classes, counted from 0"
            )
        return int(target)

    def top(self, count: int = 5) -> pd.DataFrame:
        """Return the `count` most probable classes as a DataFrame: class, probability, logit."""
        order = self.logits.argsort(descending=True)[:count].cpu()
        return pd.DataFrame(
            {
                "class": [self.classes[i] for i in order.tolist()],
                "probability": self.probabilities.cpu()[order].numpy(),
                "logit": self.logits.cpu()[order].numpy(),
            }
        )

    def tube(
        self,
        target: int | str | None = None,
        tau: float | None = None,
        pathway: int | str | None = None,
        centred: bool = False,
    ) -> Tube:
        """Return the Saliency Tube of a class (Eq. 1 and 2, then a cubic spline to the clip's size).

        Args:
            target: class name or 0-based id; None: the predicted class.
            tau: keep the features whose class weight is at least this; None keeps all.
            pathway: of a network of two pathways the one to show, by name or number; None: the sum of both.
            centred: put every cell of the map at the middle of its share of the clip. As in the paper, the first and
                last cells lie on the clip's first and last frame and pixel, which moves evidence towards the edges:
                by up to half a cell. On clips with a known answer centred tubes point more exactly
                (notebooks/faithfulness.ipynb).

        Raises:
            KeyError, IndexError: no such class or pathway.
            ValueError: τ is not a finite number.
        """
        number = self.class_id(target)
        chosen, first, parts = self._pathway(pathway), 0, []
        for place, (maps, weights) in enumerate(zip(self.maps, self._pathway_weights(number))):
            if chosen in (None, place):
                low, kept = activation_map(maps, weights, tau)
                parts.append((low, kept + first))
            first += len(maps)
        return self._upsampled(parts, number, self.classes[number], tau, centred)

    def feature_tube(self, channel: int) -> Tube:
        """Return one activation map at the clip's size: what a single feature responds to (Fig. 1b).

        Raises IndexError where the layer has no such channel.
        """
        count = sum(map(len, self.maps))
        if not 0 <= int(channel) < count:
            raise IndexError(
                f"channel {channel}: layer {self.layer!r} has {count} channels, counted from 0"
            )
        place = number = int(channel)
        for maps in self.maps:
            if place < len(maps):
                break
            place -= len(maps)
        return self._upsampled(
            [(maps[place], torch.tensor([number]))], None, f"feature {number}", None
        )

    def channels(self, target: int | str | None = None, top: int | None = 10) -> pd.DataFrame:
        """Return the features that speak loudest for a class, as a DataFrame.

        Columns: channel, weight y, mean activation over (T', H', W'), and their product, the contribution: with
        the bias, the contributions of all channels add up to the logit where the explanation is exact. The
        `top` largest contributions; None for all channels.
        """
        weights = self.class_weights(target)
        contributions = (
            weights.view(len(weights), -1, 1, 1) if weights.ndim == 1 else weights
        ) * self.activations
        table = pd.DataFrame(
            {
                "channel": np.arange(len(weights)),
                "weight": self.channel_weights(target).cpu().numpy(),
                "mean activation": self.activations.mean((1, 2, 3)).cpu().numpy(),
                "contribution": contributions.mean((1, 2, 3)).cpu().numpy(),
            }
        ).sort_values("contribution", ascending=False, ignore_index=True)
        return table if top is None else table.head(top)

    def _pathway(self, wanted: int | str | None) -> int | None:
        if isinstance(wanted, str):
            if wanted not in self.pathways:
                raise KeyError(f"no pathway {wanted!r}; there are {', '.join(self.pathways)}")
            return self.pathways.index(wanted)
        if wanted is not None and not 0 <= wanted < len(self.maps):
            raise IndexError(f"pathway {wanted}: the network has {len(self.maps)}, counted from 0")
        return wanted

    def _upsampled(
        self,
        parts: list[tuple[torch.Tensor, torch.Tensor]],
        target: int | None,
        label: str,
        tau: float | None,
        centred: bool = False,
    ) -> Tube:
        """Return the tube of one map (T', H', W') and its channels, or the sum of several."""
        size = (len(self.clip), *self.clip.size)
        volume = torch.stack([upsample(low, size, centred) for low, _ in parts]).sum(0)
        grid = [max(low.shape[axis] for low, _ in parts) for axis in range(3)]
        low = torch.cat([_repeated(low[None], grid) for low, _ in parts]).sum(0)
        return Tube(
            volume=volume.cpu().numpy(),
            target=target,
            label=label,
            tau=None if tau is None else float(tau),
            channels=torch.cat([kept for _, kept in parts]).cpu().numpy(),
            features=sum(map(len, self.maps)),
            map=low.float().cpu().numpy(),
            times=self.clip.times,
        )

    def __repr__(self) -> str:
        best = self.class_id()
        sizes = " + ".join(
            f"{len(maps)} maps of {'×'.join(map(str, maps.shape[1:]))}" for maps in self.maps
        )
        return (
            f"<Explanation by {self.model}: {self.classes[best]!r} at {float(self.probabilities[best]):.1%}, "
            f"{sizes} at {self.layer!r}, {self.how}>"
        )


def explain(
    model: VideoModel, clip: Clip | torch.Tensor, weights: str | None = None
) -> Explanation:
    """Run a model on a clip once, and keep what every tube needs.

    Args:
        model: from `wb.load_model` or `wb.wrap_model`. On its first clip the target layer and its head are
            looked for (or `model.layer`, `model.head` taken) and remembered, and the faster memory format is measured.
        clip: a `Clip`; one with more frames than the network takes is sampled as `model.input` says. A ready
            tensor (1, 3, T, H, W) is taken as it is.
        weights: None: those of the head where it is pooled and linear, gradients elsewhere. "gradient", "gradient++" or
            "layer" ask for those, see `Explanation.class_weights`.

    Returns:
        An `Explanation`, of the first output where the network has several (or of `model.output`). The network's
        training flags, hooks, gradients and memory format are as before.

    Raises:
        ValueError: a clip of the wrong length or size, NaN in the network, no layer with a spatio-temporal map,
            or a number of class names that is not that of the logits.
        KeyError: `model.layer` or `model.head` names no module.
    """
    if not isinstance(model, VideoModel):
        raise TypeError(
            f"expected a model from wb.wrap_model(module) or wb.load_model, got {type(model).__name__}"
        )
    if weights not in (None, *WEIGHTS):
        raise ValueError(f"weights: expected None or one of {', '.join(WEIGHTS)}; got {weights!r}")
    # A user's own inference mode would leave tensors that refuse to be differentiated, and autocast rounds.
    with torch.inference_mode(False), torch.autocast(model.device.type, enabled=False):
        seen, x = model.prepare(clip)
        if not x.isfinite().all():
            raise ValueError("the input holds NaN or infinite values")
        for again in (False, True):  # a network may have changed since it was searched
            explained = _explained_by(model, seen, x, _targets(model, x, again), weights)
            if explained is not None:
                return explained
    raise ValueError(
        f"{type(model.network).__name__} says something else of the same clip each time"
    )


@dataclass(frozen=True)
class _Found:
    """The targets of a network, and the state of its weights when they were found."""

    targets: dict[str, Target]
    state: int


def _targets(model: VideoModel, x: torch.Tensor, again: bool) -> dict[str, Target]:
    """Return what is to be explained: what is remembered, or found now.

    It is found anew for other names of layer and head; for clips of another size, where tokens lie otherwise; and for
    other weights where nothing but a search tells whether it still holds.
    """
    size = (x.shape[2], x.shape[3], x.shape[4])
    model.found = model.found or {}
    for key in ((model.layer, model.head, size), (model.layer, model.head, None)):
        known: _Found | None = model.found.get(key)
        if known is None or again:
            continue
        if all(
            target.head is not None for target in known.targets.values()
        ) or known.state == _state(model):
            return known.targets
    targets = _search(model, x, size)
    fixed = any(
        site.layout.order == "tokens" or site.call == EVERY
        for t in targets.values()
        for site in t.sites
    )
    model.found[model.layer, model.head, size if fixed else None] = _Found(targets, _state(model))
    return targets


def _state(model: VideoModel) -> int:
    """Return a number that changes when weights are put in place of others, or written to."""
    return hash(
        tuple(
            (id(each), each._version)
            for each in model.network.parameters()
            if not each.is_inference()
        )
    )


def _search(model: VideoModel, x: torch.Tensor, size: tuple[int, int, int]) -> dict[str, Target]:
    """Find what is to be explained; a bar shows when that takes over two seconds."""
    with (
        model.evaluating() as network,
        tqdm(
            desc="First clip: finding the layer to explain", unit=" passes", delay=2, leave=False
        ) as bar,
    ):

        def call() -> object:
            bar.update()
            return model.call(network, x)

        pathways = len(model.input.pathways) or 1
        half = any(each.dtype in HALVES for each in network.parameters())
        return find_targets(
            network, call, size, model.layer, model.head, pathways, COARSE if half else TOLERANCE
        )


def _explained_by(
    model: VideoModel, clip: Clip, x: torch.Tensor, targets: dict[str, Target], weights: str | None
) -> Explanation | None:
    """Return the explanation by these targets; None where they are no longer those of the network."""
    try:
        rows, taken = _forward(model, x, targets, weights)
    except KeyError:  # a layer or an output is gone, or is called less often
        return None
    if (
        len(targets) > 1 and model.output is None
    ):  # the one that the class names are for, else the first
        count = None if model.classes is None else len(model.classes)
        model.output = next(
            (name for name in targets if len(rows[name]) == count), next(iter(targets))
        )
    others: dict[str, Explanation] = {}
    for name, target in targets.items():
        ex = _explained(model, clip, x, target, rows[name], taken, weights)
        if ex is None:
            return None
        others[name] = ex
    first = others[pick_output(others, model.output)]
    return replace(first, _others=others) if len(others) > 1 else first


Taken = dict[Key, list[torch.Tensor]]


def _forward(
    model: VideoModel, x: torch.Tensor, targets: dict[str, Target], weights: str | None
) -> tuple[dict[str, torch.Tensor], Taken]:
    """Run the network once; return the logits (N,) of each output, and the layers' outputs that are explained."""
    wanted, graph = set(), set()
    for target in targets.values():
        keys = {site.key for site in target.sites}
        graph |= keys if weights is not None or target.head is None else set()
        wanted |= keys | (set() if target.logits is None else {target.logits})
    capture = Capture(tuple(wanted), tuple(graph))
    with (
        model.running(x) as network,
        torch.inference_mode(not graph),
        torch.no_grad(),
        capture.on(network),
    ):
        said = model.call(network, x, fast=not graph)
    # Inference tensors would refuse to take part in a user's own gradients.
    taken = {
        key: outputs if graph else [each.clone() for each in outputs]
        for key, outputs in capture.taken.items()
    }
    if missing := wanted - set(taken):
        raise KeyError(f"{', '.join(layer for layer, _ in missing)} gave nothing")
    outputs = named_outputs(said)
    rows = {}
    with torch.set_grad_enabled(bool(graph)):
        for name, target in targets.items():
            row = (
                (outputs[name] if target.logits is None else taken[target.logits][-1])
                .flatten()
                .float()
            )
            row = row if graph else row.clone()
            softmaxed = target.logits is None and are_probabilities(row)
            rows[name] = row.clamp(min=1e-30).log() if softmaxed else row
    return rows, taken


def _explained(
    model: VideoModel,
    clip: Clip,
    x: torch.Tensor,
    target: Target,
    logits: torch.Tensor,
    taken: Taken,
    weights: str | None,
) -> Explanation | None:
    """Return the explanation of one output; None where its head no longer gives the logits."""
    outputs = tuple(taken[site.key] for site in target.sites)
    linear = target.head is not None and weights is None
    maps = tuple(
        (site.layout.maps if linear else site.layout.arranged)(joined(output).detach())
        .float()
        .contiguous()
        for site, output in zip(target.sites, outputs)
    )
    plain = logits.detach()
    if not (plain.isfinite().all() and all(each.isfinite().all() for each in maps)):
        with model.evaluating() as network:
            refuse_nan(
                network, lambda: model.call(network, x), (x.shape[2], x.shape[3], x.shape[4])
            )
    classes = model.class_names(target.output, len(plain))
    common = (target.layer, clip, classes, model.name, target.output)
    if not linear:
        graph = _Graph(logits, outputs, target, weights or "gradient")
        return Explanation(
            plain, maps, torch.zeros_like(plain), False, float("nan"), *common, _graph=graph
        )
    head = linear_head(find_module(model.network, target.head or ""))
    if head is None:
        return None
    missed = residual(torch.cat([each.mean((1, 2, 3)) for each in maps]), head, plain)
    half = model.precision is not None or outputs[0][0].dtype in HALVES
    if not missed <= (COARSE if half else TOLERANCE):
        return None
    return Explanation(
        plain, maps, head[1].clone(), True, missed, *common, _weights=head[0].clone()
    )


def _grad_cam(gradient: torch.Tensor, _maps: torch.Tensor) -> torch.Tensor:
    return gradient.sum((1, 2, 3))


def _grad_cam_plus_plus(gradient: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Weigh each voxel's positive gradient by α = g² / (2 g² + g³ Σ a), Eq. 19 of the paper, and sum over voxels."""
    square = gradient**2
    below = 2 * square + gradient**3 * maps.sum((1, 2, 3), keepdim=True)
    share = torch.where(below != 0, square / torch.where(below != 0, below, 1), 0)
    return (share * gradient.relu()).sum((1, 2, 3))


def _layer_cam(gradient: torch.Tensor, _maps: torch.Tensor) -> torch.Tensor:
    """Weigh each voxel by its own positive gradient; times the number of voxels, so that τ keeps its units."""
    return gradient.relu() * gradient[0].numel()


_KINDS = {"gradient": _grad_cam, "gradient++": _grad_cam_plus_plus, "layer": _layer_cam}


def _repeated(maps: torch.Tensor, grid: list[int]) -> torch.Tensor:
    """Return maps (C, T', H', W') with each voxel repeated to a finer grid."""
    for axis, size in enumerate(grid, start=1):
        maps = (
            maps.repeat_interleave(size // maps.shape[axis], axis)
            if size > maps.shape[axis]
            else maps
        )
    return maps


def _no_class(target: str, classes: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(target, classes, n=5, cutoff=0.4) or classes[:5]
    return f"no class {target!r} among {len(classes)}; near: {', '.join(near)}"
