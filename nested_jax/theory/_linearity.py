"""Whether a transform is linear and time-invariant: asked by running it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nested_jax._core.checks import check_transformation, is_traced

# The input lasts a quarter of the run, so that it can be delayed and its echo be heard.
STEPS, BURST = 64, 16
DELAYS = (1, 2, 7, 32)
# Between them lie the thresholds of clipping and what is added against division by zero; their
# squares are still float32.
SCALES = (-1.0, 1e-8, 1e-4, 1e4, 1e8)
# How far counters are set forward; nothing round, where a periodic schedule could be as before.
JUMPS = (997, 10_007, 100_003, 1_000_003, 10_000_019)

_RULES = {
    "homogeneity": "a multiple of the input must give that multiple of the output",
    "superposition": "the sum of two inputs must give the sum of their outputs",
    "shift": "a delayed input must give the delayed output",
    "parameters": "the output must not depend on the parameters",
}


class Linearity(NamedTuple):
    """How far a transform is from linear and time-invariant, test by test.

    Each is the largest difference of two outputs that ought to agree, as a fraction of the
    largest output: 0 up to rounding for a linear, time-invariant transform. NaN fails.

    Attributes:
        homogeneity: A multiple of the input against that multiple of the output.
        superposition: The sum of two inputs against the sum of their outputs.
        shift: A delayed input against the delayed output.
        parameters: Parameters of 1 against parameters of 0.
    """

    homogeneity: Float[Array, ""]
    superposition: Float[Array, ""]
    shift: Float[Array, ""]
    parameters: Float[Array, ""]


def linearity(tx: optax.GradientTransformation) -> Linearity:
    r"""Measure how far a transform of one parameter is from linear and time-invariant.

    Of a transform H, started afresh for each of the inputs u and v of 64 steps,

    .. math::

        H(\alpha u) = \alpha H u \;\; (\alpha = -1, 10^{\pm 4}, 10^{\pm 8}), \quad
        H(u + v) = H u + H v, \quad H S^n u = S^n H u \;\; (n = 1, 2, 7, 32)

    is tested, with S the delay by one step. So that slow schedules are seen, the shift test is
    also made with all counters (integers in the state that grow by one a step) set forward, by
    up to 1e7 steps. Finally the same gradients come in with other parameters.

    Adam is not homogeneous; a schedule or bias correction fails the shift test; weight decay is
    linear, but in the parameters and not in the gradients. A clip whose threshold is never
    reached, or noise smaller than rounding, goes unnoticed. Sums kept narrower than the default
    dtype are not linear, by their rounding.

    Args:
        tx: The transform; it acts on one scalar, of JAX's default dtype. Its hyperparameters may
            be traced.

    Returns:
        The largest error of each test.

    Raises:
        TypeError: If `tx` has no `init` and `update`.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> errors = theory.linearity(optax.trace(0.9))
        >>> max(errors) < 1e-5
        Array(True, dtype=bool)
        >>> float(theory.linearity(optax.clip(1.0)).shift)  # clipped, but always alike
        0.0
    """
    check_transformation("tx", tx)
    return tested(tx)[0]


def tested(
    tx: optax.GradientTransformation,
) -> tuple[Linearity, Float[Array, " time"], Float[Array, " time"]]:
    """Return what `linearity` does, an input of the tests, and what `tx` makes of it."""
    u, v = _probes()
    scales = jnp.array(SCALES)[:, None]
    kinds = [1, 1, 1, 1, len(SCALES), len(DELAYS), len(JUMPS)]
    inputs = [u, v, u + v, u, scales * u, _delayed(u), jnp.tile(u, (len(JUMPS), 1))]
    params = jnp.zeros(sum(kinds)).at[3].set(1.0)
    # All but the last begin afresh. One scan of all: compiling is what takes the time.
    afresh = jax.vmap(tx.init)(params[: -len(JUMPS)])
    states = jax.tree.map(
        lambda *x: jnp.concatenate(x),
        afresh,
        jax.vmap(lambda jump: _rested(tx, jump))(jnp.array(JUMPS, jnp.int32)),
    )
    outputs = jax.vmap(lambda *run: _run(tx, *run))(states, params, jnp.vstack(inputs))
    hu, hv = outputs[:2]
    expected = [hu + hv, hu, scales * hu, _delayed(hu), jnp.tile(hu, (len(JUMPS), 1))]
    errors = jax.vmap(relative_error)(outputs[2:], jnp.vstack(expected))
    groups = jnp.split(errors, np.cumsum(kinds[2:])[:-1])
    superposition, parameters, homogeneity, shift, later = map(jnp.max, groups)
    return Linearity(homogeneity, superposition, jnp.maximum(shift, later), parameters), u, hu


def check_linearity(name: str, errors: Linearity) -> None:
    """Raise unless all tests are passed; traced errors pass."""
    if any(is_traced(error) for error in errors):
        return
    failed = [
        f"the {test} test by {float(error):.2g} of the largest output ({_RULES[test]})"
        for test, error in errors._asdict().items()
        if not passed(error)
    ]
    if failed:
        rule = f"`{name}` must be linear and time-invariant"
        raise ValueError(f"{rule}, got one that fails {', '.join(failed)}.")


def passed(error: Float[Array, ""]) -> Any:
    """Tell whether an error is no more than rounding; NaN is."""
    # Half of the digits: most transforms lose one, the zero-lag readout of 18 stages half a dozen.
    return error <= jnp.finfo(error.dtype).eps ** 0.5


def relative_error(actual: Array, expected: Array) -> Float[Array, ""]:
    """Return the largest difference as a fraction of the largest entry of both."""
    largest = jnp.maximum(jnp.max(jnp.abs(actual)), jnp.max(jnp.abs(expected)))
    return jnp.max(jnp.abs(actual - expected)) / jnp.where(largest == 0, 1, largest)


def _probes():
    rng = np.random.default_rng(0)
    burst = np.arange(STEPS) < BURST
    # All of one sign, the first is not cancelled by long averages; the second has both.
    u, v = rng.uniform(0.5, 1.5, STEPS) * burst, rng.normal(size=STEPS) * burst
    return jnp.asarray(u, float), jnp.asarray(v, float)


def _delayed(x):
    return jnp.stack([jnp.concatenate([jnp.zeros(steps), x[:-steps]]) for steps in DELAYS])


def _run(tx, state, params, inputs):
    """Return the outputs for scalar `inputs`, the parameters staying what they are."""

    def step(state, u):
        output, state = tx.update(u, state, params)
        return state, jnp.asarray(output, float)

    return jax.lax.scan(step, state, inputs)[1]


def _rested(tx, jump):
    """Return the state after a rest, the counters set forward by `jump`."""
    zero = jnp.zeros(())
    _, before = tx.update(zero, tx.init(zero), zero)
    _, after = tx.update(zero, before, zero)

    def forward(x, y):
        if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            return y
        end = jnp.iinfo(y.dtype).max - STEPS
        far = y + jnp.minimum(jump, end - y).astype(y.dtype)
        return jnp.where(y == x + 1, far, y)

    return jax.tree.map(forward, before, after)
