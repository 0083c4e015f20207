"""Nested momentum on a drifting regression, as a scan or as GPU kernels."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import nested_jax as nj
from experiments.levels.kernels.blocks import descent_block, drift_block, lanes, loop_of, padded

# Steps that are drawn together and run in one kernel launch; the level sweep needs ten launches.
STEPS_OF_A_BLOCK = 3000

Scalar = float | jax.Array


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


def regression_rollout(
    decays: Sequence[Scalar] | np.ndarray | jax.Array,
    learning_rate: Scalar,
    key: jax.Array | None,
    steps: int,
    *,
    dim: int = 10,
    data_levels: Scalar = 1,
    max_data_levels: int | None = None,
    data_decay: Scalar = 0.95,
    noise_std: Scalar = 0.1,
    dtype: Any = None,
    warmup: Scalar = 0,
    bound: Scalar = jnp.inf,
    initial: tuple[Any, Any] | None = None,
    draws: Callable[[Any], Any] | None = None,
    implementation: str = "scan",
) -> RegressionRollout:
    r"""Run nested momentum on a drifting regression, as a scan or as kernels.

    It equals `nj.rollout(nj.nested_momentum(learning_rate, decays=decays), problem, key, steps)`
    for `problem = nj.drifting_regression(dim, ...)`, with the same recurrences on the same draws:

    .. math::

        g &= 2 (w \cdot (x, 1) - y) (x, 1), \quad
        M_i \leftarrow a_i M_i + (1 - a_i) M_{i+1} \;\; (i = K, \dots, 1; \; M_{K+1} = g), \\
        w &\leftarrow w - \alpha M_1 .

    Losses of kernels and scan agree up to rounding: for stable runs to 1e-10 in float64. For
    diverging runs, the differences grow with the losses, and the growth rates agree. After an
    infinite loss, one implementation may continue with infinities where the other has NaN.

    Args:
        decays: :math:`a_1, \dots, a_K \in [0, 1)`, outermost first; the values may be traced.
        learning_rate: :math:`\alpha \ge 0`; may be traced.
        key: A JAX key; may be None if `initial` and `draws` are both given.
        steps: Number of steps, at least 1; static.
        dim: Number of inputs. For this and the next five, see `nj.drifting_regression`.
        data_levels: Number of levels of the true weights.
        max_data_levels: Maximum number of levels, which sets the size of the state; by default
            `data_levels`.
        data_decay: Decay of each level.
        noise_std: Standard deviation of the target's noise.
        dtype: Dtype of draws and parameters, float32 or float64.
        warmup: Number of first steps that the mean loss excludes, less than `steps`; may be traced.
        bound: Loss above which a run counts as diverged; may be traced.
        initial: (params, world) that replaces the problem's initial state, as in `nj.rollout`.
        draws: A function of the step that replaces the problem's draws, as in `nj.rollout`.
        implementation: Static. ``"scan"`` runs on any device. ``"pallas"`` uses the kernels,
            compiled for a CUDA GPU. ``"interpret"`` interprets the kernels on any device, slowly.

    Raises:
        ValueError: For ``"pallas"`` if JAX has no Triton backend for Pallas.
    """
    problem = nj.drifting_regression(
        dim,
        data_levels=data_levels,
        decay=data_decay,
        noise_std=noise_std,
        max_levels=max_data_levels,
        dtype=dtype,
    )
    if implementation == "scan":
        tx = nj.nested_momentum(learning_rate, decays=decays)
        trace = nj.rollout(
            tx, problem, key, steps, warmup=warmup, bound=bound, initial=initial, draws=draws
        )
        return RegressionRollout(trace.mean_loss, trace.diverged_at, trace.params)
    keys: Any = (None, None) if key is None else jax.random.split(key)
    key_init, key_draw = keys
    params, world = problem.init(key_init) if initial is None else initial
    # A level beyond the last has decay 0 and hands on what it gets.
    present = jnp.arange(len(world.weights)) < data_levels
    return _by_kernels(
        decays=decays,
        learning_rate=learning_rate,
        steps=steps,
        drift=(jnp.where(present, data_decay, 0.0), jnp.where(present, 1 - data_decay, 1.0)),
        noise_std=noise_std,
        warmup=warmup,
        bound=bound,
        params=jnp.asarray(params),
        weights=jnp.stack(world.weights),
        draw=draws or (lambda t: problem.draw(jax.random.fold_in(key_draw, t))),
        interpret=implementation == "interpret",
    )


class _Carry(NamedTuple):
    rows: Array
    weights: Array
    total: Array
    diverged_at: Array


def _by_kernels(
    *,
    decays,
    learning_rate,
    steps,
    drift,
    noise_std,
    warmup,
    bound,
    params,
    weights,
    draw,
    interpret,
) -> RegressionRollout:
    """Run each block of steps with two kernels: the drift, which gives targets, then descent."""
    dim = params.size - 1
    cast = partial(jnp.asarray, dtype=params.dtype)
    # An infinite loss exceeds even an infinite bound.
    largest = jnp.minimum(cast(bound), jnp.finfo(params.dtype).max)
    # 1 - a before it is cast: in float32, 1 - 0.9999 has a relative error of 1.7e-4.
    stages = [*decays, *(1 - decay for decay in decays)]
    numbers = jnp.stack([-cast(learning_rate), largest, *map(cast, stages)])
    keeps, takes = map(cast, drift)
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
        weights=padded(weights),
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
