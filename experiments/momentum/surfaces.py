"""Four loss surfaces of two parameters on which gradient descent is slow or gets lost."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj

INPUTS = 40
"""Number of examples of each regression."""


class Surface(NamedTuple):
    """A loss of two parameters.

    Attributes:
        title: What it is called in the report.
        why: Why it is hard, in a sentence or two.
        outputs: (params,) -> outputs of the model whose squared error is the loss; None for a loss
            without a model.
        loss: (params,) -> scalar. Pure.
        start: Where the first run begins.
        control: An easier start, for comparison.
        control_name: What that start is.
        spread: Matrix that maps standard normals to the random starts around the first.
        goal: The loss below which a run has arrived.
        window: ((low, high) of the first parameter, the same of the second) to draw.
        rates: The least and the largest learning rate to try.
        names: Names of the parameters.
        initial: Standard deviations of an initialisation that knows nothing of the minimum: for
            weights 1/sqrt(inputs of the unit), for biases 0.
        inputs: The inputs of a unit as columns, shape (examples, inputs); None without a model.
    """

    title: str
    why: str
    outputs: Callable[[Any], Any] | None
    loss: Callable[[Any], Any]
    start: tuple[float, float]
    control: tuple[float, float]
    control_name: str
    spread: tuple[tuple[float, float], tuple[float, float]]
    goal: float
    window: tuple[tuple[float, float], tuple[float, float]]
    rates: tuple[float, float]
    names: tuple[str, str]
    initial: tuple[float, float]
    inputs: np.ndarray | None = None


def problem(surface: Surface, start: Any) -> nj.Problem:
    """Return the deterministic problem of descending `surface` from `start`."""
    return nj.Problem(
        init=lambda key: (start, None),
        draw=lambda key: None,
        observe=lambda draws, world: (None, world),
        loss=lambda params, batch: surface.loss(params),
    )


def starts(surface: Surface, count: int, key: jax.Array) -> jax.Array:
    """Return starts: the first, the control, and `count` random ones around the first."""
    about = jax.random.normal(key, (count, 2)) @ jnp.asarray(surface.spread)
    start = jnp.asarray(surface.start)
    return jnp.concatenate([start[None], jnp.asarray(surface.control)[None], start + about])


def settled(losses: jax.Array, goal: float) -> jax.Array:
    """Return the index from which all `losses` are below the goal; -1 if the last is not."""
    above = ~(losses < goal)
    first = jnp.where(above.any(), above.size - jnp.argmax(above[::-1]), 0)
    return jnp.where(above[-1], -1, first)


def _squared(outputs, targets):
    return lambda params: 0.5 * jnp.mean((outputs(params) - targets) ** 2)


def _collinear() -> Surface:
    """Regression on two inputs that are nearly the same."""
    rng = np.random.default_rng(0)
    first, other = rng.standard_normal((2, INPUTS))
    inputs = np.stack([first, first + 0.05 * other], axis=1)
    # The targets need the difference of the inputs, which is small.
    targets = inputs @ [2.0, -1.0]

    def outputs(params):
        return jnp.sum(inputs * params, axis=-1)

    return Surface(
        title="Collinear regression",
        why="Two inputs are nearly the same. Their sum is learned at once. Their difference hardly "
        "shows in the outputs and takes as many steps as the condition number says.",
        outputs=outputs,
        loss=_squared(outputs, targets),
        start=(-1.0, -2.0),
        control=(0.0, -3.0),
        control_name="error of the sum alone",
        spread=((0.5, 0.0), (0.0, 0.5)),
        goal=1e-6,
        window=((-2.5, 4.5), (-4.0, 3.0)),
        rates=(1e-2, 1e1),
        names=("weight of the first input", "weight of the second input"),
        initial=(2**-0.5, 2**-0.5),
        inputs=inputs,
    )


def _saturated() -> Surface:
    """A unit whose initial weights saturate it."""
    inputs = np.linspace(-2, 2, INPUTS)

    def outputs(params):
        return jnp.tanh(params[0] * inputs + params[1])

    return Surface(
        title="Saturated network",
        why="With a large initial weight the unit saturates at nearly all inputs. The loss is a "
        "plateau, and its small slope comes from the one transition between the limits.",
        outputs=outputs,
        loss=_squared(outputs, np.tanh(1.5 * inputs - 0.5)),
        start=(6.0, 4.0),
        control=(0.4, 0.1),
        control_name="small initialisation",
        spread=((0.5, 0.0), (0.0, 0.5)),
        goal=1e-4,
        window=((-2.0, 21.0), (-8.0, 8.0)),
        rates=(1e-1, 1e2),
        names=("weight", "bias"),
        initial=(1.0, 0.0),
        # The input of the bias is 1.
        inputs=np.stack([inputs, np.ones(INPUTS)], axis=1),
    )


def _symmetric() -> Surface:
    """Two hidden units that start the same and therefore stay the same."""
    inputs = np.linspace(-2, 2, INPUTS)

    def outputs(params):
        return jnp.tanh(params[0] * inputs) + jnp.tanh(params[1] * inputs)

    return Surface(
        title="Symmetric initialisation",
        why="Two units with the same weight have the same gradient and stay the same. All they "
        "reach is a saddle, which they leave only if rounding or chance makes them differ.",
        outputs=outputs,
        loss=_squared(outputs, np.tanh(3.0 * inputs) - np.tanh(0.8 * inputs)),
        start=(1.5, 1.501),
        control=(1.5, 1.5),
        control_name="exactly symmetric",
        spread=((0.3, 0.3), (1e-3, -1e-3)),
        goal=1e-3,
        window=((-3.0, 5.0), (-3.0, 5.0)),
        rates=(1e-2, 1e1),
        names=("weight of the first unit", "weight of the second unit"),
        initial=(1.0, 1.0),
        inputs=inputs[:, None],
    )


def _many_minima() -> Surface:
    """A bowl full of dents."""

    def loss(params):
        return jnp.sum(0.05 * params**2 + 0.1 * (1 - jnp.cos(4 * params)))

    return Surface(
        title="Many minima",
        why="A bowl full of dents. Gradient descent ends in the nearest dent; momentum can carry "
        "it over the rims between them.",
        outputs=None,
        loss=loss,
        start=(5.0, 4.0),
        control=(0.5, -0.4),
        control_name="in the deepest dent",
        spread=((1.5, 0.0), (0.0, 1.5)),
        goal=1e-2,
        window=((-7.0, 7.0), (-7.0, 7.0)),
        rates=(1e-3, 1.0),
        names=("first parameter", "second parameter"),
        initial=(1.0, 1.0),
    )


SURFACES = {
    "collinear": _collinear(),
    "saturated": _saturated(),
    "symmetric": _symmetric(),
    "many_minima": _many_minima(),
}
"""Surfaces by their name in the results."""
