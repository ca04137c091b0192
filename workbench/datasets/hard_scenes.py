"""Scenes that no shipped network was trained on: objects that leave, and a cook's kitchen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .scenes import ASPECT, GAP, WORKTOP, Actor, Scene

__all__ = ["kitchen_scene", "leaving"]

# In the kitchen each action has its thing, and some things lie on others.
THINGS = {
    "stir": "spoon",
    "shake": "pan",
    "pound": "mallet",
    "lift": "cup",
    "lower": "cup",
    "rotate": "lid",
    "open": "box",
    "close": "box",
}
UNDER = {"spoon": "pot", "mallet": "board", "lid": "jar"}
LYING_ABOUT = ("plate", "knife", "onion", "cup", "board", "pot")


def kitchen_scene(
    rng: np.random.Generator,
    actors: Sequence[Actor],
    place: Callable[[], Actor],
    *,
    duration: float,
    seed: int,
) -> Scene:
    """Return actors as things that a hand holds, on a worktop with other things about.

    `place` draws a still object that is out of the actors' way; `seed` is of the grain.
    """
    acting = [_thing(rng, actor) for actor in actors]
    under = [_thing_under(actor) for actor in acting if actor.shape in UNDER]
    still = []
    for shape in rng.choice(LYING_ABOUT, 3, replace=False):
        beside = replace(place(), size=rng.uniform(0.1, 0.14))
        angle = rng.uniform(-0.7, 0.7)
        # Not on the tiles at the back.
        still.append(replace(beside, shape=str(shape), y=max(0.27, beside.y), angle=angle))
    sway = [(rng.uniform(0.3, 1.5), *rng.uniform(0, 2 * np.pi, 2)) for _ in range(3)]
    return Scene(
        actors=(*still, *under, *acting),
        duration=duration,
        photograph=f"{WORKTOP}{rng.integers(16)}",
        corner=(rng.random(), rng.random()),
        zoom=rng.uniform(0.8, 1.0),
        tint=tuple(rng.uniform(0.75, 1.0) * rng.uniform(0.95, 1.05, 3)),
        jitter=rng.uniform(0.002, 0.006),  # a head is less steady than a stand
        flicker=rng.uniform(0, 0.04),
        grain=rng.uniform(2, 6),
        seed=seed,
        sway=tuple(sway),
    )


def _thing(rng: np.random.Generator, actor: Actor) -> Actor:
    """Return an actor as the thing of the kitchen that its action is done to."""
    shape = THINGS[str(actor.action)]
    angle = rng.uniform(-0.35, 0.35)
    opened = float(actor.action == "close")
    return replace(actor, shape=shape, angle=angle, opened=opened, held=True)


def _thing_under(actor: Actor) -> Actor:
    """Return what lies under a thing that acts: the pot in which the spoon goes around, say."""
    lower = actor.swing - actor.size / 2 if actor.action == "stir" else 0.0
    return replace(
        actor,
        shape=UNDER[actor.shape],
        y=actor.y + lower,
        size=0.21 if actor.action == "stir" else 0.17,
        angle=0.0,
        action=None,
        held=False,
    )


def leaving(rng: np.random.Generator, actor: Actor) -> Actor:
    """Return an actor that leaves over the nearer side, within half a second of its action."""
    right = actor.x > ASPECT / 2
    distance = (ASPECT - actor.x if right else actor.x) + actor.size * (1.2 + GAP) + actor.swing
    speed = distance / rng.uniform(0.35, 0.5)
    return replace(actor, exit=(float(speed if right else -speed), 0.0))
