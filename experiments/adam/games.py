"""Online problems in the box [-1, 1]^n, the methods that play them, and their regret."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj
from experiments.adam.config import WINDOWS
from nested_jax.problems import OnlineWorld

METHODS = ("SGD", "Nesterov", "AdaGrad", "Adam", "AMSGrad")
RARE = 0.012
"""Probability of the large loss. With the paper's 0.01, the mean slope is 0.2 and the noise 100, so
that chance decides for a million steps which decision is best; here the slope is 2.2."""


class Game(NamedTuple):
    """An online problem.

    Attributes:
        title: Its losses, in words.
        problem: The losses.
        b1, b2: Adam's decays in it.
        scale: The largest gradient. The learning rates of SGD and Nesterov are divided by it, so
            that the steps of all methods have the same order.
    """

    title: str
    problem: nj.Problem
    b1: float = 0.9
    b2: float = 0.999
    scale: float = 10.0


def games(dim: int = 20, seed: int = 0) -> dict[str, Game]:
    """Return the online problems: three on which Adam does not converge, and two others."""
    rare = [[1010.0], [-10.0]]
    in_turn = nj.online_convex(rare[:1] + rare[1:] * 100)
    by_chance = nj.online_convex(rare, probabilities=[RARE, 1 - RARE])
    three = nj.online_convex([[4.0], [-1.0], [-1.0]])
    return {
        "period 101": Game("1010θ, then 100 times −10θ", in_turn, 0.9, 0.99, 1010.0),
        "period 3": Game("4θ, then twice −θ", three, 0.0, 1 / 17, 4.0),
        "by chance": Game("1010θ or −10θ, by chance", by_chance, 0.9, 0.99, 1010.0),
        "sparse": _sparse(dim, np.random.default_rng(seed)),
        "curved": _curved(dim, np.random.default_rng(seed + 1)),
    }


def _sparse(dim: int, rng: np.random.Generator) -> Game:
    """Return linear losses of one coordinate a step: some are frequent, some are large."""
    frequency = 1 / np.arange(1, dim + 1)
    frequency /= frequency.sum()
    sizes = rng.permutation(np.geomspace(0.1, 10.0, dim))
    lean = 0.2 * rng.choice([-1.0, 1.0], dim)
    slopes = np.concatenate([np.diag(sizes), -np.diag(sizes)])
    probabilities = np.concatenate([frequency * (1 + lean), frequency * (1 - lean)]) / 2
    problem = nj.online_convex(slopes, probabilities=probabilities)
    return Game("linear, one coordinate a step", problem)


def _curved(dim: int, rng: np.random.Generator, rows: int = 100) -> Game:
    """Return squared distances to scattered targets, with very different weights."""
    weights = rng.permutation(np.geomspace(0.1, 10.0, dim)) * rng.exponential(size=(rows, dim))
    targets = rng.uniform(-0.8, 0.8, dim) + rng.normal(size=(rows, dim))
    probabilities = np.full(rows, 1 / rows)
    problem = nj.online_convex(-weights * targets, weights, probabilities=probabilities)
    return Game("squared distances to targets", problem)


def player(method: str, game: Game, rate: Any) -> optax.GradientTransformation:
    """Return a method that plays in the box, with a learning rate that falls as 1 / sqrt(t)."""

    def falling(scale: float) -> Callable[[Any], Any]:
        return lambda t: rate / jnp.sqrt(t + 1.0) / scale

    if method == "SGD":
        return boxed(nj.momentum(falling(game.scale), decay=0.0))
    if method == "Nesterov":
        return boxed(nj.nesterov(falling(game.scale), decay=0.9))
    if method == "AdaGrad":  # Its sum of squares makes its steps fall.
        return boxed(optax.adagrad(rate, initial_accumulator_value=0.0))
    # The proofs, and the counterexamples, are for Adam without bias correction.
    scale = nj.scale_by_adam(game.b1, b2=game.b2, amsgrad=method == "AMSGrad", debias=False)
    return boxed(optax.chain(scale, nj.scale_by_learning_rate(falling(1.0))))


def boxed(tx: Any, radius: float = 1.0) -> optax.GradientTransformation:
    """Return `tx` followed by the projection onto the box, a clip in any diagonal norm."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        steps, state = tx.update(updates, state, params)
        return jnp.clip(params + steps, -radius, radius) - jnp.asarray(params), state

    return optax.GradientTransformation(tx.init, update)


def play(game: Game, tx: Any, key: jax.Array, steps: int) -> dict[str, jax.Array]:
    """Return the decision and the mean regret per step at the end of each of `WINDOWS`."""
    problem, stride = game.problem, steps // WINDOWS
    start = problem.init(key)
    draws = jax.vmap(problem.draw)(jax.random.split(key, steps))
    trace = nj.rollout(
        tx,
        problem,
        key,
        steps,
        stride=stride,
        record=lambda params, opt_state: params,
        initial=start,
        draws=draws,  # None for losses in a fixed order.
    )

    def window(world: Any, rows: Any) -> tuple[Any, Any]:
        world, _ = jax.lax.scan(
            lambda world, row: (problem.observe(row, world)[1], None), world, rows, stride
        )
        return world, world

    rows = None if draws is None else draws.reshape(WINDOWS, stride)
    _, worlds = jax.lax.scan(window, start[1], rows, WINDOWS)
    lost = stride * jnp.cumsum(jnp.asarray(trace.loss_curve))
    played = stride * jnp.arange(1, WINDOWS + 1)
    return {"theta": trace.records, "regret": jax.vmap(OnlineWorld.regret)(worlds, lost) / played}
