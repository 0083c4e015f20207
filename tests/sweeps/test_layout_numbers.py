"""Tests of what a layout knows of numbers: which choices are alike."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nested_jax as nj
from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._tracing import program_of
from tests.sweeps.test_layout import assert_is_vmap, job_of, layout_of, loop


def inverse_of_sum(a, rate):
    """Return what tells the signs of zero apart."""
    step = lambda x, _: (x + rate / (a + a), None)  # noqa: E731
    return {"x": lax.scan(step, jnp.zeros(()), length=4)[0]}


RATES = [0.5, 1.0, 2.0]
KNOWN = {
    "not by name": (lambda x, a, r: jnp.where(a == 1, x * r, x + r), [1.0, 2.0, 3.0]),
    "infinite": (lambda x, a, r: jnp.where(a - a >= 0, x * a, x * r), [np.inf, 1.0, 2.0]),
    "overflow": (lambda x, a, r: jnp.where(a + a > 4, x * 1.5, x * r), [1.7e308, 1.0, 2.0]),
    "to an integer": (lambda x, a, r: jnp.where(a.astype(int) > 3, x * 1.5, x * r), [1e30, 1, 5]),
    "to fewer bits": (
        lambda x, a, r: jnp.where(a.astype(jnp.int8) > 3, x * 1.5, x * r),
        [300, 2, 5],
    ),
    "flushed": (lambda x, a, r: jnp.where(a == 0, x * 1.5, x * r), [1e-310, 0.0, 2.0]),
    "flushed difference": (
        lambda x, a, r: jnp.where(a - 2.5e-308 == 0, x * 1.5, x * r),
        [2.6e-308, 0.0, 2.0],
    ),
    # In float64 the product of the first is not 0.09, but rounded once with the difference.
    "rounded once": (lambda x, a, r: jnp.where(a * a - 0.09 == 0, x * 1.5, x * r), [0.3, 1.0]),
    "of neither sign": (lambda x, a, r: x * r + jnp.copysign(1.0, a - a), [1.0, 2.0]),
    "negative zero": (lambda x, a, r: x * r + jnp.copysign(1.0, a), [0.0, -0.0, 1.0]),
    "of no entries": (
        lambda x, a, r: (
            x * r
            + lax.select(jnp.arange(0) < a, jnp.zeros(0), a + jnp.zeros(0)).sum()
            + (jnp.arange(0) < a).reshape(0, 1).sum()
        ),
        [1.0, 2.0],
    ),
    "out of range": (lambda x, a, r: lax.select_n(a, x * r, x + r, x - r), [-1, 1, 7, 0]),
    "three cases": (lambda x, a, r: lax.select_n(a % 3, x * r, x + r, x - r), [1, 2, 3, 4]),
    "all of one case": (lambda x, a, r: lax.select_n(a - a + 7, x * r, x + r, x - r), [5, 6, 7]),
    "entries": (lambda x, a, r: jnp.where(jnp.arange(3) < a, x * r, x), [1, 0, 3, 2]),
    "of entries": (
        lambda x, a, r: sum(
            jnp.where(d == 0, x, d * x + r) for d in jnp.where(jnp.arange(3) < a, 0.5, 0.0)
        ),
        [1, 0, 3, 2],
    ),
    "sum of bools": (lambda x, a, r: jnp.where((a > 1) | ~(a < 3), x * r, x), [1, 2, 3]),
    "narrow": (
        lambda x, a, r: jnp.where(
            jnp.where(a > 1, a.astype(jnp.bfloat16), 2) == jnp.bfloat16(2), x * r, x
        ),
        [1.0, 2.0, 5.0],
    ),
    "wrapped": (
        lambda x, a, r: jnp.where(a.astype(jnp.uint8) - jnp.uint8(3) > 9, x * r, x),
        [1, 4, 255],
    ),
    "turned": (
        lambda x, a, r: (
            x * jnp.where(lax.reshape(jnp.arange(6).reshape(2, 3), (3, 2), (1, 0))[0, 1] > a, r, 2)
        ),
        [2, 4, 1],
    ),
}


@pytest.mark.parametrize(("body", "values"), KNOWN.values(), ids=KNOWN)
def test_numbers_are_what_xla_makes_of_them(x64, small, body, values):
    axis = nj.zipped(a=values)
    assert_is_vmap(job_of(loop(body), axis=axis, rate=RATES))


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_signs_of_zero_are_told_apart(x64, small, zero):
    # The second must not be taken for the first, which was compiled before.
    job = job_of(inverse_of_sum, axis=nj.zipped(a=[zero, zero]), rate=RATES)
    (layout,) = job.layouts("cpu")
    assert len(layout.alike[0]) == 1
    program = program_of((), job.run, job.columns(0))
    inverse = evaluate((), layout, program, job.run, job.columns(0))["x"]
    np.testing.assert_array_equal(inverse, np.full((2, 3), math.copysign(math.inf, zero)))


def test_what_differs_is_not_alike(x64, small):
    assert not layout_of(inverse_of_sum, axis=nj.zipped(a=[0.0, -0.0]), rate=RATES).alike[0]
    assert not layout_of(inverse_of_sum, a=[1.0, 1.0 + 1e-15], rate=RATES).alike[0]


def test_nan_is_alike_and_its_layout_equals_itself(x64, small):
    run = loop(lambda x, a, r: x * r + (a - a))
    first, second = (
        layout_of(run, axis=nj.zipped(a=[math.inf, math.inf]), rate=RATES) for _ in range(2)
    )
    assert len(first.alike[0]) == 1
    assert (first, hash(first)) == (second, hash(second))
