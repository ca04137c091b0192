"""Dependence: by which layers' outputs the logits vary, from the gradients of one recorded pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..models.hooks import Call, keeping_saved_values
from ..models.video_model import Pass
from .candidates import Site
from .class_weights import join_calls

__all__ = ["Dependence", "RunPass"]

TOUCHED = 0.1  # share of a map's voxels on which the logits have to depend
ROUNDING = 1e-4  # of a gradient's size: a sum over voxels below this is rounding

RunPass = Callable[..., Pass]  # `VideoModel.run` on the clip of the search


@dataclass(frozen=True, eq=False)
class Dependence:
    """One recorded pass through some layers, from which gradients between them follow.

    Attributes:
        sites: the layers, the last one first.
        logits: (N,) with gradients.
        outputs: what each layer gave, a tensor for each call.
        overwrites: the network overwrites values that gradients need, so copies were recorded.
    """

    sites: list[Site]
    logits: torch.Tensor
    outputs: dict[Call, list[torch.Tensor]]
    overwrites: bool = False

    @classmethod
    def record(
        cls,
        run: RunPass,
        sites: Sequence[Site],
        output: str,
        source: Call | None,
        cut: Sequence[Site] = (),
        overwrites: bool = False,
    ) -> Dependence:
        """Run the network once, recording gradients from the earliest of some layers on.

        Args:
            run: runs the network on the clip.
            sites: the layers, the last one first.
            output: the name of the output whose logits are meant.
            source: the layer that gives the logits; None: the output itself.
            cut: layers through which no gradient flows.
            overwrites: record copies, because the network overwrites what gradients need.
        """
        calls = [site.call for site in sites]
        ends = [site.call for site in cut]
        wanted = [*calls, *ends, *([] if source is None else [source])]
        within = keeping_saved_values() if overwrites else None
        passed = run(wanted, gradients_from=(calls[-1], *ends), within=within)
        logits = passed.outputs[output] if source is None else passed.taken[source][-1]
        recorded = cls(list(sites), logits, passed.taken, overwrites)
        try:
            recorded._by_logits  # noqa: B018 - computed once, here
        except RuntimeError as error:
            if overwrites or "inplace" not in str(error):
                raise
            return cls.record(run, sites, output, source, cut, overwrites=True)
        return recorded

    def reached(self, sites: Sequence[Site] = ()) -> list[Site]:
        """Return those of some layers, or of all, by whose maps the logits vary.

        The head of a class token leaves the other tokens of the last layers without a gradient.
        """
        by_logits = self._by_logits
        return [s for s in sites or self.sites if s in by_logits and _varies(s, by_logits[s])]

    def bypassed(self, site: Site) -> bool:
        """Return whether the logits depend on the earliest layer other than through this one."""
        handles = [
            each.register_hook(torch.zeros_like)
            for each in self.outputs[site.call]
            if each.requires_grad
        ]
        try:
            around = self._gradients_of_logits(self.sites[-1:])
        finally:
            for handle in handles:
                handle.remove()
        return any(bool(gradient.any()) for gradient in around.values())

    def streams(self, last: Site, reached: Sequence[Site], count: int) -> tuple[Site, ...]:
        """Return `last` and up to `count - 1` layers that lie beside it, in another stream.

        A layer lies beside another if neither depends on the other, nor both on a third: queries
        and keys, or branches of one block, are no streams.
        """
        chosen = [last]
        earlier = reached[reached.index(last) + 1 :]
        behind = self._depends(last, earlier)
        for site in earlier:
            if len(chosen) == count:
                break
            if site in behind:
                continue
            before = self._depends(site, reached[reached.index(site) + 1 :])
            if not before & behind:
                chosen.append(site)
                behind |= {site, *before}
        return tuple(chosen)

    @cached_property
    def _by_logits(self) -> dict[Site, torch.Tensor]:
        return self._gradients_of_logits(self.sites)

    def _gradients_of_logits(self, sites: Sequence[Site]) -> dict[Site, torch.Tensor]:
        # A random mixture of the logits has a gradient wherever any of them has.
        generator = torch.Generator().manual_seed(0)
        mix = torch.randn(self.logits.numel(), generator=generator).to(self.logits.device)
        if not self.logits.requires_grad:
            return {}
        with torch.enable_grad():
            mixed = (self.logits.flatten().float() * mix).sum()
        return self._gradients(mixed, sites)

    def _depends(self, site: Site, others: Sequence[Site]) -> set[Site]:
        """Return those of some other layers on which a layer depends."""
        outputs = [each for each in self.outputs[site.call] if each.requires_grad]
        if not outputs or not others:
            return set()
        generator = torch.Generator().manual_seed(0)
        with torch.enable_grad():
            mixed = torch.stack(
                [
                    (each * torch.randn(each.shape, generator=generator).to(each)).sum()
                    for each in outputs
                ]
            ).sum()
        return {s for s, gradient in self._gradients(mixed, others).items() if bool(gradient.any())}

    def _gradients(self, total: torch.Tensor, sites: Sequence[Site]) -> dict[Site, torch.Tensor]:
        """Return the gradient of a number by what each layer gave, calls joined."""
        parts = [(s, maps) for s in sites for maps in self.outputs[s.call] if maps.requires_grad]
        if not parts:
            return {}
        inputs = [maps for _, maps in parts]
        found = torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
        by_site: dict[Site, list[torch.Tensor]] = {}
        for (site, maps), gradient in zip(parts, found):
            filled = torch.zeros_like(maps) if gradient is None else gradient
            by_site.setdefault(site, []).append(filled)
        return {site: join_calls(gradients) for site, gradients in by_site.items()}


def _varies(site: Site, gradient: torch.Tensor) -> bool:
    """Return whether the logits depend on a map, and its class weights are more than rounding."""
    arranged = site.layout.arranged(gradient)[0].float()
    touched = arranged.abs().sum(0) > 0
    if not bool(touched.any()) or float(touched.float().mean()) < TOUCHED:
        return False
    # Attention scores before a softmax have gradients that add up to zero.
    sums = arranged.sum((1, 2, 3)).abs()
    sizes = arranged.abs().sum((1, 2, 3))
    return bool((sums > ROUNDING * sizes).any())
