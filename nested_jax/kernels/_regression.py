"""Nested momentum on a drifting regression, as a scan or as GPU kernels."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nested_jax._core.cascade import stage_decays
from nested_jax._core.checks import as_scalars, check_choice, check_non_negative
from nested_jax._core.draws import source_of_draws
from nested_jax._core.dtypes import complement
from nested_jax._core.types import ScalarLike
from nested_jax._rollout import rollout
from nested_jax.kernels._blocks import descent_block, drift_block, lanes, loop_of, padded
from nested_jax.optimizers import nested_momentum
from nested_jax.problems import drifting_regression

IMPLEMENTATIONS = ("scan", "pallas", "interpret")
# Steps that are drawn together and run in one kernel launch; the level sweep needs ten launches.
STEPS_OF_A_BLOCK = 3000


class RegressionRollout(NamedTuple):
    """The result of `regression_rollout`, with fields as in `nested_jax.Rollout`.

    Attributes:
        mean_loss: Mean loss over the steps from `warmup` on.
        diverged_at: First step whose loss exceeded `bound` or was not finite; -1 if there was none.
        params: Parameters after the last step.
    """

    mean_loss: Float[Array, ""]
    diverged_at: Int[Array, ""]
    params: Float[Array, " features"]

    @property
    def diverged(self) -> Bool[Array, ""]:
        """Whether any loss exceeded the bound or was not finite."""
        return self.diverged_at >= 0


def regression_rollout(
    decays: Sequence[ScalarLike] | np.ndarray | jax.Array,
    learning_rate: ScalarLike,
    key: jax.Array | None,
    steps: int,
    *,
    dim: int = 10,
    data_levels: ScalarLike = 1,
    data_decay: ScalarLike = 0.95,
    noise_std: ScalarLike = 0.1,
    max_data_levels: int | None = None,
    dtype: Any = None,
    warmup: ScalarLike = 0,
    bound: ScalarLike = jnp.inf,
    initial: tuple[Any, Any] | None = None,
    draws: Any = None,
    implementation: str = "scan",
) -> RegressionRollout:
    r"""Run nested momentum on a drifting regression, as a scan or with specialised kernels.

    It equals `rollout(nested_momentum(learning_rate, decays=decays), problem, key, steps, ...)` for
    `problem = drifting_regression(dim, data_levels, data_decay, noise_std, max_data_levels,
    dtype=dtype)`, with the same recurrences on the same draws,

    .. math::

        g &= 2 (w \cdot (x, 1) - y) (x, 1), \quad
        M_i \leftarrow a_i M_i + (1 - a_i) M_{i+1} \;\; (i = K, \dots, 1; \; M_{K+1} = g), \\
        w &\leftarrow w - \alpha M_1 .

    On a GPU, a scan launches kernels at every step. Here, one kernel contains the loop over time,
    and all levels stay in registers. A sweep can vmap this function like any other: two runs share
    a program, and arrays that do not depend on a vmapped axis (the draws, the drift) are computed
    and stored once. The kernels have not run on a GPU yet, so the scan is the default everywhere;
    docs/kernels.md lists what is known.

    Losses agree with the scan up to rounding. For stable runs, relative differences are 1e-10 in
    float64. For diverging runs, differences grow with the losses, and the growth rates agree. After
    an infinite loss, one implementation may continue with infinities where the other has NaN.

    Args:
        decays: :math:`a_1, \dots, a_K \in [0, 1)`, outermost first; the values may be traced.
        learning_rate: :math:`\alpha \ge 0`; may be traced.
        key: A JAX key; may be None if `initial` and `draws` are both given.
        steps: Number of steps, at least 1; static.
        dim: Number of inputs. For this and the next five, see `drifting_regression`.
        data_levels: Number of levels of the true weights.
        data_decay: Decay of each level.
        noise_std: Standard deviation of the target's noise.
        max_data_levels: Maximum number of levels, which sets the size of the state.
        dtype: Dtype of draws and parameters.
        warmup: Number of first steps that the mean loss excludes, less than `steps`; may be traced.
        bound: Loss above which a run counts as diverged; may be traced.
        initial: (params, world) that replaces the problem's initial state, as in `rollout`.
        draws: Recorded draws, or a function of the step, as in `rollout`.
        implementation: Static. ``"scan"`` runs on any device. ``"pallas"`` uses the kernels,
            compiled for a CUDA GPU. ``"interpret"`` interprets the kernels on any device, slowly.

    Returns:
        A `RegressionRollout`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range or an argument is refused by `rollout`.
            With kernels, also if the numbers are not all float32 or all float64, or (for
            ``"pallas"``) if JAX has no Triton backend for Pallas.

    Example:
        >>> import jax, nested_jax as nj
        >>> from nested_jax import kernels
        >>> decays = nj.nested_decays(3, decay=0.95)
        >>> trace = kernels.regression_rollout(decays, 1e-2, jax.random.key(0), 2000, warmup=500)
        >>> bool(trace.mean_loss < 1), bool(trace.diverged)
        (True, False)
    """
    check_choice("implementation", implementation, IMPLEMENTATIONS)
    check_non_negative("learning_rate", learning_rate)
    problem = drifting_regression(
        dim,
        data_levels=data_levels,
        decay=data_decay,
        noise_std=noise_std,
        max_levels=max_data_levels,
        dtype=dtype,
    )
    tx = nested_momentum(learning_rate, decays=decays)

    def scan() -> RegressionRollout:
        trace = rollout(
            tx, problem, key, steps, warmup=warmup, bound=bound, initial=initial, draws=draws
        )
        return RegressionRollout(trace.mean_loss, trace.diverged_at, trace.params)

    if implementation == "scan":
        return scan()
    jax.eval_shape(scan)  # Arguments that a rollout refuses raise here too.
    dtypes = _dtypes(problem, dtype, initial, draws)
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        raise ValueError(
            "`dtype`, `initial` and `draws` must all be float32, or all float64, for kernels, got "
            f"{', '.join(sorted(dtypes))}."
        )
    levels = int(data_levels if max_data_levels is None else max_data_levels)
    return _by_kernels(
        decays=as_scalars("decays", decays),
        learning_rate=learning_rate,
        problem=problem,
        key=key,
        steps=int(steps),
        drift_keeps=stage_decays(data_levels, data_decay, levels),
        noise_std=noise_std,
        warmup=warmup,
        bound=bound,
        initial=initial,
        draws=draws,
        interpret=implementation == "interpret",
    )


def _dtypes(problem, dtype, initial, draws):
    """Return the names of all dtypes in a run."""

    def everything():
        key = jax.random.key(0)
        start = problem.init(key) if initial is None else initial
        step = source_of_draws(problem, key, draws)(jnp.zeros((), jnp.int32))
        return jnp.zeros((), dtype), jax.tree.map(jnp.asarray, (start, step))

    return {x.dtype.name for x in jax.tree.leaves(jax.eval_shape(everything))}


class _Carry(NamedTuple):
    rows: Array
    weights: Array
    total: Array
    diverged_at: Array


def _by_kernels(
    *,
    decays,
    learning_rate,
    problem,
    key,
    steps,
    drift_keeps,
    noise_std,
    warmup,
    bound,
    initial,
    draws,
    interpret,
) -> RegressionRollout:
    """Run each block of steps with two kernels: the drift, which gives targets, then descent."""
    key_init, key_draw = (None, None) if key is None else jax.random.split(key)
    params, world = problem.init(key_init) if initial is None else initial
    params, dim = jnp.asarray(params), len(params) - 1
    draw = source_of_draws(problem, key_draw, draws)
    cast = partial(jnp.asarray, dtype=params.dtype)
    # An infinite loss exceeds even an infinite bound.
    largest = jnp.minimum(cast(bound), jnp.finfo(params.dtype).max)
    stages = [*decays, *map(complement, decays)]
    numbers = jnp.stack([-cast(learning_rate), largest, *map(cast, stages)])
    keeps, takes = cast(drift_keeps), cast(complement(drift_keeps))
    which = loop_of(numbers[2 : 2 + len(decays)])
    counted_from = jnp.asarray(warmup, jnp.int32)

    def run_block(carry, start, length):
        chance: Any = jax.vmap(draw)(start + jnp.arange(length, dtype=jnp.int32))
        weights, regressed = drift_block(
            keeps, takes, carry.weights, padded(chance.drift), interpret
        )
        targets = jnp.sum(chance.inputs * regressed[:, :dim], axis=1)
        features = jnp.append(chance.inputs, jnp.ones((length, 1), params.dtype), axis=1)
        found = descent_block(
            numbers,
            jnp.stack([start, counted_from, which]),
            carry.rows,
            padded(features),
            targets + cast(noise_std) * chance.noise,
            interpret,
        )
        first = jnp.minimum(carry.diverged_at, found.diverged_at)
        return _Carry(found.rows, weights, carry.total + found.counted, first)

    rows = jnp.zeros((1 + len(decays), lanes(dim + 1)), params.dtype)
    carry = _Carry(
        rows=rows.at[0, : dim + 1].set(params),
        weights=padded(jnp.stack(world.weights)),
        total=jnp.zeros((), params.dtype),
        diverged_at=jnp.full((), steps, jnp.int32),
    )
    block = min(steps, STEPS_OF_A_BLOCK)
    starts = block * jnp.arange(steps // block, dtype=jnp.int32)
    carry, _ = jax.lax.scan(lambda c, start: (run_block(c, start, block), None), carry, starts)
    if steps % block:
        start = jnp.full((), steps - steps % block, jnp.int32)
        carry = run_block(carry, start, steps % block)
    return RegressionRollout(
        mean_loss=carry.total / (steps - warmup),
        diverged_at=jnp.where(carry.diverged_at < steps, carry.diverged_at, -1),
        params=carry.rows[0, : dim + 1],
    )
