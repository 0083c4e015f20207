"""Tests of `rollout_in_stages`: the same results as in one go, what is reported so far, errors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax._core.stages import advanced, started

KEY = jax.random.key(3)
PROBLEM = nj.drifting_regression(dim=3)
TX = nj.nested_momentum(1e-2, levels=2)
FLOAT32_RTOL = 1e-5  # Up to 150 losses, summed in another order.
# From JAX 0.12 on, XLA compiles a loop as one kernel; which products it contracts depends on the
# loops around. Seen after 1,320 steps: 7e-7.
SAME_BITS = jax.__version_info__ < (0, 12)


def leave(trace):
    return {"trace": trace}


def staged(steps, stages, **options):
    """Return the reports after each stage, from one program for all of them."""

    def run():
        return nj.rollout_in_stages(TX, PROBLEM, KEY, steps, stages=stages, report=leave, **options)

    def stage(carry, number):
        carry = advanced(run(), carry, number)
        return carry, run().report(carry)["trace"]

    carry, traces, stage = jax.jit(lambda: started(run()))(), [], jax.jit(stage)
    for number in range(stages):
        carry, trace = stage(carry, jnp.int32(number))
        traces.append(trace)
    return traces


def norm(params, state):
    return {"norm": jnp.sum(params**2), "steps": jnp.int32(7)}


# Steps, stages, options: stages that are parts, multiples and neither of a block of 1,000 draws.
CASES = [
    (2000, 8, {"warmup": 500}),
    (1320, 4, {"bound": 0.5}),
    (3000, 3, {"stride": 100, "record": norm}),
    (1100, 11, {"stride": 4, "warmup": 1099}),
    (60, 1, {}),
]


@pytest.mark.parametrize(("steps", "stages", "options"), CASES)
@pytest.mark.usefixtures("optimized")
def test_the_last_report_is_that_of_one_go(steps, stages, options):
    expected = jax.jit(lambda: nj.rollout(TX, PROBLEM, KEY, steps, **options))()
    same = functools.partial(np.testing.assert_array_equal, strict=True)
    if not SAME_BITS:
        same = functools.partial(np.testing.assert_allclose, rtol=FLOAT32_RTOL, strict=True)
    jax.tree.map(same, staged(steps, stages, **options)[-1], expected)


@pytest.mark.usefixtures("optimized")
def test_the_mean_of_one_swept_seed_is_that_of_one_go():
    """Where the divisor is a constant of one program and a number of the other."""
    for warmup in (7, 100, 333):
        options = {"warmup": warmup}
        one = nj.sweep(
            lambda seed, o=options: {
                "loss": nj.rollout(TX, PROBLEM, jax.random.key(seed), 600, **o).mean_loss
            },
            nj.Grid(seed=[0]),
        )
        other = nj.sweep(
            lambda seed, o=options: nj.rollout_in_stages(
                TX,
                PROBLEM,
                jax.random.key(seed),
                600,
                stages=6,
                report=lambda trace: {"loss": trace.mean_loss},
                **o,
            ),
            nj.Grid(seed=[0]),
        )
        np.testing.assert_allclose(other.loss, one.loss, rtol=0 if SAME_BITS else FLOAT32_RTOL)


def test_an_earlier_report_is_of_the_steps_so_far():
    options = {"stride": 10, "warmup": 75, "bound": 0.5}
    curve = jax.jit(
        lambda: nj.rollout(TX, PROBLEM, KEY, 200, **options | {"warmup": 0, "stride": 1})
    )
    losses = np.asarray(curve().loss_curve, np.float64)
    first = int(np.argmax(losses > 0.5))
    for number, trace in enumerate(staged(200, 4, **options)):
        done = 50 * (number + 1)
        # Nothing counts yet after the first stage: it reports the next loss.
        expected = losses[75:done].mean() if done > 75 else losses[done]
        np.testing.assert_allclose(trace.mean_loss, expected, rtol=FLOAT32_RTOL)
        assert int(trace.diverged_at) == (first if first < done else -1)
        assert np.isnan(trace.loss_curve).tolist() == [i >= done // 10 for i in range(20)]
        assert trace.loss_curve.shape == (20,)


def test_a_traced_warmup_out_of_range_gives_nan():
    def run(warmup):
        stages = nj.rollout_in_stages(TX, PROBLEM, KEY, 20, stages=2, report=leave, warmup=warmup)
        return stages.report(started(stages))["trace"].mean_loss

    assert np.isnan(jax.jit(run)(20))
    assert np.isfinite(jax.jit(run)(19))


in_stages = functools.partial(nj.rollout_in_stages, TX, PROBLEM, KEY)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda: in_stages(100, stages=3, report=leave),
            ValueError,
            "`stages` must divide `steps` = 100, got 3.",
        ),
        (
            lambda: in_stages(100, stages=10, report=leave, stride=20),
            ValueError,
            "`stride` must divide the 10 steps of a stage, got 20.",
        ),
        (
            lambda: in_stages(100, stages=0, report=leave),
            ValueError,
            "`stages` must be an integer of at least 1, got 0.",
        ),
        (
            lambda: in_stages(100, stages=2, report={"loss": 1.0}),
            TypeError,
            "`report` must be callable, got {'loss': 1.0}.",
        ),
        (
            lambda: in_stages(100, stages=2, report=leave, warmup=100),
            ValueError,
            "`warmup` must be less than `steps` = 100, got 100.",
        ),
        (
            lambda: nj.rollout_in_stages(optax.sgd, PROBLEM, KEY, 10, stages=2, report=leave),
            TypeError,
            "`tx` must have `init` and `update`, got ",
        ),
        (
            lambda: nj.Stages(1.0, leave, leave, stages=1),
            TypeError,
            "`init` must be callable, got 1.0.",
        ),
        (
            lambda: nj.Stages(leave, leave, leave, stages=1.5),
            TypeError,
            "`stages` must be an integer of at least 1, got 1.5.",
        ),
    ],
)
def test_errors(attempt, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        attempt()
