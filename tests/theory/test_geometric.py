"""Tests of geometric series against exact fractions and sums term by term."""

import math
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nested_jax import theory

# r^n has n ln r times the rounding of one number; here that is below 500.
RTOL = 500 * np.finfo(np.float64).eps
# A few hundred products of small matrices.
MATRIX_RTOL = 1e-12
FLOAT32_RTOL = 16 * np.finfo(np.float32).eps
LARGE_RTOL = 128 * np.finfo(np.float32).eps  # Of r^n for r = 2^40, n = 3: n ln r is 83.

RATIOS = [0.0, 0.3, 0.5, 0.95, 1 - 2**-30, 1 - 2**-52, 1.0, 1 + 2**-40, 1.3, -0.7, -1.0, -1.2]
TERMS = [0, 1, 2, 7, 1000]


def exact_sum(ratio, terms):
    r = Fraction(ratio)
    return float(Fraction(terms) if r == 1 else (1 - r**terms) / (1 - r))


@pytest.mark.parametrize("ratio", RATIOS)
def test_sum_of_a_number_has_all_digits(x64, ratio):
    actual = [theory.geometric_sum(ratio, n) for n in TERMS]
    expected = [exact_sum(ratio, n) for n in TERMS]
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


def test_sum_of_a_traced_number_of_terms(x64):
    over_terms = jax.vmap(theory.geometric_sum, (None, 0))
    actual = jax.jit(jax.vmap(over_terms, (0, None)))(jnp.array(RATIOS), jnp.array(TERMS))
    expected = [[exact_sum(r, n) for n in TERMS] for r in RATIOS]
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


@pytest.mark.parametrize("ratio", [2**40, np.int64(2**40), [[2**40]], np.array([[2**40]])])
def test_sum_of_an_integer_that_jax_has_no_room_for(ratio):
    total = theory.geometric_sum(ratio, 3)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total.ravel(), exact_sum(2**40, 3), rtol=LARGE_RTOL)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_floating_ratio_keeps_its_dtype(x64, dtype):
    for ratio in (jnp.asarray(0.5, dtype), jnp.asarray([[0.5]], dtype)):
        assert theory.geometric_sum(ratio, 3).dtype == dtype


def test_a_ratio_of_python_has_its_digits_in_float32():
    # 1 - float32(0.9999) is off by 1.7e-4 of its value.
    assert theory.geometric_sum(0.9999, 10_000).dtype == jnp.float32
    actual = theory.geometric_sum(0.9999, 10_000), theory.geometric_limit(0.9999)
    expected = (1 - 0.9999**10_000) / 1e-4, 1e4
    np.testing.assert_allclose(actual, expected, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("ratio", [0.4, 0.9, 1.0, 1.1])
def test_derivative_of_the_sum(x64, ratio):
    actual = jax.grad(theory.geometric_sum)(ratio, 9)
    expected = sum(i * ratio ** (i - 1) for i in range(1, 9))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_no_derivative_is_lost_where_the_limit_is_not(x64):
    derivatives = jax.vmap(jax.grad(theory.geometric_limit))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(derivatives, [4.0, 0.0])


def term_by_term(matrix, terms):
    total, power = np.zeros_like(matrix), np.eye(len(matrix))
    for _ in range(terms):
        total, power = total + power, power @ matrix
    return total


@pytest.mark.parametrize("terms", [0, 1, 2, 3, 8, 21, 100])
def test_sum_of_a_matrix(x64, terms):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 4)) / 4
    actual = theory.geometric_sum(matrix, terms)
    np.testing.assert_allclose(actual, term_by_term(matrix, terms), rtol=MATRIX_RTOL)
    eye = np.eye(4)
    closed = np.linalg.solve(eye - matrix, eye - np.linalg.matrix_power(matrix, terms))
    np.testing.assert_allclose(actual, closed, rtol=0, atol=MATRIX_RTOL)


@pytest.mark.parametrize("below", [0.0, 1e-14, 1e-6])
def test_sum_of_a_matrix_next_to_one_without_an_inverse(x64, below):
    # A Jordan block of 1 - below: the corner of its i-th power is i(i - 1) / 2 at 1.
    matrix = np.eye(3) * (1 - below) + np.eye(3, k=1)
    actual = theory.geometric_sum(matrix, 1000)
    assert actual[0, 2] == pytest.approx(math.comb(1000, 3), rel=1e-3)
    np.testing.assert_allclose(actual, term_by_term(matrix, 1000), rtol=MATRIX_RTOL)


def test_sum_of_matrices_is_vectorised_over_matrix_and_terms(x64):
    matrices = np.stack([0.5 * np.eye(2) + 0.1 * i * np.eye(2, k=1) for i in range(3)])
    terms = np.array([0, 5, 1000])
    actual = jax.jit(jax.vmap(theory.geometric_sum))(matrices, terms)
    expected = [term_by_term(a, n) for a, n in zip(matrices, terms, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=MATRIX_RTOL)


def test_limit(x64):
    for ratio in (0.0, 0.5, 0.9999, -0.999):
        np.testing.assert_allclose(theory.geometric_limit(ratio), 1 / (1 - ratio), rtol=RTOL)
    matrix = np.array([[0.5, 3.0], [0.0, -0.9]])
    actual = theory.geometric_limit(matrix)
    np.testing.assert_allclose(actual, term_by_term(matrix, 1000), rtol=MATRIX_RTOL)


def test_limit_of_traced_numbers_that_have_none(x64):
    ratios = jnp.array([0.5, 1.0, 1.7, -1.0, jnp.nan])
    actual = jax.jit(jax.vmap(theory.geometric_limit))(ratios)
    np.testing.assert_array_equal(actual, [2.0, jnp.inf, jnp.inf, jnp.nan, jnp.nan])


def test_limit_of_traced_matrices_that_have_none(x64):
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    matrices = np.stack([0.5 * np.eye(2), np.eye(2), turn, 1.001 * np.eye(2)])
    actual = jax.jit(jax.vmap(theory.geometric_limit))(matrices)
    np.testing.assert_array_equal(actual[0], 2 * np.eye(2))
    assert np.isnan(actual[1:]).all()


@pytest.mark.parametrize("ratio", [1 - 2**-52, 1 - 2**-23])
def test_what_just_forgets_has_a_limit(x64, ratio):
    actual = theory.geometric_limit(jnp.eye(2) * ratio)
    np.testing.assert_allclose(actual, np.eye(2) / (1 - ratio))


@pytest.mark.parametrize(
    ("ratio", "radius"),
    [
        (1.0, "1"),
        (-1.7, "1.7"),
        (2**40, "1.09951e+12"),
        (math.inf, "nan"),
        (np.eye(2), "1"),
        (1.5 * np.eye(2), "1.5"),
    ],
)
def test_rejects_a_ratio_without_a_limit(ratio, radius):
    message = f"`ratio` must have a spectral radius below 1, got {radius}."
    with pytest.raises(ValueError, match=re.escape(message)):
        theory.geometric_limit(ratio)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 2, 2)])
@pytest.mark.parametrize(
    "series", [theory.geometric_limit, lambda ratio: theory.geometric_sum(ratio, 3)]
)
def test_rejects_what_is_no_square_matrix(series, shape):
    message = f"`ratio` must be a scalar or a square matrix, got an array of shape {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        series(np.zeros(shape))


def test_rejects_a_wrong_number_of_terms():
    with pytest.raises(ValueError, match=r"`terms` must be an integer of at least 0, got -1\."):
        theory.geometric_sum(0.5, -1)
    with pytest.raises(TypeError, match=r"`terms` must be an integer of at least 0, got 2\.5\."):
        theory.geometric_sum(0.5, 2.5)
