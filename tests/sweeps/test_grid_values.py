"""Tests of the values of an axis: what is a number, what is static, what is refused."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax.sweeps.grid import _axes, check_values, column_in_jax
from tests.sweeps.axes import RULE, columns, double, half


def test_integers_stay_integers():
    seeds = [0, 2**63 + 1]  # Of which NumPy would make floats.
    assert nj.Grid(seed=seeds)["seed"].columns["seed"].tolist() == seeds
    with pytest.raises(ValueError, match=r"`seed` must hold integers of one type, got \[-1, "):
        nj.Grid(seed=[-1, 2**63])


@pytest.mark.parametrize(
    "values", [jnp.array([1, 0.5], jnp.bfloat16), [jnp.bfloat16(1), jnp.bfloat16(0.5)]]
)
def test_bfloat16_is_a_number(values):
    column = nj.Grid(a=values)["a"].columns["a"]
    assert (column.dtype, column.tolist()) == (np.float64, [1.0, 0.5])


@pytest.mark.parametrize(
    "values", [[1.0, 2], (1, 2.0), np.array([1, 2], np.float32), jnp.array([1.0, 2.0]), {1.0: 0}]
)
def test_anything_but_integers_becomes_float64(values):
    if isinstance(values, dict):
        values = values.keys()
    column = nj.Grid(a=values)["a"].columns["a"]
    assert column.dtype == np.float64
    np.testing.assert_array_equal(column, [1.0, 2.0][: len(column)])


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.int64])
def test_integers_keep_their_dtype(dtype):
    assert nj.Grid(a=np.array([1, 2], dtype))["a"].columns["a"].dtype == dtype


ODD = [
    *(range(5, -5, -2), range(2**62, 2**62 + 2), range(2**70, 2**70 + 1)),
    *([1, 2], [1, 2.5], [2**63, 2**64 - 1], [2**63, 1], [-1, 2**63], [1, 2**70], [True, False]),
    *([1.5, np.inf], [1.0, np.nan], [np.int8(1), np.int8(2)], [np.float16(0.1)], [np.True_]),
    *(np.array([1, 2], np.int8), np.array([0.1, 0.2], np.float16), np.array([0.5, np.nan])),
    *(np.array([1.5, 2], np.longdouble), np.array([1, 2.5], object), np.array([1, 2])[::-1]),
    *(np.ma.array([1.0, 2.0]), np.array([1j, 2]), np.array([True])),
]


@pytest.mark.parametrize("values", ODD, ids=repr)
def test_values_converted_at_once_are_those_converted_one_by_one(values, monkeypatch):
    def column():
        try:
            made = nj.Grid(zip=nj.zipped(x=values))["zip"].columns["x"]
        except (TypeError, ValueError) as error:
            return type(error), str(error)
        return made.dtype, made.tolist()

    at_once = column()
    monkeypatch.setattr(_axes, "_of_one_type", lambda values: None)
    monkeypatch.setattr(_axes, "_is_vector", lambda values: False)
    assert at_once == column()


def test_a_grid_keeps_its_values_when_the_array_changes():
    for values in (np.arange(3), np.arange(3.0)):
        grid = nj.Grid(rate=values)
        values[:] = 7
        assert columns(grid)["rate"] == [0, 1, 2]


@pytest.mark.parametrize("wrong", [3.5, 0.0, -np.inf, np.inf])
@pytest.mark.parametrize("size", [100, 20_000])
def test_the_first_wrong_value_of_an_axis_is_named_however_long_it_is(size, wrong):
    def rule(value):
        if not (1 <= value < np.inf and value % 1 == 0):
            raise ValueError(f"`steps` must be whole, got {value}.")

    given = np.arange(1.0, size + 1)
    check_values("steps", given, given.astype(np.float32), rule)
    given[[size // 3, size // 2]] = wrong
    message = f"`steps`[{size // 3}] = {wrong}: `steps` must be whole, got {wrong}."
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        check_values("steps", given, given.astype(np.float32), rule)


def test_what_jax_cannot_hold_is_found_anywhere_in_a_long_axis():
    for dtype, wrong in ((np.int64, 2**31), (np.float64, 1e300), (np.float64, 1e-300)):
        values = np.arange(200_000).astype(dtype)
        np.testing.assert_array_equal(column_in_jax("x", values), values)
        values[150_000] = wrong
        with pytest.raises(ValueError, match=re.escape(f"got {wrong}.")):
            column_in_jax("x", values)
    infinite = np.array([-np.inf, np.inf, 0.1])
    np.testing.assert_array_equal(column_in_jax("x", infinite), infinite.astype(np.float32))


def test_infinities_are_numbers():
    assert columns(nj.Grid(a=[-math.inf, math.inf])) == {"a": [-math.inf, math.inf]}


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["cosine", "fixed"], ["cosine", "fixed"]),
        ([True, False], ["True", "False"]),
        (np.array([True, False]), ["True", "False"]),
        ([None, "a", True, double], ["None", "a", "True", "double"]),
        ([double, half], ["double", "half"]),
        ([lambda x: x], ["<lambda>"]),
        # Without an address, which would be another one in the next process.
        ([functools.partial(double, 3)], ["functools.partial(<function double>, 3)"]),
    ],
)
def test_words_flags_and_functions_are_static(values, labels):
    grid = nj.Grid(choice=values)
    assert grid["choice"].static
    assert columns(grid)["choice"] == list(values)  # As they are.
    assert grid.coordinates()["choice"] == ("choice", labels)


# --- Errors ---


@dataclasses.dataclass
class Unhashable:
    """A function that has no hash."""

    scale: float

    def __call__(self, x):
        """Return `x`, scaled."""
        return self.scale * x


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([], ValueError, f"{RULE}, got no value."),
        (np.ones((0, 2)), ValueError, f"{RULE}, got no value."),
        ([1, 2, 1], ValueError, f"{RULE}, got 1 more than once."),
        ([0.1, 0.2, 0.1], ValueError, f"{RULE}, got 0.1 more than once."),
        ([0.0, -0.0], ValueError, f"{RULE}, got 0.0 more than once."),
        (["a", "b", "a"], ValueError, f"{RULE}, got 'a' more than once."),
        ([None, "None"], ValueError, f"{RULE}, got 'None' more than once."),
        ([lambda x: x, lambda x: -x], ValueError, f"{RULE}, got '<lambda>' more than once."),
        ([1.0, math.nan], ValueError, "must hold numbers, got nan at index 1."),
        (["a", 0.1], TypeError, "must hold numbers, got 'a' at index 0."),
        ([0.1, "0.2"], TypeError, "must hold numbers, got '0.2' at index 1."),
        ([0, 1, True], TypeError, "must hold numbers, got True at index 2."),
        ([1, 2**70], TypeError, f"must hold numbers, got {2**70} at index 1."),
        ([2**70], TypeError, f"{RULE}, got {2**70} at index 0."),
        ([1j], TypeError, f"{RULE}, got 1j at index 0."),
        ([[1, 2]], TypeError, f"{RULE}, got [1, 2] at index 0."),
        ([[1, [2]]], TypeError, f"{RULE}, got [1, [2]] at index 0."),
        (np.ones((2, 1)), TypeError, f"{RULE}, got array([1.]) at index 0."),
        (["a", b"b"], TypeError, f"{RULE}, got b'b' at index 1."),
        ("12", TypeError, f"{RULE}, got '12'."),
        (b"12", TypeError, f"{RULE}, got b'12'."),
        ({1: 2}, TypeError, f"{RULE}, got {{1: 2}}."),
        (0.1, TypeError, f"{RULE}, got 0.1."),
        (None, TypeError, f"{RULE}, got None."),
        (np.array(0.1), TypeError, f"{RULE}, got array(0.1)."),
        (
            [Unhashable(1.0)],
            TypeError,
            "must hold what can be hashed, got Unhashable(scale=1.0) at index 0.",
        ),
    ],
)
def test_an_axis_rejects(values, error, message):
    with pytest.raises(error, match="^" + re.escape(f"`rate` {message}") + "$"):
        nj.Grid(rate=values)


def test_an_axis_rejects_random_keys():
    with pytest.raises(TypeError, match=re.escape(f"`key` {RULE}, got Array((), dtype=key<fry>)")):
        nj.Grid(key=jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize(
    ("zip_", "error", "message"),
    [
        ({}, ValueError, "`draw` must zip at least one column, got none."),
        (
            {"a": [1, 2], "b": [1.0]},
            ValueError,
            "`draw` must zip columns of one length, got {'a': 2, 'b': 1}.",
        ),
        ({"a": []}, ValueError, "`a` must be an iterable of numbers, got no value."),
        ({"a": 3}, TypeError, "`a` must be an iterable of numbers, got 3."),
        ({"a": "12"}, TypeError, "`a` must be an iterable of numbers, got '12'."),
        ({"a": ["x"]}, TypeError, "`a` must hold numbers, got 'x' at index 0."),
        ({"a": [1, True]}, TypeError, "`a` must hold numbers, got True at index 1."),
        ({"a": [0.1, math.nan]}, ValueError, "`a` must hold numbers, got nan at index 1."),
        (
            {"draw": [1], "a": [1]},
            ValueError,
            "`draw` must zip columns of other names than its own, got 'draw'.",
        ),
    ],
)
def test_a_zip_rejects(zip_, error, message):
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        nj.Grid(draw=nj.zipped(**zip_))
