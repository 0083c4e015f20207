"""Test whether a transform is linear and time-invariant by running it."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nested_jax._core.checks import check_transformation, is_traced
from nested_jax.theory._remembered import remembered

# The input lasts a quarter of the run, which leaves room for delays and for the response's tail.
STEPS, BURST = 64, 16
DELAYS = (1, 2, 7, 32)
# They span usual clipping thresholds and epsilons in denominators; their squares fit float32.
SCALES = (-1.0, 1e-8, 1e-4, 1e4, 1e8)
# How far counters are moved forward; not round, so that a periodic schedule does not line up.
JUMPS = (997, 10_007, 100_003, 1_000_003, 10_000_019)
MATRIX_STEPS = 2

_RULES = {
    "homogeneity": "a multiple of the input must give that multiple of the output",
    "superposition": "the sum of two inputs must give the sum of their outputs",
    "shift": "a delayed input must give the delayed output",
    "parameters": "the output must not depend on the parameters",
    "entries": "each entry of an array must be transformed by itself",
}


class Linearity(NamedTuple):
    """How far a transform is from linear and time-invariant, per test.

    Each error is the largest difference between two outputs that should agree, as a fraction of the
    largest output. It is 0 up to rounding for a linear, time-invariant transform. NaN fails.

    Attributes:
        homogeneity: The output for a multiple of the input against that multiple of the output.
        superposition: The output for the sum of two inputs against the sum of their outputs.
        shift: The output for a delayed input against the delayed output.
        parameters: The output with parameters of 1 against the output with parameters of 0.
        entries: The output for a matrix of inputs against the outputs for its entries.
    """

    homogeneity: Float[Array, ""]
    superposition: Float[Array, ""]
    shift: Float[Array, ""]
    parameters: Float[Array, ""]
    entries: Float[Array, ""]


def linearity(tx: optax.GradientTransformation) -> Linearity:
    r"""Measure how far a transform of one parameter is from linear and time-invariant.

    The transform H starts from its initial state for each input. With inputs u and v of 64 steps,
    the tests are

    .. math::

        H(\alpha u) = \alpha H u \;\; (\alpha = -1, 10^{\pm 4}, 10^{\pm 8}), \quad
        H(u + v) = H u + H v, \quad H S^n u = S^n H u \;\; (n = 1, 2, 7, 32)

    where S delays by one step. To detect slow schedules, the shift test also moves all counters
    (integers in the state that grow by one per step) forward by up to 1e7 steps. The same
    gradients are run with different parameters. Finally, two steps on a 2 × 2 matrix are compared
    with those of its entries: `optax.centralize` leaves a scalar unchanged, but mixes the entries
    of a matrix, so it fails.

    Adam is not homogeneous. A schedule or bias correction fails the shift test. Weight decay is
    linear in the parameters, not in the gradients. A clip whose threshold is never reached, or
    noise below rounding, is not detected. Sums stored in a narrower dtype than the default are not
    linear because of rounding.

    Args:
        tx: The transform, applied to one scalar of JAX's default dtype. Its hyperparameters may be
            traced.

    Returns:
        The largest error of each test.

    Raises:
        TypeError: If `tx` does not have `init` and `update`, or they raise an error.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> errors = theory.linearity(optax.trace(0.9))
        >>> max(errors) < 1e-5
        Array(True, dtype=bool)
        >>> float(theory.linearity(optax.clip(1.0)).shift)  # clipped, but time-invariant
        0.0
    """
    check_transformation("tx", tx)
    with explained("tx"):
        return tested(tx).errors


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Say what a transform must be if it raises an error on one scalar.

    Raises:
        TypeError: If the transform raises an error that is not about traced values.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, jax.errors.JAXTypeError):
            raise
        rule = "run on one parameter, with gradients and parameters as its only arguments"
        reason = str(error).partition("\n")[0]
        raise TypeError(
            f"`{name}` must {rule}, got one that raises {type(error).__name__}: {reason} "
            "(Pass the optimizer inside a wrapper such as `optax.lookahead`.)"
        ) from error


class Trial(NamedTuple):
    """What the tests of a transform found.

    Attributes:
        errors: The errors that `linearity` returns.
        outputs: The outputs for the first test input, `probes()[0]`.
        rested: The state after two zero updates.
    """

    errors: Linearity
    outputs: Float[Array, " time"]
    rested: Any


@remembered
def tested(tx: optax.GradientTransformation) -> Trial:
    """Return the errors that `linearity` returns, one output, and a state to linearise about."""
    # Only this program differs between transforms. Nearly all of the time is compilation, so the
    # program holds as few copies of the update as possible: one scan does all runs of scalars.
    outputs, matrix, rested = jax.jit(functools.partial(_ran, tx))(*_inputs())
    return Trial(_errors(outputs, matrix), outputs[0], rested)


def probes() -> tuple[np.ndarray, np.ndarray]:
    """Return two test inputs of `STEPS` steps, in JAX's default dtype."""
    rng = np.random.default_rng(0)
    burst = np.arange(STEPS) < BURST
    # The first has one sign, so long averages do not cancel it; the second has both signs.
    u, v = rng.uniform(0.5, 1.5, STEPS) * burst, rng.normal(size=STEPS) * burst
    dtype = jnp.result_type(float)
    return u.astype(dtype), v.astype(dtype)


def _inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the inputs of all runs of scalars, their parameters, and the inputs of a matrix."""
    u, v = probes()
    matrix = u[: MATRIX_STEPS * 4].reshape(MATRIX_STEPS, 2, 2)
    entries = np.zeros((4, STEPS), u.dtype)
    entries[:, :MATRIX_STEPS] = matrix.reshape(MATRIX_STEPS, 4).T
    scaled = np.array(SCALES, u.dtype)[:, None] * u
    late = [np.pad(u, (delay, 0))[:STEPS] for delay in DELAYS]
    inputs = np.vstack([u, v, u + v, u, scaled, late, entries, [u] * len(JUMPS)])
    params = np.zeros(len(inputs), u.dtype)
    params[3] = 1
    return inputs, params, matrix


def _ran(
    tx: optax.GradientTransformation, inputs: Array, params: Array, matrix: Array
) -> tuple[Array, Array, Any]:
    """Return the outputs for scalars, those for a matrix, and the state after two zero updates."""
    # Python runs the update once per shape. The function is new, so nothing outlives the call.
    update = jax.jit(lambda *arguments: tx.update(*arguments), inline=True)
    zero = jnp.zeros(())
    _, before = update(zero, tx.init(zero), zero)
    _, rested = update(zero, before, zero)
    # All runs but those with jumps start from `init`.
    afresh = jax.vmap(tx.init)(params[: -len(JUMPS)])
    moved = jax.vmap(functools.partial(_moved, before, rested))(jnp.array(JUMPS, jnp.int32))
    states = jax.tree.map(lambda *x: jnp.concatenate(x), afresh, moved)

    def step(states, u):
        outputs, states = jax.vmap(update)(u, states, params)
        return states, jnp.asarray(outputs, float)

    _, outputs = jax.lax.scan(step, states, inputs.T)
    zeros = jnp.zeros_like(matrix[0])
    state, of_matrix = tx.init(zeros), []
    for gradient in matrix:
        output, state = update(gradient, state, zeros)
        of_matrix.append(jnp.asarray(output, float))
    return outputs.T, jnp.stack(of_matrix), rested


def _moved(before: Any, after: Any, jump: Array) -> Any:
    """Return the state `after` with all counters moved forward by `jump`."""

    def forward(x, y):
        if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            return y
        end = jnp.iinfo(y.dtype).max - STEPS
        far = y + jnp.minimum(jump, end - y).astype(y.dtype)
        return jnp.where(y == x + 1, far, y)

    return jax.tree.map(forward, before, after)


@jax.jit
def _errors(outputs: Array, matrix: Array) -> Linearity:
    """Return the largest error of each test, of the outputs for `_inputs`."""
    hu, hv, of_sum, elsewhere = outputs[:4]
    counts = [len(SCALES), len(DELAYS), 4]
    scaled, late, entries, jumped = jnp.split(outputs[4:], np.cumsum(counts))
    multiples = jnp.array(SCALES)[:, None] * hu
    delayed = jnp.stack([jnp.pad(hu, (delay, 0))[:STEPS] for delay in DELAYS])
    by_entry = entries[:, :MATRIX_STEPS].T.reshape(matrix.shape)
    same = jnp.broadcast_to(hu, jumped.shape)
    return Linearity(
        homogeneity=_worst(scaled, multiples),
        superposition=relative_error(of_sum, hu + hv),
        shift=jnp.maximum(_worst(late, delayed), _worst(jumped, same)),
        parameters=relative_error(elsewhere, hu),
        entries=relative_error(matrix, by_entry),
    )


def _worst(actual: Array, expected: Array) -> Float[Array, ""]:
    """Return the largest relative error of several runs."""
    return jnp.max(jax.vmap(relative_error)(actual, expected))


def check_linearity(name: str, errors: Linearity) -> None:
    """Raise if a concrete error fails its test; traced errors pass."""
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
    """Return whether an error is within rounding; False for NaN."""
    # Half of the digits. Most transforms lose one; the zero-lag readout of 18 stages loses six.
    return error <= jnp.finfo(error.dtype).eps ** 0.5


def relative_error(actual: Array, expected: Array) -> Float[Array, ""]:
    """Return the largest difference as a fraction of the largest entry of either array."""
    largest = jnp.maximum(jnp.max(jnp.abs(actual)), jnp.max(jnp.abs(expected)))
    return jnp.max(jnp.abs(actual - expected)) / jnp.where(largest == 0, 1, largest)
