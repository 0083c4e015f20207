"""The three tasks: drift, quadratics and the language model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj
from experiments.timescales.config import WINDOWS, Config
from experiments.timescales.text import Text

DRIFT = {"dim": 10, "decay": 0.95, "noise_std": 0.1}
"""That of the published level sweep."""
QUADRATICS = ((100.0, 0.0), (10_000.0, 0.0), (100.0, 0.1), (10_000.0, 0.1))
"""Condition number, and standard deviation of the gradient's noise."""
SIDE = 4
"""The parameters of a quadratic form a square matrix with sides of this length."""
EMBEDDING = 16
"""Numbers for each character."""
VALIDATION, TEST = 512, 2048
"""At most so many windows are evaluated, at equal distances in their part of the text."""


class Task(NamedTuple):
    """What methods are compared on.

    Attributes:
        label: Its name.
        cases: Their names; methods are tuned for each on its own.
        data: A tree of arrays, the first argument of `run`.
        run: (data, transform, key, case) -> `score`, by which hyperparameters are chosen, and
            `loss`, which is reported. Smaller is better.
        tuning_seeds: Number of runs on which hyperparameters are chosen.
        seeds: Number of reported runs.
    """

    label: str
    cases: Sequence[str]
    data: Any
    run: Callable[[Any, optax.GradientTransformation, jax.Array, Any], dict[str, jax.Array]]
    tuning_seeds: int
    seeds: int


def tasks(config: Config, text: Text) -> dict[str, Task]:
    """Return the tasks by name."""
    return {
        "drift": drift(config),
        "quadratics": quadratics(config),
        "language": language(config, text),
    }


def drift(config: Config) -> Task:
    """Return online regression on true weights that drift at several levels.

    The weights are the one row of a matrix, as those of a linear layer with one output.
    """
    levels = range(1, config.data_levels + 1)

    def run(data: Any, tx: Any, key: jax.Array, case: Any) -> dict[str, jax.Array]:
        problem = nj.drifting_regression(
            **DRIFT, data_levels=case + 1, max_levels=config.data_levels
        )
        of_row = _reshaped(problem, lambda p: p[None], lambda p: p[0])
        warmup = config.drift_steps // 4
        loss = nj.rollout(tx, of_row, key, config.drift_steps, warmup=warmup).mean_loss
        return {"loss": loss, "score": loss}

    return Task("drift", [f"d = {d}" for d in levels], (), run, config.tuning_seeds, config.seeds)


def quadratics(config: Config) -> Task:
    """Return quadratics with and without gradient noise; the largest curvature is 1.

    The loss is without the noise's term, its mean over the last quarter of the steps, over the
    initial loss. Scores are its logarithms.
    """

    def run(data: Any, tx: Any, key: jax.Array, case: Any) -> dict[str, jax.Array]:
        condition, noise = data[case]
        h = condition ** -jnp.linspace(1.0, 0.0, SIDE**2)
        problem = _reshaped(
            nj.quadratic(h, noise_std=noise), lambda p: p.reshape(SIDE, SIDE), jnp.ravel
        )
        initial = problem.init(jax.random.fold_in(key, 1))

        def loss(params: Any, opt_state: Any = None) -> jax.Array:
            return 0.5 * jnp.sum(h * jnp.square(jnp.ravel(params)))

        stride = config.quadratic_steps // WINDOWS
        options = {"stride": stride, "record": loss, "initial": initial}
        trace = nj.rollout(tx, problem, key, config.quadratic_steps, **options)
        last = jnp.mean(trace.records[-(WINDOWS // 4) :]) / loss(initial[0])
        last = jnp.maximum(last, jnp.finfo(last.dtype).tiny)  # An exact 0 has no logarithm.
        return {"loss": last, "score": jnp.log(last)}

    names = [f"κ = {condition:,.0f}" + ", noise" * (noise > 0) for condition, noise in QUADRATICS]
    return Task(
        "quadratics", names, jnp.asarray(QUADRATICS), run, config.tuning_seeds, config.seeds
    )


def _reshaped(
    problem: nj.Problem, shaped: Callable[[Any], Any], flat: Callable[[Any], Any]
) -> nj.Problem:
    """Return a problem whose parameters have another shape."""

    def init(key: Any) -> Any:
        params, world = problem.init(key)
        return shaped(params), world

    return problem._replace(init=init, loss=lambda params, batch: problem.loss(flat(params), batch))


class Characters(nn.Module):
    """A network that predicts a character from those before it: embeddings and two dense layers."""

    symbols: int
    width: int

    @nn.compact
    def __call__(self, windows: jax.Array) -> jax.Array:
        """Return the logits of the next symbol, from windows of shape (batch, context)."""
        # A product with a 0-1 matrix: the gradient of a look-up is slow on CPUs.
        codes = jax.nn.one_hot(windows, self.symbols)
        x = nn.Dense(EMBEDDING, use_bias=False)(codes).reshape(len(windows), -1)
        return nn.Dense(self.symbols)(jnp.tanh(nn.Dense(self.width)(x)))


def characters(config: Config, symbols: int) -> nj.Problem:
    """Return the language model as a problem.

    A batch holds windows of context + 1 symbols. The world is the training part of the text; pass
    `initial` to `rollout`.
    """
    network = Characters(symbols, config.width)

    def init(key: jax.Array) -> Any:
        windows = jnp.zeros((1, config.context), int)
        return network.init(key, windows)["params"], None

    def observe(draws: jax.Array, world: jax.Array) -> Any:
        return windows_at(world, draws % (len(world) - config.context), config.context), world

    def loss(params: Any, windows: jax.Array) -> jax.Array:
        logits = jnp.asarray(network.apply({"params": params}, windows[:, :-1]))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, -1]))

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.bits(key, (config.batch_size,), jnp.uint32)

    return nj.Problem(init=init, draw=draw, observe=observe, loss=loss)


def windows_at(part: Any, starts: Any, context: int) -> Any:
    """Return the windows of context + 1 symbols that start at some places."""
    return part[starts[:, None] + np.arange(context + 1)]


def spread_windows(part: np.ndarray, most: int, context: int) -> np.ndarray:
    """Return up to `most` windows at equal distances."""
    last = len(part) - context - 1
    return windows_at(part, np.unique(np.linspace(0, last, most).astype(int)), context)


def language(config: Config, text: Text) -> Task:
    """Return the language model: tuned on windows of the validation part, reported on the test."""
    problem = characters(config, text.symbols)

    def run(data: Any, tx: Any, key: jax.Array, case: Any) -> dict[str, jax.Array]:
        train, validation, test = data
        key_init, key_draw = jax.random.split(key)
        initial = problem.init(key_init)[0], train
        params = nj.rollout(tx, problem, key_draw, config.text_steps, initial=initial).params
        return {"loss": problem.loss(params, test), "score": problem.loss(params, validation)}

    parts = (text.validation, VALIDATION), (text.test, TEST)
    windows = [jnp.asarray(spread_windows(part, most, config.context)) for part, most in parts]
    data = jnp.asarray(text.train), *windows
    return Task("language model", ["characters"], data, run, 1, config.text_seeds)
