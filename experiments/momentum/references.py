"""References in closed form: Newton's method on quadratics, and the terminal velocity."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj
from experiments.lab import Lab
from experiments.momentum.config import Config
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

NEWTON_STEPS = 3
"""One is enough on a quadratic; the others show that rounding is all that is left."""
TERMINAL = {
    "learning_rate": [0.001, 0.1],
    "slope": [0.5, 5.0],
    "decay": [0.0, 0.5, 0.9, 0.99, 0.999],
}
DIRECTION = (0.6, 0.8)
"""Direction of the constant gradient, of length 1."""
TERMINAL_STEPS = 30_000
"""30 memories of the largest decay: the velocity lacks a share exp(-30) of its limit."""


def newton(loss: Callable[[Any], jax.Array]) -> optax.GradientTransformation:
    r"""Return Newton's method: :math:`\theta \leftarrow \theta - (\nabla^2 L)^{-1} \nabla L`.

    Args:
        loss: (params of shape (n,)) -> scalar, the loss whose Hessian is inverted.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return -jnp.linalg.solve(jax.hessian(loss)(params), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def newton_errors(config: Config, lab: Lab) -> "xr.Dataset":
    """Return the error of Newton's method relative to the initial one, on the same quadratics."""

    def run(condition: Any) -> dict[str, Any]:
        quadratic = nj.quadratic(condition ** -jnp.linspace(1.0, 0.0, config.dim))
        tx = newton(lambda params: quadratic.loss(params, None))
        start = jnp.ones(config.dim) / jnp.sqrt(config.dim), None
        trace = nj.rollout(
            tx,
            quadratic,
            jax.random.key(0),
            NEWTON_STEPS,
            stride=1,
            record=lambda params, opt_state: jnp.linalg.norm(params),
            initial=start,
        )
        return {"error": trace.records}

    conditions = np.geomspace(10, config.max_condition, config.conditions)
    results = lab.sweep("newton", run, nj.Grid(condition=conditions)).rename(error_0="step")
    return results.assign_coords(step=1 + np.arange(NEWTON_STEPS))


def terminal_speeds(lab: Lab) -> "xr.Dataset":
    """Return the speed down a plane of gradient g, and its limit: alpha |g| / (1 - decay)."""

    def run(learning_rate: Any, slope: Any, decay: Any) -> dict[str, Any]:
        gradient = slope * jnp.asarray(DIRECTION)
        plane = nj.quadratic([0.0, 0.0])._replace(loss=lambda params, batch: params @ gradient)
        options = {"stride": TERMINAL_STEPS, "initial": (jnp.zeros(2), None)}
        # The buffer holds the sum of gradients, so the last step is read without cancellation.
        tx, key = nj.momentum(learning_rate, decay=decay), jax.random.key(0)
        trace = nj.rollout(tx, plane, key, TERMINAL_STEPS, **options)
        step, _ = tx.update(gradient, trace.opt_state, trace.params)
        gain = -theory.terminal_velocity(theory.heavy_ball(decay))
        return {
            "speed": jnp.linalg.norm(jnp.asarray(step)),
            "predicted": learning_rate * slope / (1 - decay),
            "theory": learning_rate * slope * gain,
        }

    return lab.sweep("terminal", run, nj.Grid(**TERMINAL))
