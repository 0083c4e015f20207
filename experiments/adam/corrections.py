"""First steps on tiny gradients, and bias correction that stops while it still matters."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj
from experiments.adam.config import Config
from experiments.adam.tools import B1, B2, CURVATURES, adam, excess, key_of, measured, timed, times
from experiments.lab import Lab

if TYPE_CHECKING:
    import xarray as xr

EPS = 1e-8
"""Adam's epsilon."""
WARMUP = 100
"""Length of the linear warm-up, in steps."""
FIRST_STEPS = 10
STOPS = (100, 1_000)
"""The first step without bias correction."""
NEVER = 2**30
STOPPED_RATE = 0.1
"""The learning rate on the quadratic: within 100 steps its loss no longer falls."""
AFTER = 100
"""Number of steps over which the loss is averaged once bias correction has stopped."""


def epsilon(config: Config, lab: Lab) -> "xr.Dataset":
    """Measure the largest of the first steps on a constant gradient, by its ratio to epsilon."""

    def run(warmup: Any, ratio: Any) -> dict[str, Any]:
        tx = adam(1.0, eps=EPS, schedule=nj.with_warmup(nj.constant(FIRST_STEPS), warmup))
        metrics = measured(tx, lambda t: jnp.asarray(EPS * ratio), FIRST_STEPS)
        return {"step": jnp.max(metrics.step_rms)}

    grid = nj.Grid(warmup=[0, WARMUP], ratio=np.geomspace(1e-4, 1e4, 17))
    return lab.sweep("epsilon", run, grid)


def stopped(config: Config, lab: Lab) -> "xr.Dataset":
    """Measure steps on a constant gradient and losses on the noisy quadratic, by the stop."""
    steps = config.training_steps
    at = stopped_times(steps)
    problem = nj.quadratic(CURVATURES, noise_std=1.0)

    def run(stop: Any, seed: Any) -> dict[str, Any]:
        step = measured(stopping(1.0, stop), lambda t: jnp.ones(()), steps).step_rms
        tx, key = stopping(STOPPED_RATE, stop), key_of(config, seed)
        loss = nj.rollout(tx, problem, key, steps, stride=1, record=excess).records
        begun = slice(STOPS[0] - 1, STOPS[0] - 1 + AFTER)
        return {"step": step[at - 1], "loss": loss[at - 1], "after": jnp.mean(loss[begun])}

    grid = nj.Grid(stop=[*STOPS, NEVER], seed=range(config.seeds))
    return timed(lab.sweep("stopped", run, grid), at)


def stopped_times(steps: int) -> np.ndarray:
    """Return when runs are reported, the steps before and at each stop among them."""
    at = np.unique([*times(steps), *(stop - before for stop in STOPS for before in (0, 1))])
    return at[at <= steps]


def stopping(rate: Any, stop: Any) -> Any:
    """Return Adam that corrects its bias before step `stop` only; steps count from 1."""

    def falling(count: Any) -> Any:
        t = count + 1.0
        gain = jnp.sqrt(1 - B2**t) / (1 - B1**t)
        return rate * jnp.where(t < stop, gain, 1.0)

    # Without an epsilon, correcting m and v is the same as scaling the step.
    scale = nj.scale_by_adam(B1, b2=B2, eps=0.0, debias=False)
    return nj.with_metrics(optax.chain(scale, nj.scale_by_learning_rate(falling)))
