"""`rollout_in_stages`: a run that a sweep can look at before it ends."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nested_jax._core.checks import check_callable, check_static_count, is_traced, or_nan
from nested_jax._core.stages import Stages
from nested_jax._core.types import OptState, Params, ScalarLike
from nested_jax._rollout import Carry, Parts, Rollout, parts_of, windows_of
from nested_jax.problems import Problem


class _StagedCarry(NamedTuple):
    """What a stage hands to the next.

    Attributes:
        run: What a step hands to the next.
        done: Steps so far.
        total: Sum of the losses of whole blocks of draws.
        sums: Unfinished sums of the losses of the current window.
        counted: Sums of the losses of the windows of the current block, 0 where still to come.
        curve: `Rollout.loss_curve`, by stage; NaN where still to come.
        records: `Rollout.records`, by stage.
    """

    run: Carry
    done: Int[Array, ""]
    total: Float[Array, ""]
    sums: tuple[Float[Array, ""], Float[Array, ""]]
    counted: Float[Array, " windows"]
    curve: Float[Array, "stages windows"] | None
    records: Any


def rollout_in_stages(
    tx: optax.GradientTransformation,
    problem: Problem,
    key: jax.Array | None,
    steps: int,
    *,
    stages: int,
    report: Callable[[Rollout], Mapping[str, Any]],
    warmup: ScalarLike = 0,
    bound: ScalarLike = jnp.inf,
    stride: int | None = None,
    record: Callable[[Params, OptState], Any] | None = None,
    initial: tuple[Params, Any] | None = None,
    draws: Any = None,
    unroll: int = 1,
) -> Stages:
    """Return the run of `rollout` in stages of `steps` / `stages` steps, for a swept function.

    After the last stage, `report` gets what `rollout` returns for the same arguments: draws, the
    warm-up and the order in which losses are summed do not depend on `stages`. With JAX before 0.12
    all bits agree; newer versions round inside a loop differently in another loop. After an
    earlier stage it gets the `Rollout` of the steps so far: the mean loss from `warmup` on or,
    while no step counts yet, the loss of the next batch; NaN in windows of the curve that are still
    to come, and 0 in integer records.

    Args:
        tx: As for `rollout`.
        problem: As for `rollout`.
        key: As for `rollout`.
        steps: As for `rollout`.
        stages: Number of stages, static, at least 1; must divide `steps`.
        report: Rollout -> dict of arrays by name, the result of the run.
        warmup: As for `rollout`.
        bound: As for `rollout`.
        stride: As for `rollout`; must divide the steps of a stage.
        record: As for `rollout`.
        initial: As for `rollout`.
        draws: As for `rollout`.
        unroll: As for `rollout`.

    Returns:
        A `Stages`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `stages` does not divide `steps`, `stride` does not divide the steps of a
            stage, or as for `rollout`.

    Example:
        >>> import jax, nested_jax as nj
        >>> def run(learning_rate):
        ...     tx, problem = nj.momentum(learning_rate), nj.drifting_regression(dim=3)
        ...     return nj.rollout_in_stages(
        ...         tx, problem, jax.random.key(0), 1000, stages=10,
        ...         report=lambda trace: {"loss": trace.mean_loss},
        ...     )
        >>> grid = nj.Grid(learning_rate=[0.01, 10.0])
        >>> results = nj.sweep(run, grid, stop=nj.sweeps.diverged("loss", bound=1e6))
        >>> results.stopped_at.values.tolist()
        [10, 1]
    """
    check_callable("report", report)
    parts = parts_of(tx, problem, key, steps, warmup, bound, stride, record, initial, draws, unroll)
    check_static_count("stages", stages, 1)
    if int(steps) % int(stages):
        raise ValueError(f"`stages` must divide `steps` = {steps}, got {stages}.")
    each = int(steps) // int(stages)
    if stride is not None and each % int(stride):
        rule = f"`stride` must divide the {each} steps of a stage"
        raise ValueError(f"{rule}, got {stride}.")
    geometry = _Geometry(int(steps), int(stages), None if stride is None else int(stride))

    def rollout_so_far(carry):
        at, run = geometry, carry.run
        mean = _total(carry, at) / (carry.done - warmup)
        if is_traced(warmup) or int(warmup) >= each:  # Otherwise every stage counts some steps.
            batch, _ = problem.observe(parts.draw(carry.done), run.world)
            mean = jnp.where(carry.done > warmup, mean, problem.loss(run.params, batch))
        joined = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), (carry.curve, carry.records))
        curve, records = joined
        first = jnp.where(run.diverged_at < steps, run.diverged_at, -1)
        return Rollout(
            or_nan(parts.valid, mean), first, curve, records, run.params, run.opt_state, run.world
        )

    return Stages(
        lambda: _start(parts, geometry, record),
        lambda carry, stage: _advance(parts, geometry, record, int(unroll), carry, stage),
        lambda carry: report(rollout_so_far(carry)),
        stages=int(stages),
    )


class _Geometry(NamedTuple):
    """Lengths in steps: a block of draws has windows of losses, and a stage has pieces of blocks.

    `rollout` adds up losses by window and windows by block. A piece lies in one block, so that
    stages of any length can add up in the same order.
    """

    steps: int
    stages: int
    stride: int | None

    @property
    def stage(self) -> int:
        return self.steps // self.stages

    @property
    def window(self) -> int:
        return windows_of(self.steps, self.stride)[0]

    @property
    def windows(self) -> int:
        """Number of windows in a block."""
        return windows_of(self.steps, self.stride)[1]

    @property
    def block(self) -> int:
        return self.window * self.windows

    @property
    def piece(self) -> int:
        return math.gcd(self.stage, self.block)


def _start(parts: Parts, at: _Geometry, record: Any) -> _StagedCarry:
    run = parts.start()
    dtype = parts.loss_dtype(run)
    zero = jnp.zeros((), dtype)
    curve = records = None
    if at.stride is not None:
        shape = (at.stages, at.stage // at.stride)
        curve = jnp.full(shape, jnp.nan, dtype)
        if record is not None:
            made = jax.eval_shape(record, run.params, run.opt_state)
            records = jax.tree.map(lambda x: _to_come((*shape, *x.shape), x.dtype), made)
    zeros = jnp.zeros(at.windows, dtype)
    return _StagedCarry(run, jnp.zeros((), jnp.int32), zero, (zero, zero), zeros, curve, records)


def _to_come(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.full(shape, jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0, dtype)


def _advance(
    parts: Parts, at: _Geometry, record: Any, unroll: int, carry: _StagedCarry, stage: Any
) -> _StagedCarry:
    zero = jnp.zeros_like(carry.total)
    # Without a stride a window is a block, and a stage may end within one.
    length = at.stride or at.piece

    def run_part(run, ts_and_draws, sums=(zero, zero)):
        (run, sums), losses = jax.lax.scan(parts.step, (run, sums), ts_and_draws, unroll=unroll)
        mean = None if losses is None else jnp.mean(losses)
        return run, sums, (mean, record(run.params, run.opt_state) if record else None)

    def run_piece(carry, start):
        ts = start + jnp.arange(at.piece, dtype=jnp.int32)
        xs = (ts, jax.vmap(parts.draw)(ts))
        counted: Any
        if at.stride is None:
            run, sums, outputs = run_part(carry.run, xs, carry.sums)
            counted = jnp.stack([sum(sums)])
        else:
            xs = jax.tree.map(lambda x: x.reshape((-1, length, *x.shape[1:])), xs)

            def run_window(run, xs):
                run, sums, outputs = run_part(run, xs)
                return run, (sum(sums), outputs)

            run, (counted, outputs) = jax.lax.scan(run_window, carry.run, xs)
            sums = carry.sums
        if counted.shape != carry.counted.shape:
            place = (start % at.block // length,)
            counted = jax.lax.dynamic_update_slice(carry.counted, counted, place)
        full = (start + at.piece) % at.block == 0
        total = carry.total + jnp.where(full, jnp.sum(counted), 0)
        counted, sums = jax.tree.map(lambda x: jnp.where(full, 0, x), (counted, sums))
        return carry._replace(run=run, total=total, sums=sums, counted=counted), outputs

    first = carry.curve, carry.records
    starts = stage * at.stage + at.piece * jnp.arange(at.stage // at.piece, dtype=jnp.int32)
    carry, outputs = jax.lax.scan(run_piece, carry, starts)
    curve, records = jax.tree.map(
        lambda whole, made: whole.at[stage].set(made.reshape(whole.shape[1:])), first, outputs
    )
    done = (stage + 1) * at.stage
    return carry._replace(done=jnp.int32(done), curve=curve, records=records)


def _total(carry: _StagedCarry, at: _Geometry) -> jax.Array:
    """Return the sum of the losses so far."""
    unfinished = jnp.sum(carry.counted)
    rest = max(at.steps % at.block // at.window, 1)
    if at.steps % at.block and rest < at.windows:
        # `rollout` adds up these alone, and the order of a sum depends on its length.
        last = jnp.sum(carry.counted[:rest])
        unfinished = jnp.where(carry.done == at.steps, last, unfinished)
    return carry.total + unfinished
