"""Tests of `Grid` and `sweep` against calling the function in a loop."""

import functools
import io
import itertools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from jax.tree_util import Partial

import nested_jax as nj

FLOAT32_RTOL = 1e-5  # 40 steps that contract; a vmapped sum may add up in another order.


def powers(base, exponent):
    return {"power": base**exponent, "root": jnp.sqrt(base)}


def assert_is_the_loop(results, run, grid):
    """Raise unless every variable of `results` is what `run` gives at its point."""
    for indices in itertools.product(*map(range, grid.shape)):
        at = dict(zip(grid, indices, strict=True))
        expected = run(**{name: grid[name][i] for name, i in at.items()})
        assert set(results.data_vars) == expected.keys()
        for name, value in expected.items():
            actual = results[name].isel(at).values
            np.testing.assert_allclose(actual, value, rtol=FLOAT32_RTOL)


def test_values_are_those_of_a_loop():
    grid = nj.Grid(base=[0.5, 2.0, 3.0], exponent=[2, 0])
    results = nj.sweep(powers, grid)
    assert_is_the_loop(results, powers, grid)
    np.testing.assert_allclose(results.power, [[0.25, 1], [4, 1], [9, 1]])


def test_rollouts_are_those_of_a_loop():
    def run(levels, learning_rate, seed):
        problem = nj.drifting_regression(dim=2)
        tx = nj.nested_momentum(learning_rate, levels, max_levels=3)
        trace = nj.rollout(tx, problem, jax.random.key(seed), 40, warmup=10, stride=20)
        return {"loss": trace.loss, "curve": trace.curve, "first_beyond": trace.first_beyond}

    grid = nj.Grid(levels=[1, 3], learning_rate=[0.01, 0.1], seed=range(2))
    results = nj.sweep(run, grid)
    compiled = jax.jit(run)
    assert_is_the_loop(results, compiled, grid)
    assert results.curve.dims == ("levels", "learning_rate", "seed", "curve_0")
    assert len(np.unique(results.loss)) == grid.size


def test_dimensions_are_the_axes_in_order_and_then_the_arrays_own():
    grid = nj.Grid(b=[1.0, 2.0], a=[3, 4, 5])

    def run(a, b):
        return {"scalar": a * b, "array": jnp.full((4, 0, 1), a), "numpy": np.arange(2)}

    results = nj.sweep(run, grid)
    own = {"array_0": 4, "array_1": 0, "array_2": 1, "numpy_0": 2}
    assert dict(results.sizes) == {"b": 2, "a": 3} | own
    assert results.scalar.dims == ("b", "a")
    assert results.array.dims == ("b", "a", "array_0", "array_1", "array_2")
    assert list(results.coords) == ["b", "a"]
    np.testing.assert_array_equal(results.coords["b"], [1.0, 2.0])
    np.testing.assert_array_equal(results.coords["a"], [3, 4, 5])
    np.testing.assert_array_equal(results.scalar.sel(a=4, b=2.0), 8.0)
    assert results.scalar.sel(a=5).dims == ("b",)


def test_what_does_not_depend_on_an_axis_is_repeated_along_it():
    grid = nj.Grid(a=[1.0, 2.0], b=[1, 2, 3])
    results = nj.sweep(lambda a, b: {"none": 7, "of_a": a, "of_b": b, "flag": a > 1}, grid)
    np.testing.assert_array_equal(results.none, np.full((2, 3), 7))
    np.testing.assert_array_equal(results.of_a, [[1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(results.of_b, [[1, 2, 3], [1, 2, 3]])
    assert (results.flag.dtype, results.of_b.dtype.kind) == (bool, "i")


def test_what_does_not_depend_on_an_axis_is_computed_once():
    calls = {"seed": 0, "rate": 0, "both": 0, "none": 0}

    def count(name, _):
        calls[name] += 1

    def run(seed, rate):
        values = {"seed": seed, "rate": rate, "both": seed * rate, "none": jnp.zeros(())}
        for name, value in values.items():
            jax.debug.callback(functools.partial(count, name), value)
        return {"x": seed * rate}

    nj.sweep(run, nj.Grid(seed=range(2), rate=[0.1, 0.2, 0.3]))
    jax.effects_barrier()
    assert calls == {"seed": 2, "rate": 3, "both": 6, "none": 1}


def test_attributes():
    results = nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2, 3]))
    attrs = results.attrs
    names = ["runs", "compile_seconds", "run_seconds", "device", "jax", "nested_jax"]
    assert list(attrs) == names
    assert attrs["runs"] == 6
    assert attrs["compile_seconds"] > 0
    assert attrs["run_seconds"] > 0
    assert attrs["device"] == jax.devices()[0].device_kind
    assert (attrs["jax"], attrs["nested_jax"]) == (jax.__version__, nj.__version__)


@pytest.fixture
def compilations():
    """Return a list to which every compilation adds its seconds."""
    seconds = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seconds
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("bind", [Partial, functools.partial])
def test_a_grid_of_the_same_shape_is_not_compiled_again(bind, compilations):
    traces = []

    def run(data, a, b):
        traces.append(a)
        return {"x": a * b + jnp.sum(data)}

    data = jnp.arange(3.0)
    bound = bind(run, data)
    first = nj.sweep(bound, nj.Grid(a=[1.0, 2.0], b=[1, 2]))
    np.testing.assert_array_equal(first.x, [[4, 5], [5, 7]])
    assert len(traces) == 1
    assert compilations
    compilations.clear()
    again = nj.sweep(bound, nj.Grid(a=[3.0, 4.0], b=[0, 7]))
    np.testing.assert_array_equal(again.x, [[3, 24], [3, 31]])
    # What `Partial` binds is an argument: other data are no other program.
    if bind is Partial:
        other = nj.sweep(Partial(run, data + 1), nj.Grid(a=[1.0, 2.0], b=[1, 2]))
        np.testing.assert_array_equal(other.x, first.x + 3)
    assert len(traces) == 1
    nj.sweep(bound, nj.Grid(a=[1.0, 2.0, 3.0], b=[1, 2]))
    assert len(traces) == 2


def test_the_second_sweep_compiles_nothing(compilations):
    nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2]))
    compilations.clear()
    nj.sweep(powers, nj.Grid(base=[5.0, 7.0], exponent=[3, 4]))
    assert not compilations


@pytest.mark.parametrize("x64", [False, True])
def test_numbers_have_jax_precision_and_integers_stay_integers(x64):
    def run(level, rate):
        dtypes.append((level.dtype, rate.dtype))
        return {"next_level": level + 1, "half_rate": rate / 2}

    dtypes = []
    with jax.enable_x64(x64):
        results = nj.sweep(run, nj.Grid(level=np.array([1, 2], np.int8), rate=[1, 0.1]))
    bits = 64 if x64 else 32
    assert dtypes == [(f"int{bits}", f"float{bits}")]
    assert (results.next_level.dtype, results.half_rate.dtype) == (f"int{bits}", f"float{bits}")
    # The coordinates are what was given.
    assert (results.coords["level"].dtype, results.coords["rate"].dtype) == (np.int8, np.float64)
    np.testing.assert_array_equal(results.coords["rate"], [1, 0.1])


def test_divergence_is_data():
    results = nj.sweep(lambda a: {"x": 1 / a, "y": jnp.log(a)}, nj.Grid(a=[0.0, -1.0]))
    np.testing.assert_array_equal(results.x, [np.inf, -1])
    np.testing.assert_array_equal(results.y, [-np.inf, np.nan])


@pytest.mark.parametrize(
    ("name", "values", "lost"),
    [
        ("seed", [1, 2**32], "int32 can (is x64 enabled?), got 4294967296."),
        ("rate", [0.1, 1e300], "float32 can (is x64 enabled?), got 1e+300."),
        ("rate", [0.1, 1e-300], "float32 can (is x64 enabled?), got 1e-300."),
    ],
)
def test_rejects_numbers_that_jax_would_wrap_or_flush(name, values, lost):
    with pytest.raises(ValueError, match="^" + re.escape(f"`{name}` must hold what {lost}")):
        nj.sweep(lambda **axes: axes, nj.Grid(**{name: values}))
    with jax.enable_x64(True):
        results = nj.sweep(lambda **axes: {"x": axes[name]}, nj.Grid(**{name: values}))
    np.testing.assert_array_equal(results.x, values)


def test_rejects_unsigned_integers_that_jax_would_wrap(x64):
    with pytest.raises(ValueError, match=r"`seed` must hold what int64 can .*, got 92233720368"):
        nj.sweep(lambda seed: {"x": seed}, nj.Grid(seed=np.array([2**63], np.uint64)))


def test_infinities_and_small_errors_of_rounding_pass():
    results = nj.sweep(lambda a: {"x": a}, nj.Grid(a=[-math.inf, 0.0, 0.1, math.inf]))
    np.testing.assert_allclose(results.x, [-np.inf, 0.0, 0.1, np.inf], rtol=1e-7)


def test_is_quiet_unless_on_a_terminal(capfd):
    nj.sweep(powers, nj.Grid(base=[1.0], exponent=[1]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_shows_progress_on_a_terminal(monkeypatch, progress):
    screen = io.StringIO()
    terminal = functools.partial(rich.console.Console, file=screen, force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", terminal)
    nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2]), progress=progress)
    assert ("running 4 runs" in screen.getvalue()) is progress


def test_leaves_the_terminal_in_order_when_the_run_fails(monkeypatch):
    screen = io.StringIO()
    terminal = functools.partial(rich.console.Console, file=screen, force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", terminal)
    with pytest.raises(ZeroDivisionError):
        nj.sweep(lambda a: 1 / 0, nj.Grid(a=[1.0]))
    assert "compiling 1 runs" in screen.getvalue()
    assert "\x1b[?25h" in screen.getvalue()  # The cursor is shown again.


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (3, TypeError, "`run` must be callable, got 3."),
        (lambda a: a, TypeError, "`run` must return a dict of arrays by name, got VmapTracer"),
        (lambda a: None, TypeError, "`run` must return a dict of arrays by name, got None."),
        (lambda a: {}, TypeError, "`run` must return a dict of arrays by name, got {}."),
        (
            lambda a: {"x": [a]},
            TypeError,
            "`run` must return a dict of arrays by name, got [VmapTr",
        ),
        (
            lambda a: {"x": None},
            TypeError,
            "`run` must return a dict of arrays by name, got None fo",
        ),
        (lambda a: {1: a}, TypeError, "`run` must return a dict of arrays by name, got VmapTracer"),
        (lambda a: {"a": a}, ValueError, "`run` must not return the name of an axis, got 'a'."),
        (lambda b: {"x": b}, TypeError, "got an unexpected keyword argument 'a'"),
    ],
)
def test_rejects_a_wrong_run_before_anything_runs(run, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.sweep(run, nj.Grid(a=[1.0, 2.0]))


def test_rejects_what_is_no_grid():
    with pytest.raises(
        TypeError, match=re.escape("`grid` must be a nested_jax.Grid, got {'a': [1")
    ):
        nj.sweep(powers, {"a": [1]})
    with pytest.raises(TypeError, match=r"`progress` must be True or False, got 1\."):
        nj.sweep(powers, nj.Grid(a=[1]), progress=1)


def test_grid_is_a_mapping_of_its_axes():
    grid = nj.Grid(rate=(0.1 * i for i in range(1, 4)), seed=range(2), level=np.array([3, 1]))
    assert list(grid) == ["rate", "seed", "level"]
    assert (grid.shape, grid.size, len(grid)) == ((3, 2, 2), 12, 3)
    assert [values.dtype for values in grid.values()] == [np.float64, np.int64, np.int64]
    np.testing.assert_array_equal(grid["level"], [3, 1])  # In the order given.
    assert repr(nj.Grid(a=[1, 2], b=[0.5])) == "Grid(a=[1, 2], b=[0.5])"
    assert "seed" in grid
    with pytest.raises(KeyError):
        grid["other"]


@pytest.mark.parametrize(
    "values", [[1.0, 2], (1, 2.0), np.array([1, 2], np.float32), jnp.array([1.0, 2.0]), {1.0: 0}]
)
def test_anything_but_integers_becomes_float64(values):
    if isinstance(values, dict):
        values = values.keys()
    axis = nj.Grid(a=values)["a"]
    assert axis.dtype == np.float64
    np.testing.assert_array_equal(axis, [1.0, 2.0][: len(axis)])


def test_any_name_is_the_name_of_an_axis():
    grid = nj.Grid(self=[1, 2], **{"learning rate": [0.5]})
    results = nj.sweep(lambda **axes: {"x": axes["self"] * axes["learning rate"]}, grid)
    np.testing.assert_array_equal(results.x, [[0.5], [1.0]])


def test_grids_are_equal_if_axes_values_and_order_are():
    grid = nj.Grid(a=[1, 2], b=[0.5])
    assert grid == nj.Grid(a=range(1, 3), b=[0.5])
    for other in (nj.Grid(b=[0.5], a=[1, 2]), nj.Grid(a=[1, 3], b=[0.5]), nj.Grid(a=[1, 2]), 3):
        assert grid != other


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([], ValueError, "got no value."),
        (np.ones((0, 2)), ValueError, "got no value."),
        ([1.0, math.nan], ValueError, "got nan at index 1."),
        ([1, 2, 1], ValueError, "got 1 more than once."),
        ([1, 2, 3, 2], ValueError, "got 2 more than once."),
        ([0.1, 0.2, 0.1], ValueError, "got 0.1 more than once."),
        ([0.0, -0.0], ValueError, "got 0.0 more than once."),
        (["a"], TypeError, "got 'a' at index 0."),
        ([0.1, "0.2"], TypeError, "got '0.2' at index 1."),
        ([True, False], TypeError, "got True at index 0."),
        ([1j], TypeError, "got 1j at index 0."),
        ([None], TypeError, "got None at index 0."),
        ([[1, 2]], TypeError, "got [1, 2] at index 0."),
        ([2**70], TypeError, "got 1180591620717411303424 at index 0."),
        (np.ones((2, 1)), TypeError, "got array([1.]) at index 0."),
        ("12", TypeError, "got '12'."),
        (b"12", TypeError, "got b'12'."),
        ({1: 2}, TypeError, "got {1: 2}."),
        (0.1, TypeError, "got 0.1."),
        (np.array(0.1), TypeError, "got array(0.1)."),
    ],
)
def test_grid_rejects(values, error, message):
    message = f"`rate` must be an iterable of distinct numbers, {message}"
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        nj.Grid(rate=values)


def test_grid_rejects_no_axes():
    with pytest.raises(ValueError, match="`axes` must name at least one axis, got none"):
        nj.Grid()


def test_results_are_a_frame_for_regression():
    results = nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2]))
    frame = results.to_dataframe().reset_index()
    chex.assert_equal(sorted(frame.columns), ["base", "exponent", "power", "root"])
