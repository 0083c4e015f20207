"""Tests of the checks of arguments and of the rules for dtypes."""

import inspect
import math
import re
import types

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from nested_jax._core import checks as _checks
from nested_jax._core import dtypes as _dtypes
from nested_jax._core.checks import (
    check_at_least,
    check_below,
    check_callable,
    check_choice,
    check_count,
    check_finite,
    check_flag,
    check_fraction,
    check_int_fits,
    check_key,
    check_length,
    check_non_negative,
    check_number,
    check_number_or_schedule,
    check_positive,
    check_reals,
    check_static_count,
    check_transformation,
    check_unit_interval,
    keeps,
)

INF, NAN = math.inf, math.nan
# check -> its further arguments, its rule, values that it takes, values out of range.
RANGES = {
    check_unit_interval: ((), "lie in [0, 1)", [0, 0.0, 0.5, 1 - 2**-53], [-1e-9, 1, 1.7, NAN]),
    check_fraction: ((), "lie in [0, 1]", [0, 0.5, 1, 1.0], [-0.1, 1.0000001, NAN, INF]),
    check_positive: ((), "be positive and finite", [1e-300, 3, 1e300], [0, -0.0, -1, INF, NAN]),
    check_non_negative: ((), "be non-negative and finite", [0, 1e300], [-1e-300, INF, -INF, NAN]),
    check_finite: ((), "be finite", [0, -1e300, 1e300], [INF, -INF, NAN]),
    check_at_least: ((1.5,), "be at least 1.5 and finite", [1.5, 2], [1.4999999, 1, INF, NAN]),
    check_count: ((2,), "be an integer of at least 2", [2, 3, 2**100], [1, -3]),
    check_static_count: ((2,), "be an integer of at least 2", [2, 3], [1, -3]),
}
NO_NUMBERS = [True, "0.5", None, 0.5j, [0.5], np.True_, np.array("a"), np.array(None), np.array(1j)]
ONE_TO_ONE = pytest.mark.parametrize(
    "convert", [np.float32, np.float64, np.array, jnp.asarray, ml_dtypes.bfloat16, jnp.bfloat16]
)


def rejects(error, message):
    return pytest.raises(error, match="^" + re.escape(message) + "$")


def cases(column):
    return [(check, value) for check, row in RANGES.items() for value in row[column]]


@pytest.mark.parametrize(("check", "value"), cases(2))
def test_takes_what_lies_in_range(check, value):
    check("x", value, *RANGES[check][0])


@pytest.mark.parametrize(("check", "value"), cases(3))
def test_names_argument_rule_and_value_of_what_does_not(check, value):
    options, rule, _, _ = RANGES[check]
    with rejects(ValueError, f"`some_name` must {rule}, got {value}."):
        check("some_name", value, *options)


@pytest.mark.parametrize("check", RANGES)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_rejects_what_is_no_number(check, value):
    options, rule, _, _ = RANGES[check]
    with rejects(TypeError, f"`x` must {rule}, got {value!r}."):
        check("x", value, *options)


def test_rejects_keys():
    with pytest.raises(TypeError, match="`x` must be a number, got Array"):
        check_number("x", jax.random.key(0))


@ONE_TO_ONE
def test_takes_scalars_of_every_library_and_width(convert):
    check_unit_interval("x", convert(0.5))
    with rejects(ValueError, "`x` must lie in [0, 1), got 1.5."):
        check_unit_interval("x", convert(1.5))
    with pytest.raises(TypeError, match="`n` must be an integer of at least 0, got "):
        check_count("n", convert(2.0))


@pytest.mark.parametrize("convert", [int, np.int8, np.uint64, np.array, jnp.asarray])
def test_takes_integers_of_every_library_and_width(convert):
    check_count("n", convert(3))
    check_static_count("n", convert(3))
    with rejects(ValueError, "`n` must be an integer of at least 4, got 3."):
        check_count("n", convert(3), 4)


@pytest.mark.parametrize("value", [np.ones(1), jnp.ones((2, 3))])
def test_rejects_arrays_by_their_shape(value):
    with rejects(ValueError, f"`x` must be a number, got an array of shape {value.shape}."):
        check_number("x", value)


@pytest.mark.parametrize("check", [check for check in RANGES if check != check_static_count])
def test_of_a_tracer_only_dtype_and_shape_are_checked(check):
    options, rule, _, _ = RANGES[check]

    def traced(value):
        jax.jit(lambda x: check("x", x, *options))(value)

    traced(-7)  # In no range at all.
    jax.vmap(lambda x: check("x", x, *options))(jnp.arange(3))
    with pytest.raises(ValueError, match=r"`x` must .*, got an array of shape \(2,\)\."):
        traced(jnp.arange(2))
    for value in (True, 1j):
        with pytest.raises(TypeError, match=rf"^`x` must {re.escape(rule)}, got JitTracer"):
            traced(value)


def test_a_traced_count_is_an_integer():
    with pytest.raises(TypeError, match="`n` must be an integer of at least 0, got JitTracer"):
        jax.jit(lambda n: check_count("n", n))(2.0)


def test_concrete_jax_numbers_are_checked_under_jit_too():
    one, two = jnp.asarray(1), jnp.asarray(2.0)
    jax.jit(lambda: check_static_count("n", one, 1))()
    with pytest.raises(ValueError, match="`n` must be an integer of at least 2, got 1"):
        jax.jit(lambda: check_count("n", one, 2))()
    with pytest.raises(ValueError, match="`n` must be less than 1, got 1"):
        jax.jit(lambda: check_below("n", one, 1))()
    with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\), got 2"):
        jax.jit(lambda: check_unit_interval("x", two))()


def test_what_shapes_the_program_is_not_traced():
    message = "^`n` must be a Python integer, known when tracing, got JitTracer.*int32"
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda n: check_static_count("n", n))(3)


def test_check_below():
    check_below("n", 2, 3)
    for value in (3, 4):
        with rejects(ValueError, f"`n` must be less than 3, got {value}."):
            check_below("n", value, 3)


def test_check_flag():
    for value in (True, False, np.True_):
        check_flag("flag", value)
    for value in (1, 0, None, "yes", jnp.asarray(True)):
        with rejects(TypeError, f"`flag` must be True or False, got {value!r}."):
            check_flag("flag", value)
    with pytest.raises(TypeError, match="`flag` must be True or False, got JitTracer"):
        jax.jit(lambda flag: check_flag("flag", flag))(True)


def test_check_choice():
    check_choice("word", "a", ("a", "b"))
    check_choice("word", "a", {"a": 1})
    with rejects(ValueError, "`word` must be one of 'a', 'b', got 'c'."):
        check_choice("word", "c", ("a", "b"))
    for value in (1, None, ["a"]):
        with rejects(TypeError, f"`word` must be one of 'a', 'b', got {value!r}."):
            check_choice("word", value, ("a", "b"))


def test_check_callable():
    check_callable("f", len)
    with rejects(TypeError, "`f` must be callable, got 3."):
        check_callable("f", 3)


def test_check_transformation():
    check_transformation("tx", optax.sgd(0.1))
    check_transformation("tx", optax.MultiSteps(optax.sgd(0.1), 2))
    for value in (3, optax.sgd, types.SimpleNamespace(update=len), {"init": len, "update": len}):
        with rejects(TypeError, f"`tx` must have `init` and `update`, got {value!r}."):
            check_transformation("tx", value)


def test_a_schedule_passes_and_a_number_is_checked():
    check_number_or_schedule("x", lambda step: -1, check_positive)
    check_number_or_schedule("x", 1, check_positive)
    with rejects(ValueError, "`x` must be positive and finite, got -1."):
        check_number_or_schedule("x", -1, check_positive)


def test_check_reals():
    for values in (1, 0.5, [1, [jnp.ones(2)]], np.ones((2, 2)), np.float32(1), []):
        check_reals("x", values)
    jax.jit(lambda x: check_reals("x", [x, 1]))(0.5)
    for values in ("1", b"1", None, True, [True], 1j, np.array("a"), {"a": 1}, [[1], [None]]):
        with rejects(TypeError, f"`x` must be real numbers, got {values!r}."):
            check_reals("x", values)


def test_check_key():
    for key in (jax.random.key(0), jax.random.PRNGKey(0), np.zeros(2, np.uint32)):
        check_key("key", key)
    for value in (0, None, np.zeros(2), jax.random.split(jax.random.key(0))):
        with rejects(
            TypeError, f"`key` must be a JAX key such as jax.random.key(0), got {value!r}."
        ):
            check_key("key", value)


def test_what_is_allocated_has_a_limit():
    check_length("n", 10**9)
    with rejects(ValueError, "`n` must be at most 10, got 2147483648, which would need 16 GiB."):
        check_length("n", 2**31, most=10, each=8)
    check_int_fits("n", 2**31 - 1)
    jax.jit(lambda n: check_int_fits("n", n))(3)
    with rejects(ValueError, "`n` must be less than 2147483648, got 2147483648."):
        check_int_fits("n", 2**31)
    with rejects(ValueError, "`n` must be a number and fit a float, got an integer of 1329 bits."):
        keeps("n", 10**400, "be a number", lambda x: x == x)


def test_every_check_is_tested_here():
    checks = {f for name, f in inspect.getmembers(_checks) if name.startswith("check_")}
    others = {check_number, check_below, check_flag, check_choice, check_callable}
    others |= {check_number_or_schedule, check_transformation, check_reals, check_key}
    others |= {check_length, check_int_fits}
    assert checks == RANGES.keys() | others


@pytest.mark.parametrize("decay", [0.9999, np.float32(0.9999), jnp.float32(0.9999), 0])
def test_complement_is_exact_where_the_decay_is_concrete(decay):
    actual = _dtypes.complement(decay)
    assert actual.dtype == np.float64
    assert actual == 1 - float(decay)


def test_complement_of_a_tracer_has_its_dtype():
    actual = jax.jit(_dtypes.complement)(jnp.float32(0.75))
    assert (actual, actual.dtype) == (0.25, jnp.float32)


@pytest.mark.parametrize("x64", [False, True])
def test_widened(x64):
    rows = [("float8_e4m3fn", "float32"), ("float16", "float32"), ("bfloat16", "float32")]
    rows += [("float32", "float32"), ("complex64", "complex64")]
    rows += [("float64", "float64" if x64 else "float32")]
    with jax.enable_x64(x64):
        for dtype, wide in rows:
            assert _dtypes.widened(jnp.dtype(dtype)) == jnp.dtype(wide)
    with rejects(TypeError, "Arrays must be of a floating dtype, got int32."):
        _dtypes.widened(jnp.int32)


def test_zeros_widened():
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "n": None, "e": (), "s": np.ones(())}
    zeros = _dtypes.zeros_widened(params)
    expected = {"w": np.zeros((2, 3), np.float32), "n": None, "e": (), "s": np.zeros((), "f")}
    chex.assert_trees_all_equal(zeros, expected)
    chex.assert_trees_all_equal_dtypes(zeros, expected)
    again = _dtypes.zeros_widened(params)
    assert zeros["s"].unsafe_buffer_pointer() != again["s"].unsafe_buffer_pointer()


def test_narrowed():
    tree = {"a": jnp.full(2, 1.001), "b": jnp.ones(()), "n": None}
    like = {"a": jnp.ones(2, jnp.bfloat16), "b": np.ones(()), "n": None}
    actual = _dtypes.narrowed(tree, like)
    expected = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32), "n": None}
    chex.assert_trees_all_equal(actual, expected)
    chex.assert_trees_all_equal_dtypes(actual, expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_root_mean_square(dtype):
    # The square of 1000 overflows in float16.
    actual = _dtypes.root_mean_square(jnp.array([1000.0, -1000.0], dtype))
    assert (actual, actual.dtype) == (1000.0, jnp.float32)
    assert _dtypes.root_mean_square(jnp.array([3.0, -4.0], dtype)) == pytest.approx(12.5**0.5)
    assert _dtypes.root_mean_square(jnp.zeros((0, 3), dtype)) == 0.0
    assert _dtypes.root_mean_square(jnp.asarray(-2.0, dtype)) == 2.0


def test_derivative_of_the_root_mean_square():
    derivative = jax.grad(_dtypes.root_mean_square)
    np.testing.assert_allclose(
        derivative(jnp.array([3.0, 4.0])), [3 / 50**0.5, 4 / 50**0.5], rtol=1e-6
    )
    np.testing.assert_array_equal(derivative(jnp.zeros(2)), 0.0)
    assert jnp.isnan(_dtypes.root_mean_square(jnp.array([1.0, jnp.nan])))


def test_a_count_does_not_wrap():
    last = jnp.asarray(2**31 - 1, jnp.int32)
    for count, expected in [(last - 1, last), (last, last)]:
        actual = _dtypes.incremented(count)
        assert (actual, actual.dtype, actual.weak_type) == (expected, jnp.int32, False)
