"""Linear transforms as matrices, by linearising a transform or in closed form."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from nested_jax._core.cascade import check_decays
from nested_jax._core.checks import check_reals, is_traced
from nested_jax._core.dtypes import complement
from nested_jax._core.jaxpr import influential
from nested_jax._core.types import ScalarLike
from nested_jax.theory._linearity import (
    check_linearity,
    explained,
    passed,
    probes,
    relative_error,
    tested,
)
from nested_jax.theory._remembered import remembered

# Most outputs of a response: 40 MB in float32, computed in a second.
MOST_STEPS = 10**7


class StateSpace(NamedTuple):
    r"""A linear, time-invariant system with one input and one output.

    .. math::

        y_t = c \cdot s_t + d\, u_t, \quad s_{t+1} = A s_t + b\, u_t, \quad s_0 = 0.

    It is a pytree of arrays, so `jax.vmap` maps over systems of the same size.

    Attributes:
        transition: A, shape (state, state).
        drive: b, shape (state,).
        output: c, shape (state,).
        feedthrough: d, a scalar: the share of an input that is output immediately.
    """

    transition: Float[Array, "state state"]
    drive: Float[Array, " state"]
    output: Float[Array, " state"]
    feedthrough: Float[Array, ""]


# The type that every theory function accepts: a transform, or its matrices.
System: TypeAlias = optax.GradientTransformation | StateSpace


def state_space(tx: optax.GradientTransformation) -> StateSpace:
    r"""Return the state-space form of a linear, time-invariant transform of one parameter.

    The update is linearised about the state after zero gradients. With s the float arrays of that
    state, ravelled, :math:`A = \partial s' / \partial s`, :math:`b = \partial s' / \partial u`,
    :math:`c = \partial y / \partial s` and :math:`d = \partial y / \partial u`. Entries that do not
    depend on the gradients or do not affect the updates (counters, learning rates) are dropped.

    First the transform is run, and refused if it is not linear and time-invariant (see
    `linearity`). Then it is compared with its linearisation on the same input. If hyperparameters
    are traced, nothing can be raised: a refused transform gives NaN, and superfluous entries of the
    state are set to zero instead of dropped.

    Args:
        tx: The transform, applied to one scalar of JAX's default dtype. Enable 64-bit numbers for
            64-bit accuracy. Its hyperparameters may be traced.

    Returns:
        The system, in JAX's default dtype.

    Raises:
        TypeError: If `tx` does not have `init` and `update`, they raise an error, or it is an
            `optax.MultiSteps`.
        ValueError: If a test fails; the message says which one and by how much.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> system = theory.state_space(optax.trace(0.5))
        >>> float(system.transition[0, 0]), float(system.drive[0])
        (0.5, 1.0)
        >>> float(system.output[0]), float(system.feedthrough)
        (0.5, 1.0)
    """
    return _extracted("tx", tx)


def as_state_space(system: System) -> StateSpace:
    """Return the state-space form of a transform, or a `StateSpace` with validated arrays.

    Args:
        system: A transform, as for `state_space`, or a `StateSpace`.

    Returns:
        The system.

    Raises:
        TypeError: If `system` is neither.
        ValueError: If it is a transform that is refused, or the shapes of its arrays do not match.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> float(theory.as_state_space(optax.scale(2.0)).feedthrough)
        2.0
    """
    if not isinstance(system, StateSpace):
        return _extracted("system", system)
    for name, values in zip(StateSpace._fields, system, strict=True):
        check_reals(f"system.{name}", values)
    system = StateSpace(*(jnp.asarray(x, float) for x in system))
    shapes = [x.shape for x in system]
    state = shapes[1][:1]
    if shapes != [state * 2, state, state, ()] or not state:
        raise ValueError(
            "`system` must have a transition of shape (n, n), drive and output of shape (n,) and "
            f"a scalar feedthrough, got {shapes}; use jax.vmap for several systems."
        )
    return system


@jax.jit
def simulated(system: StateSpace, inputs: Float[Array, " time"]) -> Float[Array, " time"]:
    """Return the outputs of a system for `inputs`, starting from rest."""

    def step(state, u):
        y = system.output @ state + system.feedthrough * u
        return system.transition @ state + system.drive * u, y

    return jax.lax.scan(step, jnp.zeros_like(system.drive), inputs)[1]


def cascade(decays: Sequence[ScalarLike] | np.ndarray | jax.Array) -> StateSpace:
    r"""Return nested momentum (exponential averages in a row) in closed form.

    The state holds the averages :math:`M_1, \dots, M_K`, outermost first. Each average takes the
    updated inner one, so :math:`M_i' = a_i M_i + (1 - a_i) M_{i+1}'` is

    .. math::

        M_i' = \sum_{j \ge i} \Big(\prod_{l=i}^{j-1} (1 - a_l)\Big) a_j M_j
        + \prod_{l \ge i} (1 - a_l)\, u, \quad y = M_1' .

    It equals the transform `scale_by_nested_momentum(decays)`, with transfer function
    :math:`\prod_i (1 - a_i) z / (z - a_i)` and gain 1.

    Args:
        decays: :math:`a_1, \dots, a_K \in [0, 1)`, outermost first: a sequence of scalars or an
            array of shape (K,), as `nested_decays` returns it. K is static; the values may be
            traced. A decay of 0 disables a stage.

    Returns:
        A system with K states, in JAX's default dtype.

    Raises:
        TypeError: If `decays` holds something that is not a number.
        ValueError: If `decays` is an array of rank other than 1, or a concrete decay lies
            outside [0, 1).

    Example:
        >>> import nested_jax.theory as theory
        >>> system = theory.cascade([0.5, 0.5])
        >>> system.transition
        Array([[0.5 , 0.25],
               [0.  , 0.5 ]], dtype=float32)
        >>> system.output, float(system.feedthrough)
        (Array([0.5 , 0.25], dtype=float32), 0.25)
    """
    transition, drive = cascade_dynamics(decays)
    if not drive.size:
        return StateSpace(transition, drive, drive, jnp.ones(()))
    return StateSpace(transition, drive, transition[0], drive[0])


def cascade_dynamics(
    decays: Sequence[ScalarLike] | np.ndarray | jax.Array,
) -> tuple[Float[Array, "state state"], Float[Array, " state"]]:
    """Return A and b of a cascade, from whose new state every readout is formed."""
    scalars = check_decays(decays)
    if is_traced(decays):  # Splitting and stacking would cost one kernel per stage.
        vector = jnp.asarray(decays)
        vector = jnp.where((vector >= 0) & (vector < 1), vector, jnp.nan)
        keeps, takes = vector.astype(float), (1 - vector).astype(float)
    else:
        keeps = jnp.array([jnp.asarray(a, float) for a in scalars], float)
        takes = jnp.array([jnp.asarray(complement(a), float) for a in scalars], float)
    return _dynamics(keeps, takes)


@jax.jit
def _dynamics(keeps, takes):
    stages = keeps.size

    def stage(inner, parameters):
        keep, take, unit = parameters
        row, drive = inner
        fresh = (keep * unit + take * row, take * drive)
        return fresh, fresh

    innermost = (jnp.zeros(stages), jnp.ones(()))
    rows = (keeps, takes, jnp.eye(stages))
    return jax.lax.scan(stage, innermost, rows, reverse=True)[1]


def _extracted(name: str, tx: optax.GradientTransformation) -> StateSpace:
    """Return the state-space form of the argument `name`, after testing it."""
    with explained(name, tx):
        errors = tested(tx).errors
    check_linearity(name, errors)
    with explained(name, tx):
        system, mismatch, active = _measured(tx)
    if is_traced(mismatch):
        fine = passed(jnp.max(jnp.stack([mismatch, *errors])))
        transition = jnp.where(active[:, None] & active, system.transition, 0)
        drive, output = (jnp.where(active, x, 0) for x in (system.drive, system.output))
        system = StateSpace(transition, drive, output, system.feedthrough)
        return jax.tree.map(lambda x: jnp.where(fine, x, jnp.nan), system)
    if not passed(mismatch):
        raise ValueError(
            f"`{name}` must be differentiable, got one whose linearisation misses what it does by "
            f"{float(mismatch):.2g} of the largest output."
        )
    kept = np.flatnonzero(active)
    # By NumPy: each operation of JAX would be a program of its own.
    transition, drive, output = (np.asarray(x) for x in system[:3])
    transition = jnp.asarray(transition[np.ix_(kept, kept)])
    drive, output = jnp.asarray(drive[kept]), jnp.asarray(output[kept])
    return StateSpace(transition, drive, output, system.feedthrough)


@remembered
def _measured(tx: optax.GradientTransformation) -> tuple[StateSpace, Any, jax.Array]:
    """Return the linearisation, its error on a test input, and its active entries."""
    trial = tested(tx)
    system = jax.jit(functools.partial(_linearised, tx))(trial.rested)
    return system, *_judged(system, jnp.asarray(probes()[0]), trial.outputs)


@jax.jit
def _judged(system: StateSpace, inputs: Array, outputs: Array) -> tuple[jax.Array, jax.Array]:
    """Return how far a system is from `outputs`, and its active entries."""
    return relative_error(simulated(system, inputs), outputs), active_entries(system)


def _linearised(tx: optax.GradientTransformation, state: Any) -> StateSpace:
    """Return the derivatives of one update about `state`.

    The state has seen two zero updates: `scale_by_nesterov_momentum` stores its decay in the first.
    """
    zero = jnp.zeros(())
    leaves, structure = jax.tree.flatten(state)

    # Inlined, so that the jaxpr shows what each output depends on.
    @functools.partial(jax.jit, inline=True)
    def update(leaves, u):
        output, after = tx.update(u, jax.tree.unflatten(structure, leaves), zero)
        return output, jax.tree.leaves(after)

    kept = _influential(update, leaves)
    point, unravel = ravel_pytree([*(leaves[i] for i in kept), zero])

    def step(vector):
        *values, u = unravel(vector)
        moved = list(leaves)
        for i, leaf in zip(kept, values, strict=True):
            moved[i] = leaf
        output, after = update(moved, u)
        return ravel_pytree([*(after[i] for i in kept), output])[0]

    # One Jacobian of (state, output) by (state, input): two would compile the update twice.
    jacobian = jnp.asarray(jax.jacfwd(step)(point), float)
    return StateSpace(jacobian[:-1, :-1], jacobian[:-1, -1], jacobian[-1, :-1], jacobian[-1, -1])


def _influential(update, leaves):
    """Return which float leaves of the state affect a later output, according to the jaxpr.

    Other leaves may have no derivative, such as a gradient norm, or be NaN before the first step.
    """
    program = jax.make_jaxpr(update)(leaves, jnp.zeros(())).jaxpr
    kept = influential(program, len(leaves))
    return [i for i in kept if jnp.issubdtype(leaves[i].dtype, jnp.floating)]


def active_entries(system: StateSpace) -> jax.Array:
    """Return which entries of the state the input reaches and the output depends on."""
    size = system.drive.size
    links = ((system.transition != 0) | jnp.eye(size, dtype=bool)).astype(float)
    for _ in range(math.ceil(math.log2(max(size, 1)))):
        links = ((links @ links) > 0).astype(float)
    reached = links @ (system.drive != 0)
    seen = (system.output != 0) @ links
    return (reached > 0) & (seen > 0)
