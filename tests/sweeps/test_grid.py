"""Tests of `Grid`, of what makes axes for it, and of the masks of cross-validation."""

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

RULE = "must be an iterable of distinct numbers, or of words, flags or functions"
STANDARD_ERRORS = 5.0  # A mean of seeded draws: about one in two million is farther off.


def double(x):
    return 2 * x


def half(x):
    return x / 2


def columns(grid):
    """Return the values of all arguments as lists."""
    return {key: [*c] for axis in grid.values() for key, c in axis.columns.items()}


# --- Products ---


def test_is_a_mapping_of_its_axes():
    grid = nj.Grid(rate=(0.1 * i for i in range(1, 4)), seed=range(2), level=np.array([3, 1]))
    assert list(grid) == ["rate", "seed", "level"]
    assert (grid.shape, grid.size, len(grid)) == ((3, 2, 2), 12, 3)
    assert [axis.size for axis in grid.values()] == [3, 2, 2]
    assert [grid[name].columns[name].dtype for name in grid] == [np.float64, np.int64, np.int64]
    assert columns(grid)["level"] == [3, 1]  # In the order given.
    assert grid.arguments == ("rate", "seed", "level")
    assert not any(axis.static for axis in grid.values())
    assert "seed" in grid
    assert "other" not in grid
    with pytest.raises(KeyError):
        grid["other"]


def test_points_are_listed_in_the_order_of_the_results():
    pairs = nj.zipped(rate=[0.5, 0.5, 0.25], decay=[1, 2, 3])
    grid = nj.Grid(shape=[double, None, "flat"], pair=pairs, seed=[2**63 + 1, 0])
    points = grid.points()
    assert len(points) == grid.size == 18
    assert points[0] == {"shape": double, "rate": 0.5, "decay": 1, "seed": 2**63 + 1}
    columns = {key: column for axis in grid.values() for key, column in axis.columns.items()}
    for i, point in enumerate(points):
        shape, pair, seed = np.unravel_index(i, grid.shape)
        at = {"shape": shape, "rate": pair, "decay": pair, "seed": seed}
        assert point == {name: columns[name][j] for name, j in at.items()}
        assert [*map(type, point.values())][1:] == [float, int, int]
    results = nj.sweep(lambda a, b: {"x": a - b}, nj.Grid(a=[1.0, 2.0, 4.0], b=[3, 1]))
    listed = [point["a"] - point["b"] for point in nj.Grid(a=[1.0, 2.0, 4.0], b=[3, 1]).points()]
    np.testing.assert_array_equal(results.x.values.ravel(), listed)


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


def test_any_name_is_the_name_of_an_axis():
    grid = nj.Grid(self=[1, 2], **{"learning rate": [0.5]})
    assert list(grid) == ["self", "learning rate"]
    assert grid.sub(self=[2]) == nj.Grid(self=[2], **{"learning rate": [0.5]})


def test_grids_are_equal_if_axes_values_and_order_are():
    grid = nj.Grid(a=[1, 2], b=[0.5])
    assert grid == nj.Grid(a=range(1, 3), b=[0.5])
    others = [
        nj.Grid(b=[0.5], a=[1, 2]),
        nj.Grid(a=[1, 3], b=[0.5]),
        nj.Grid(a=[1, 2]),
        nj.Grid(draw=nj.zipped(a=[1, 2]), b=[0.5]),
        3,
    ]
    for other in others:
        assert grid != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(grid)


def test_repr_is_the_call():
    assert repr(nj.Grid(a=[1, 2], b=[0.5])) == "Grid(a=[1, 2], b=[0.5])"
    assert repr(nj.Grid(d=nj.zipped(a=[1], b=[0.5]))) == "Grid(d=zipped(a=[1], b=[0.5]))"
    assert repr(nj.Grid(f=[True, None, "a"])) == "Grid(f=['True', 'None', 'a'])"


def test_coordinates_of_every_kind_of_axis():
    grid = nj.Grid(f=[double, half], d=nj.zipped(a=[1, 1], b=[0.5, 2.0]), seed=[7])
    coordinates = grid.coordinates()
    assert list(coordinates) == ["f", "d", "a", "b", "seed"]
    assert coordinates["f"] == ("f", ["double", "half"])
    np.testing.assert_array_equal(coordinates["d"], [0, 1])
    for name, dimension, values in (
        ("a", "d", [1, 1]),
        ("b", "d", [0.5, 2]),
        ("seed", "seed", [7]),
    ):
        assert coordinates[name][0] == dimension
        np.testing.assert_array_equal(coordinates[name][1], values)


# --- Zipped and static axes ---


def test_zipped_columns_are_one_axis():
    grid = nj.Grid(seed=range(3), draw=nj.zipped(rate=[0.1, 0.1], level=np.array([2, 1])))
    assert list(grid) == ["seed", "draw"]
    assert (grid.shape, grid.size) == ((3, 2), 6)
    assert grid.arguments == ("seed", "rate", "level")
    assert columns(grid) == {"seed": [0, 1, 2], "rate": [0.1, 0.1], "level": [2, 1]}
    assert grid["draw"].columns["level"].dtype == np.int64


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


# --- Parts of a grid ---


def test_sub_keeps_values_in_the_order_asked_for():
    grid = nj.Grid(
        kind=["a", None, True],
        rate=np.array([0.1, 0.2, 0.3]),
        draw=nj.zipped(x=[1.0, 1.0, 2.0], n=[1, 2, 3]),
        function=[double, half],
        level=np.array([1, 2, 3], np.int8),
    )
    part = grid.sub(kind=[True, "a"], rate=(0.3, 0.1), draw=[2, 0], function=[half], level=[3])
    assert list(part) == list(grid)
    assert columns(part) == {
        "kind": [True, "a"],
        "rate": [0.3, 0.1],
        "x": [2.0, 1.0],
        "n": [3, 1],
        "function": [half],
        "level": [3],
    }
    assert part["level"].columns["level"].dtype == np.int8
    assert grid.sub() == grid
    # Zipped points may repeat.
    assert columns(grid.sub(draw=[1, 1]))["n"] == [2, 2]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"rate": [0.4]}, ValueError, "`rate` must be one of its axis's values, got 0.4."),
        ({"rate": [math.nan]}, ValueError, "`rate` must be one of its axis's values, got nan."),
        ({"kind": ["b"]}, ValueError, "`kind` must be one of its axis's values, got 'b'."),
        ({"kind": [half]}, ValueError, "`kind` must be one of its axis's values, got <function ha"),
        ({"draw": [2]}, ValueError, "`draw` must be one of its axis's values, got 2."),
        ({"draw": [-1]}, ValueError, "`draw` must be one of its axis's values, got -1."),
        ({"x": [1.0]}, ValueError, "`values` must name axes of ['kind', 'rate', 'draw'], got 'x'."),
        (
            {"rate": []},
            ValueError,
            "`rate` must be an iterable of its axis's values, got no value.",
        ),
        ({"rate": 0.1}, TypeError, "`rate` must be an iterable of its axis's values, got 0.1."),
        ({"kind": "a"}, TypeError, "`kind` must be an iterable of its axis's values, got 'a'."),
        ({"rate": [0.1, 0.1]}, ValueError, f"`rate` {RULE}, got 0.1 more than once."),
    ],
)
def test_sub_rejects(values, error, message):
    grid = nj.Grid(kind=["a", double], rate=[0.1, 0.2], draw=nj.zipped(x=[1.0, 1.0]))
    with pytest.raises(error, match="^" + re.escape(message)):
        grid.sub(**values)


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


@pytest.mark.parametrize(
    ("axes", "twice"),
    [
        ({"a": [1], "d": nj.zipped(a=[1], b=[1])}, "a"),
        ({"d": nj.zipped(a=[1]), "e": nj.zipped(a=[2])}, "a"),
        ({"d": nj.zipped(e=[1]), "e": nj.zipped(b=[2])}, "e"),
    ],
)
def test_rejects_names_that_clash(axes, twice):
    message = f"`axes` must have names of their own, got {twice!r} twice."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        nj.Grid(**axes)


def test_rejects_no_axes():
    with pytest.raises(ValueError, match=r"^`axes` must name at least one axis, got none\.$"):
        nj.Grid()


# --- Ranges and draws ---


def test_powers_of_two_are_exact():
    assert nj.powers_of_two(-2, 3).tolist() == [0.25, 0.5, 1, 2, 4, 8]
    assert nj.powers_of_two(-1, 1, scale=0.1).tolist() == [0.05, 0.1, 0.2]
    assert nj.powers_of_two(np.int64(4), 4).tolist() == [16]
    assert nj.powers_of_two(-1022, 1023)[[0, -1]].tolist() == [2.0**-1022, 2.0**1023]


def test_draws_are_seeded_and_uniform_in_their_logarithm():
    low, high, size = 1e-3, 10.0, 4000
    values = nj.log_uniform(low, high, size, seed=3)
    np.testing.assert_array_equal(values, nj.log_uniform(low, high, size, seed=3))
    assert not np.isin(values, nj.log_uniform(low, high, size, seed=4)).any()
    assert (low <= values).all()
    assert (values < high).all()
    share = np.log(values / low) / np.log(high / low)
    for power, variance in ((1, 1 / 12), (2, 4 / 45)):
        error = abs((share**power).mean() - 1 / (power + 1))
        assert error < STANDARD_ERRORS * math.sqrt(variance / size)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nj.powers_of_two(0.5, 2), TypeError, "`low` must be an integer of at least -10"),
        (lambda: nj.powers_of_two(0, True), TypeError, "`high` must be an integer of at least"),
        (lambda: nj.powers_of_two(1, 0), ValueError, "`high` must be at least `low` = 1, got 0."),
        (
            lambda: nj.powers_of_two(0, 1, scale=-1),
            ValueError,
            "`scale` must be positive and finite, got -1.",
        ),
        (lambda: nj.log_uniform(1, 1, 2, seed=0), ValueError, "`high` must be above `low` = 1, "),
        (
            lambda: nj.log_uniform(1, math.nan, 2, seed=0),
            ValueError,
            "`high` must be positive and finite, got nan.",
        ),
        (
            lambda: nj.log_uniform(1, math.inf, 2, seed=0),
            ValueError,
            "`high` must be positive and finite, got inf.",
        ),
        (lambda: nj.powers_of_two(0, 2000), ValueError, "`high` must be less than 1024, got 2000."),
        (
            lambda: nj.powers_of_two(-2000, 0),
            ValueError,
            "`low` must be an integer of at least -1022, got -2000.",
        ),
        (
            lambda: nj.powers_of_two(0, 1000, scale=1e10),
            ValueError,
            "`scale` must keep all values positive and finite, got 10000000000.0 for values from ",
        ),
        (
            lambda: nj.powers_of_two(-1000, 0, scale=1e-300),
            ValueError,
            "`scale` must keep all values positive and finite, got 1e-300 for values from 0.0 to 1",
        ),
        (
            lambda: nj.log_uniform(1, 2, 10**12, seed=0),
            ValueError,
            "`size` must be at most 1000000000, got 1000000000000, which would need ",
        ),
        (
            lambda: nj.log_uniform(1, 2, 0, seed=0),
            ValueError,
            "`size` must be an integer of at least",
        ),
        (
            lambda: nj.log_uniform(1, 2, 2, seed=-1),
            ValueError,
            "`seed` must be an integer of at least",
        ),
        (lambda: nj.log_uniform(0, 1, 2, seed=0), ValueError, "`low` must be positive and finite"),
        (lambda: nj.log_uniform(2, 1, 2, seed=0), ValueError, "`high` must be above `low` = 2, go"),
        (lambda: nj.log_uniform(1, 2, 2, seed="a"), TypeError, "`seed` must be an integer of at l"),
    ],
)
def test_ranges_and_draws_reject(make, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        make()


# --- Folds and splits ---


@pytest.mark.parametrize(("examples", "folds"), [(7, 3), (10, 2), (6, 6), (5, None)])
def test_every_example_is_held_out_once_in_folds_of_equal_size(examples, folds):
    masks = nj.held_out_masks(examples, folds, seed=1)
    count = examples if folds is None else folds
    assert (masks.shape, masks.dtype) == ((count, examples), bool)
    assert (masks.sum(axis=0) == 1).all()
    assert masks.sum(axis=1).max() - masks.sum(axis=1).min() <= 1


def test_folds_are_shuffled_and_seeded():
    masks = nj.held_out_masks(40, 4, seed=1)
    np.testing.assert_array_equal(masks, nj.held_out_masks(40, 4, seed=1))
    assert (masks != nj.held_out_masks(40, 4, seed=2)).any()
    assert (np.flatnonzero(masks[0]) % 4 != 0).any()  # Not every fourth.


def test_a_split_is_a_partition():
    parts = nj.split_indices(101, (0.6, 0.2, 0.2), seed=1)
    assert [part.size for part in parts] == [61, 20, 20]
    assert sorted(np.concatenate(parts)) == list(range(101))
    assert all((np.diff(part) > 0).all() for part in parts)
    for part, again in zip(parts, nj.split_indices(101, (0.6, 0.2, 0.2), seed=1), strict=True):
        np.testing.assert_array_equal(part, again)
    assert (parts[0] != nj.split_indices(101, (0.6, 0.2, 0.2), seed=2)[0]).any()
    assert parts[0].tolist() != list(range(61))
    # Shares that sum to one only to rounding.
    assert sum(part.size for part in nj.split_indices(10, [0.1] * 10)) == 10


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nj.held_out_masks(1),
            ValueError,
            "`examples` must be an integer of at least 2, got 1",
        ),
        (
            lambda: nj.held_out_masks(5, 1),
            ValueError,
            "`folds` must be an integer of at least 2, got 1",
        ),
        (
            lambda: nj.held_out_masks(5, 6),
            ValueError,
            "`folds` must be at most `examples` = 5, got 6.",
        ),
        (
            lambda: nj.held_out_masks(5.0, 2),
            TypeError,
            "`examples` must be an integer of at least 2",
        ),
        (
            lambda: nj.held_out_masks(5, 2, seed=0.5),
            TypeError,
            "`seed` must be an integer of at least",
        ),
        (
            lambda: nj.split_indices(0, [1.0]),
            ValueError,
            "`examples` must be an integer of at least 1, go",
        ),
        (
            lambda: nj.split_indices(9, [0.5, 0.4]),
            ValueError,
            "`parts` must be positive shares that sum to 1, got [0.5, 0.4].",
        ),
        (
            lambda: nj.split_indices(9, [1.5, -0.5]),
            ValueError,
            "`parts` must be positive shares that sum",
        ),
        (
            lambda: nj.split_indices(9, [math.nan, 1]),
            ValueError,
            "`parts` must be positive shares that su",
        ),
        (
            lambda: nj.split_indices(9, []),
            ValueError,
            "`parts` must be positive shares that sum to 1, got",
        ),
        (
            lambda: nj.split_indices(9, [0.99, 0.01]),
            ValueError,
            "`parts` must leave an example in each, got [0.99, 0.01] of 9.",
        ),
        (
            lambda: nj.split_indices(9, [1.0], seed=-1),
            ValueError,
            "`seed` must be an integer of at least",
        ),
    ],
)
def test_folds_and_splits_reject(make, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        make()
