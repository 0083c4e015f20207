"""A single run of an optimizer on a problem, as one compiled scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from nested_jax._core.checks import (
    check_below,
    check_callable,
    check_count,
    check_key,
    check_number,
    check_static_count,
    check_transformation,
    keeps,
    or_nan,
)
from nested_jax._core.draws import source_of_draws
from nested_jax._core.dtypes import check_updates, widened
from nested_jax._core.types import OptState, Params, ScalarLike
from nested_jax.problems import Problem

# Number of steps whose randomness is drawn at once. On CPU the generator is a separate loop, so
# drawing step by step costs 200 us per step for any draw; blocks above 1,000 gain nothing.
DRAW_BLOCK = 1000
# Losses are summed in groups of this size, and the group sums over a window: in float32, one long
# sum would lose digits.
SHORT_SUM = 32


class Rollout(NamedTuple):
    """The result of a run.

    Attributes:
        mean_loss: Mean loss over the steps from `warmup` on.
        diverged_at: First step whose loss was above `bound` or not finite; -1 if there was none.
        loss_curve: With `stride`, the mean loss of each window of that many steps; else None.
        records: With `record`, its results at the end of each window, stacked; else None.
        params: Parameters after the last step.
        opt_state: State of the optimizer after the last step.
        world: State of the problem after the last step.
    """

    mean_loss: Float[Array, " "]
    diverged_at: Int[Array, ""]
    loss_curve: Float[Array, " windows"] | None
    records: Any
    params: Params
    opt_state: OptState
    world: Any

    @property
    def diverged(self) -> Bool[Array, ""]:
        """Whether any loss was above `bound` or not finite."""
        return self.diverged_at >= 0


class Carry(NamedTuple):
    """What one step hands to the next."""

    params: Params
    opt_state: OptState
    world: Any
    diverged_at: Array


def rollout(
    tx: optax.GradientTransformation,
    problem: Problem,
    key: jax.Array | None,
    steps: int,
    *,
    warmup: ScalarLike = 0,
    bound: ScalarLike = jnp.inf,
    stride: int | None = None,
    record: Callable[[Params, OptState], Any] | None = None,
    initial: tuple[Params, Any] | None = None,
    draws: Any = None,
    unroll: int = 1,
) -> Rollout:
    """Run an optimizer on a problem, online: one draw, one gradient and one update per step.

    Step t = 0, 1, ... observes a batch, computes the loss and the gradient at the current
    parameters, and applies the update of `tx`. Transforms with extra arguments receive `value`, the
    loss, and `batch`, as `problem.observe` returns it. The run is a pure function of its arguments.
    You can jit it, and vmap it over keys and over any argument of a transform or a problem. Memory
    does not grow with `steps` unless you request a curve. Divergence is data: infinite and NaN
    losses are reported and never raise.

    Randomness is drawn for a block of steps at once, with one key per step, so the draws do not
    depend on the block size. Values that do not depend on a vmapped axis are computed only once: if
    only the optimizer varies, these are the draws, the world and the batches.

    Args:
        tx: A complete optimizer; its updates are added to the parameters.
        problem: See `Problem`.
        key: A JAX key; may be None if both `initial` and `draws` are given.
        steps: Number of steps, static, at least 1.
        warmup: Number of initial steps to leave out of the mean loss, less than `steps`; may be
            traced.
        bound: Loss above which a run counts as diverged; may be traced.
        stride: Length of the windows of `Rollout.loss_curve`; static, must divide `steps`. Memory
            holds the draws of max(stride, 1000) steps at a time.
        record: (params, opt_state) -> tree of arrays, called at the end of each window.
        initial: (params, world), replacing `problem.init(key)`.
        draws: Recorded draws, replacing `problem.draw(key)`: the same tree with a leading axis of
            length `steps`, or a function of the step (a traced int32) that returns them.
        unroll: Steps per iteration of the compiled loop, as in `jax.lax.scan`; static. On a GPU,
            8 launches a third as many kernels as 1; on a CPU, values above 1 are slower.

    Returns:
        A `Rollout`. Its losses have the dtype of the problem's loss, or float32 if that is wider.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `warmup` is not less than `steps`, `stride` does not divide `steps`,
            `record` is given without `stride`, `draws` do not have length `steps`, or a key is
            missing.

    Example:
        >>> import jax, nested_jax as nj
        >>> problem = nj.drifting_regression(dim=3)
        >>> tx = nj.nested_momentum(1e-2, levels=2)
        >>> trace = jax.jit(lambda key: nj.rollout(tx, problem, key, 2000, warmup=500))(
        ...     jax.random.key(0)
        ... )
        >>> bool(trace.mean_loss < 1), bool(trace.diverged)
        (True, False)

        Normalized LMS divides the gradient by the power of the features, which are in `batch`:

        >>> import jax.numpy as jnp, optax
        >>> def divide_by_power(updates, state, params=None, *, batch, **extra_args):
        ...     return updates / (1e-8 + jnp.sum(batch.features**2)), state
        >>> normalized = optax.GradientTransformationExtraArgs(
        ...     optax.init_empty_state, divide_by_power
        ... )
        >>> tx = optax.chain(normalized, optax.scale(-0.1))
        >>> trace = nj.rollout(tx, problem, jax.random.key(0), 2000, warmup=500)
        >>> bool(trace.mean_loss < 1), bool(trace.diverged)
        (True, False)
    """
    parts = parts_of(tx, problem, key, steps, warmup, bound, stride, record, initial, draws, unroll)
    # NumPy integers would put their dtype into the carry.
    steps, stride = int(steps), None if stride is None else int(stride)
    carry = parts.start()
    zero = jnp.zeros((), parts.loss_dtype(carry))

    def run_window(carry, ts_and_draws):
        # Sum in the carry: storing all losses and summing at the end takes a sixth longer.
        start = carry, (zero, zero)
        (carry, sums), losses = jax.lax.scan(parts.step, start, ts_and_draws, unroll=int(unroll))
        mean = None if losses is None else jnp.mean(losses)
        recorded = record(carry.params, carry.opt_state) if record else None
        return carry, (sum(sums), mean, recorded)

    def run_block(carry_and_total, start, windows, window):
        carry, total = carry_and_total
        ts = start + jnp.arange(windows * window, dtype=jnp.int32)
        xs = jax.tree.map(
            lambda x: x.reshape((windows, window, *x.shape[1:])), (ts, jax.vmap(parts.draw)(ts))
        )
        carry, (counted, means, records) = jax.lax.scan(run_window, carry, xs)
        return (carry, total + jnp.sum(counted)), (means, records)

    window, windows = windows_of(steps, stride)
    blocks, rest = divmod(steps, windows * window)
    state, outputs = jax.lax.scan(
        lambda state, start: run_block(state, start, windows, window),
        (carry, zero),
        windows * window * jnp.arange(blocks, dtype=jnp.int32),
    )
    outputs = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), outputs)
    if rest:
        window = stride or rest
        state, last = run_block(state, steps - rest, rest // window, window)
        outputs = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), outputs, last)
    (carry, total), (curve, records) = state, outputs
    # Hidden from the compiler, which divides by a constant with other roundings than in stages.
    count = jax.lax.optimization_barrier(jnp.asarray(steps - warmup, total.dtype))
    return Rollout(
        mean_loss=or_nan(parts.valid, total / count),
        diverged_at=jnp.where(carry.diverged_at < steps, carry.diverged_at, -1),
        loss_curve=curve,
        records=records,
        params=carry.params,
        opt_state=carry.opt_state,
        world=carry.world,
    )


class Parts(NamedTuple):
    """What a run is made of, whether it is computed in one go or in stages.

    Attributes:
        valid: Whether a traced `warmup` and `bound` keep their rules, for `or_nan`.
        start: () -> the first carry.
        draw: Step -> its draws.
        step: ((carry, sums), (step, its draws)) -> ((carry, sums), loss), for `jax.lax.scan`.
        loss_dtype: Carry -> dtype of the sums of losses; raises if the problem is not sound.
    """

    valid: Any
    start: Callable[[], "Carry"]
    draw: Callable[[Any], Any]
    step: Callable[..., Any]
    loss_dtype: Callable[["Carry"], Any]


def parts_of(
    tx: Any,
    problem: Any,
    key: Any,
    steps: int,
    warmup: Any,
    bound: Any,
    stride: int | None,
    record: Any,
    initial: Any,
    draws: Any,
    unroll: int,
) -> Parts:
    """Check the arguments of `rollout` and return the functions that a run consists of."""
    check_transformation("tx", tx)
    if not isinstance(problem, Problem):
        raise TypeError(f"`problem` must be a nested_jax.Problem, got {problem!r}.")
    for name, function in problem._asdict().items():
        check_callable(f"problem.{name}", function)
    check_static_count("unroll", unroll, 1)
    valid = _check(key, steps, warmup, bound, stride, record, initial, draws)
    key_init, key_draw = (None, None) if key is None else jax.random.split(key)
    tx = optax.with_extra_args_support(tx)
    draw = source_of_draws(problem, key_draw, draws)

    def start():
        first = problem.init(key_init) if initial is None else initial
        _check_pair("`problem.init` must return a pair of parameters and world", first)
        params, world = jax.tree.map(jnp.asarray, (first[0], first[1]))
        return Carry(params, tx.init(params), world, jnp.full((), int(steps), jnp.int32))

    def step(carry_and_sums, t_and_draws):
        (carry, sums), (t, step_draws) = carry_and_sums, t_and_draws
        batch, world = problem.observe(step_draws, carry.world)
        loss, gradient = jax.value_and_grad(problem.loss)(carry.params, batch)
        extra = {"value": loss, "batch": batch}
        update, opt_state = tx.update(gradient, carry.opt_state, carry.params, **extra)
        check_updates(update, carry.params)  # A scalar would be added to every parameter.
        params = optax.apply_updates(carry.params, update)
        within = jnp.isfinite(loss) & (loss <= bound)  # The default bound is infinite.
        first = jnp.where(within, carry.diverged_at, jnp.minimum(carry.diverged_at, t))
        loss = loss.astype(widened(loss.dtype))
        sums = _added(sums, jnp.where(t >= warmup, loss, 0), t)
        return (Carry(params, opt_state, world, first), sums), loss if stride else None

    def loss_dtype(carry):
        return _loss_dtype(problem, carry, draw)

    return Parts(valid, start, draw, step, loss_dtype)


def windows_of(steps: int, stride: int | None) -> tuple[int, int]:
    """Return the length of a window of losses, and how many make a block of draws."""
    window = stride or min(steps, DRAW_BLOCK)
    return window, max(min(steps, DRAW_BLOCK) // window, 1)


def _added(sums, loss, t):
    """Add one loss to (sum of completed groups, sum of the current group)."""
    if loss.dtype == jnp.float64:  # float64 has enough digits.
        return sums[0] + loss, sums[1]
    handed_on, recent = sums[0], sums[1] + loss
    full = t % SHORT_SUM == SHORT_SUM - 1
    return handed_on + jnp.where(full, recent, 0), jnp.where(full, 0, recent)


def _check_pair(rule, value):
    if not (isinstance(value, tuple | list) and len(value) == 2):
        raise TypeError(f"{rule}, got {value!r}.")


def _loss_dtype(problem, carry, draw):
    """Return the dtype for sums of losses; raise if a step of the problem gives another kind."""

    def loss(carry, t):
        observed = problem.observe(draw(t), carry.world)
        _check_pair("`problem.observe` must return a pair of batch and world", observed)
        return problem.loss(carry.params, observed[0]), observed[1]

    shape, world = jax.eval_shape(loss, carry, jnp.zeros((), jnp.int32))
    before, after = (jax.tree.map(jnp.shape, tree) for tree in (carry.world, world))
    if before != after:
        rule = "`problem.observe` must return a world of the structure and shapes that it took"
        raise ValueError(f"{rule}, got {after} for {before}.")
    if getattr(shape, "shape", None) != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise ValueError(f"`problem.loss` must return a floating scalar, got {shape}.")
    return widened(shape.dtype)


def _check(key, steps, warmup, bound, stride, record, initial, draws):
    check_static_count("steps", steps, 1)
    check_below("steps", steps, 2**31)
    check_count("warmup", warmup)
    rule = f"be less than `steps` = {steps}"
    valid = keeps("warmup", warmup, rule, lambda x: (x >= 0) & (x < int(steps)))
    check_number("bound", bound)
    valid &= keeps("bound", bound, "not be NaN", lambda x: x == x)
    if stride is not None:
        check_static_count("stride", stride, 1)
        if int(steps) % int(stride):
            raise ValueError(f"`stride` must divide `steps` = {steps}, got {stride}.")
    if record is not None:
        check_callable("record", record)
        if stride is None:
            raise ValueError("`record` needs a `stride`, got None.")
    if key is None:
        if initial is None or draws is None:
            raise ValueError("`key` must be given unless `initial` and `draws` both are, got None.")
    else:
        check_key("key", key)
    if initial is not None:
        _check_pair("`initial` must be a pair of parameters and world", initial)
    for shape in [] if callable(draws) else map(np.shape, jax.tree.leaves(draws)):
        if shape[:1] != (steps,):
            raise ValueError(
                f"`draws` must have a leading axis of `steps` = {steps}, got shape {shape}."
            )
    return valid
