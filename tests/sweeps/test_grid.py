"""Tests of `Grid`: its axes and points, zipped axes, parts of a grid, names that clash."""

import math
import re

import numpy as np
import pytest

import nested_jax as nj
from tests.sweeps.axes import RULE, columns, double, half

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


def test_zipped_columns_are_one_axis():
    grid = nj.Grid(seed=range(3), draw=nj.zipped(rate=[0.1, 0.1], level=np.array([2, 1])))
    assert list(grid) == ["seed", "draw"]
    assert (grid.shape, grid.size) == ((3, 2), 6)
    assert grid.arguments == ("seed", "rate", "level")
    assert columns(grid) == {"seed": [0, 1, 2], "rate": [0.1, 0.1], "level": [2, 1]}
    assert grid["draw"].columns["level"].dtype == np.int64


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
