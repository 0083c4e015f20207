"""Tests of what a sweep reads off a jaxpr, by counts made by hand."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from nested_jax.sweeps.lanes._sharing import bytes_carried, bytes_held, work_by_axes

A, B = 0b01, 0b10  # Masks of two axes.


def work_of(function, *shapes):
    """Return the work of `function`, whose i-th argument is along axis i."""
    program = jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes))
    return {
        m: n for m, n in work_by_axes(program, [1 << i for i in range(len(shapes))]).items() if n
    }


def test_work_is_told_by_what_it_depends_on():
    def run(a, b):
        constant = jnp.arange(7.0) + 1.0
        return jnp.exp(a).sum() + (b * b) + constant.sum()

    # exp and its sum; the product; iota, sum and addition of the constant; the additions.
    assert work_of(run, (3,), (4,)) == {A: 6, B: 4, 0: 21, A | B: 4 + 4}


def test_a_product_of_matrices_and_a_convolution_count_their_multiplications():
    assert work_of(lambda a: a @ a.T, (3, 5)) == {A: 2 * 3 * 3 * 5 + 15}
    image, kernel = (1, 1, 8, 8), (4, 1, 3, 3)
    convolve = lambda a, b: lax.conv(a, b, (1, 1), "VALID")  # noqa: E731
    assert work_of(convolve, image, kernel) == {A | B: 2 * (4 * 6 * 6) * 9}


def test_a_reduction_of_several_arrays_counts_their_entries():
    def both(pair, other):
        return pair[0] + other[0], pair[1] * other[1]

    def run(a, b):
        return lax.reduce((a, b), (0.0, 1.0), both, (0,))

    assert work_of(run, (50,), (50,)) == {A | B: 50}


def test_random_numbers_are_dear():
    work = work_of(lambda a: a + jax.random.bits(jax.random.key(0), (100,)).astype(float), ())
    assert work[0] > 50 * work[A]


def test_a_loop_counts_its_steps_and_carries_what_enters_it_later():
    def run(a, b):
        def step(carry, _):
            first, second, apart = carry
            return (first + second, second * b, apart * 2.0), None

        ones = jnp.ones(())
        return lax.scan(step, (ones, ones, ones), length=10)[0], a

    # `second` depends on b from the second step on, `first` from the third; `apart` never.
    assert work_of(run, (), ()) == {B: 20, 0: 10}


def test_branches_and_loops_without_a_count():
    def run(a, b):
        x = lax.cond(a > 0, lambda: jnp.zeros(5) + 1.0, lambda: jnp.zeros(5))
        y = lax.while_loop(lambda y: y < 10, lambda y: y + b, jnp.zeros(()))
        return x * 3, y

    work = work_of(run, (), ())
    assert work[A] >= 5  # What comes of a branch depends on what chose it.
    assert work[B] >= 1


def test_a_branch_counts_with_all_its_work():
    def run(a, b):
        return lax.cond(a > 0, lambda b: jnp.sum(jnp.ones(50) * b * b), lambda b: b + 1, b)

    # Two products and a sum of 50 entries in one branch, an addition in the other.
    assert work_of(run, (), ())[B] == 3 * 50 + 1


def test_every_carry_of_a_loop_without_a_count_is_followed():
    def run(a, b):
        def step(carry):
            first, apart, last = carry
            return first + last, apart * 2.0, last * b

        ones = jnp.ones(())
        return lax.while_loop(lambda carry: carry[1] < a, step, (ones, ones, ones))

    # `first` depends on b from the second step on, and only through the last carry.
    assert work_of(run, (), ()) == {B: 2, 0: 1}


def with_a_derivative(function):
    function = jax.custom_jvp(function)
    function.defjvps(None, None)
    return function


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, with_a_derivative])
def test_functions_within_are_followed(wrap):
    inner = wrap(lambda x, y: (jnp.sin(x), y * y))
    assert work_of(lambda a, b: inner(a, b), (3,), (5,)) == {A: 3, B: 5}


def test_bytes_are_those_held_at_the_same_time():
    def held(function, *shapes):
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return bytes_held(jax.make_jaxpr(function)(*arguments).jaxpr) / 4

    # Of a chain two at a time, whatever its length.
    assert held(lambda x: jnp.sin(jnp.cos(jnp.tan(x))), (100,)) == 200
    # The first is needed to the end.
    assert held(lambda x: x + jnp.cos(jnp.tan(x)), (100,)) == 300
    assert held(lambda x: jnp.sin(x), ()) == 2
    short, long = (
        held(lambda x, n=n: lax.fori_loop(0, n, lambda i, y: jnp.sin(y), x), (100,))
        for n in (2, 99)
    )
    assert short == long >= 200
    assert math.isfinite(long)


def test_bytes_carried_are_those_of_the_axes_that_they_depend_on():
    def run(a, b):
        def step(carry, x):
            with_a, with_b, of_both, shared = carry
            return (with_a * a, with_b + x, of_both + with_a.sum() * b, shared + 1.0), None

        def outer(carry, x):
            return jax.lax.scan(step, carry, jnp.zeros(5) + x)[0], None

        start = jnp.ones(3), jnp.full(7, b), jnp.ones(()), jnp.ones(11)
        return jax.jit(lambda: jax.lax.scan(outer, start, jnp.zeros(4))[0])()

    program = jax.make_jaxpr(run)(1.0, 2.0)
    # 20 points of a, 30 of b: entries of 4 bytes, each once for all points it depends on.
    carried = bytes_carried(program.jaxpr, [A, B], [20, 30])
    assert carried == 4 * (3 * 20 + 7 * 30 + 20 * 30 + 11)
    assert bytes_carried(jax.make_jaxpr(lambda a: a + 1)(1.0).jaxpr, [A], [20]) == 0
