"""Tests of `sweep` against calling the function in a loop, and of what it promises about it."""

import functools
import io
import itertools
import math
import re
import signal
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import xarray as xr
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps import _sweep, load, save
from nested_jax.sweeps.engine import _local
from nested_jax.sweeps.engine._chunks import LANES_BYTES, chunk_of
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._local import LocalDevices
from nested_jax.sweeps.engine._store import Store
from nested_jax.sweeps.engine._survey import bytes_carried_by
from nested_jax.sweeps.grid._grid import Grid
from nested_jax.sweeps.lanes import _layout

FLOAT32_RTOL = 1e-5  # 40 steps that contract; a vmapped sum may add up in another order.
MEMORY_RTOL = 0.02  # Buffers of a few scalars come and go with the shape of a loop.
HESSIAN = np.random.default_rng(0).uniform(0.1, 0.5, (5, 5)).astype(np.float32)


def powers(base, exponent):
    return {"power": base**exponent, "root": jnp.sqrt(base)}


def descend(rate, scale, seed):
    """Return the losses of a descent: sums whose order shows in their last bits."""

    def step(point, _):
        point = point - rate * (HESSIAN @ point) * scale
        return point, point @ point

    start = jax.random.normal(jax.random.key(seed), (5,))
    losses = jax.lax.scan(step, start, length=30)[1]
    return {"loss": losses[-1], "curve": losses[::10]}


DESCENTS = nj.Grid(rate=[0.1, 0.2, 0.3], scale=[0.5, 1.0], seed=range(5))


def assert_is_the_loop(results, run, grid):
    """Raise unless every variable of `results` is what `run` gives at its point."""
    for indices in itertools.product(*map(range, grid.shape)):
        at = dict(zip(grid, indices, strict=True))
        point = {
            key: column[at[name]] for name in grid for key, column in grid[name].columns.items()
        }
        expected = run(**point)
        assert set(results.data_vars) == expected.keys()
        for name, value in expected.items():
            actual = results[name].isel(at).values
            np.testing.assert_allclose(actual, value, rtol=FLOAT32_RTOL)


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


@pytest.fixture
def screen(monkeypatch):
    """Return what is shown on the error stream, which is a terminal."""
    screen = io.StringIO()
    terminal = functools.partial(rich.console.Console, file=screen, force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", terminal)
    return screen


@pytest.fixture
def bars(monkeypatch):
    """Return the progress of every sweep, in order."""
    made = []

    class Progress(_sweep.Progress):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(_sweep, "Progress", Progress)
    return made


# --- Values ---


def test_values_are_those_of_a_loop():
    grid = nj.Grid(base=[0.5, 2.0, 3.0], exponent=[2, 0])
    results = nj.sweep(powers, grid)
    assert_is_the_loop(results, powers, grid)
    np.testing.assert_allclose(results.power, [[0.25, 1], [4, 1], [9, 1]])


@pytest.mark.slow
def test_rollouts_are_those_of_a_loop():
    def run(levels, learning_rate, seed):
        problem = nj.drifting_regression(dim=2)
        tx = nj.nested_momentum(learning_rate, levels=levels, max_levels=3)
        trace = nj.rollout(tx, problem, jax.random.key(seed), 40, warmup=10, stride=20)
        return {
            "loss": trace.mean_loss,
            "curve": trace.loss_curve,
            "diverged_at": trace.diverged_at,
        }

    grid = nj.Grid(levels=[1, 3], learning_rate=[0.01, 0.1], seed=range(2))
    results = nj.sweep(run, grid, chunk=8)
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


def test_static_values_arrive_as_they_are_wherever_their_axes_stand():
    def run(function, rate, flag, seed, word):
        seen.add((function, flag, word))
        value = function(rate) + (100 if flag else 0) + (1000 if word is None else len(word))
        return {"x": value + seed}

    seen = set()
    grid = nj.Grid(
        rate=[1.0, 2.0, 3.0],
        flag=[True, False],
        seed=range(2),
        word=[None, "abc"],
        function=[jnp.square, jnp.negative],
    )
    for chunk in ("auto", 1, 4):
        assert_is_the_loop(nj.sweep(run, grid, chunk=chunk), run, grid)
    assert seen == set(itertools.product([jnp.square, jnp.negative], [True, False], [None, "abc"]))


def test_a_grid_of_static_axes_alone():
    grid = nj.Grid(word=["a", "bcd"], flag=[True, False, None])
    results = nj.sweep(lambda word, flag: {"x": len(word), "y": jnp.full(2, bool(flag))}, grid)
    np.testing.assert_array_equal(results.x, [[1, 1, 1], [3, 3, 3]])
    np.testing.assert_array_equal(results.y[0], [[True, True], [False, False], [False, False]])
    assert list(results.word.values) == ["a", "bcd"]
    assert results.sel(word="bcd", flag="None").x == 3


def test_zipped_columns_vary_together():
    def run(rate, level, seed):
        return {"x": rate * 100 + level * 10 + seed}

    draw = nj.zipped(rate=[1.0, 2.0, 2.0], level=[3, 2, 1])
    for grid in (nj.Grid(draw=draw, seed=range(2)), nj.Grid(seed=range(2), draw=draw)):
        for chunk in ("auto", 2):
            results = nj.sweep(run, grid, chunk=chunk)
            assert_is_the_loop(results, run, grid)
            np.testing.assert_array_equal(
                results.x.transpose("draw", "seed"), [[130, 131], [220, 221], [210, 211]]
            )
    np.testing.assert_array_equal(results.draw, [0, 1, 2])
    assert results.level.dims == ("draw",)


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

    grid = nj.Grid(seed=range(2), rate=[0.1, 0.2, 0.3])
    nj.sweep(run, grid, chunk=6, devices=jax.devices()[:1])
    jax.effects_barrier()
    assert calls == {"seed": 2, "rate": 3, "both": 6, "none": 1}


@pytest.mark.parametrize(
    "dtype", ["float16", "int8", "uint32", "bool", "complex64", "bfloat16", "float8_e4m3fn", "int4"]
)
def test_results_of_every_dtype(dtype):
    results = nj.sweep(lambda a: {"x": (a - 1).astype(dtype)}, nj.Grid(a=[1, 2, 3]), chunk=2)
    # xarray knows only what NumPy knows.
    known = {"bfloat16": "float32", "float8_e4m3fn": "float32", "int4": "int8"}
    assert results.x.dtype == known.get(dtype, dtype)
    np.testing.assert_array_equal(results.x, np.array([0, 1, 2]).astype(results.x.dtype))


def test_divergence_is_data(bars):
    results = nj.sweep(lambda a: {"x": 1 / a, "y": jnp.log(a)}, nj.Grid(a=[0.0, -1.0]))
    np.testing.assert_array_equal(results.x, [np.inf, -1])
    np.testing.assert_array_equal(results.y, [-np.inf, np.nan])
    assert bars[0].diverged == 2


def test_a_chunk_of_nothing_but_nan_is_data(tmp_path, bars):
    def run(a, b):
        return {"loss": jnp.where(a > 1, jnp.nan, a) * b, "n": b}

    grid = nj.Grid(a=[1.0, 2.0, 3.0], b=[1.0, 2.0])
    first = nj.sweep(run, grid, chunk=2, store=tmp_path / "store")
    again = nj.sweep(run, grid, store=tmp_path / "store")
    assert first.equals(again)
    np.testing.assert_array_equal(np.isnan(first.loss), [[0, 0], [1, 1], [1, 1]])
    assert [bar.diverged for bar in bars] == [4, 4]
    assert nj.best_point(first, over="b").a == 1


# --- Chunks and devices ---


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 10, 29, 30, 1000])
def test_results_do_not_depend_on_devices_and_hardly_on_chunks(chunk):
    one, two = (nj.sweep(descend, DESCENTS, chunk=chunk, devices=jax.devices()[:n]) for n in (1, 2))
    assert one.equals(two)
    assert one.attrs["chunk"] <= chunk
    whole = nj.sweep(descend, DESCENTS, chunk=30)
    for name in whole:
        np.testing.assert_allclose(one[name], whole[name], rtol=FLOAT32_RTOL)


def test_a_chunk_does_not_depend_on_the_rest_of_the_grid():
    whole = nj.sweep(descend, DESCENTS, chunk=1)
    part = DESCENTS.sub(rate=[0.3, 0.1], scale=[1.0])
    again = nj.sweep(descend, part, chunk=1)
    assert again.equals(whole.sel(rate=[0.3, 0.1], scale=[1.0]))


def test_the_last_chunk_is_filled_up_and_counted_once(bars):
    grid = nj.Grid(a=[1.0, 2.0, 3.0, 4.0, 0.0], b=[1.0, 2.0])
    for chunk in (2, 4, 6):
        results = nj.sweep(lambda a, b: {"x": b / a}, grid, chunk=chunk)
        np.testing.assert_array_equal(np.isinf(results.x).sum("b"), [0, 0, 0, 0, 2])
        assert bars[-1].diverged == 2
        assert bars[-1]._bar.tasks[0].completed == bars[-1]._bar.tasks[0].total == 10


def test_arrays_bound_to_the_run_may_be_anywhere():
    def run(data, key, offset, a, *, scale):
        return {"x": a * data.sum() * scale + offset, "y": jax.random.normal(key) * a}

    data, key = jnp.arange(3.0), jax.random.key(0)
    expected = nj.sweep(Partial(run, data, key, 1, scale=2.0), nj.Grid(a=[1.0, 2.0]))
    np.testing.assert_array_equal(expected.x, [7, 13])
    for device in jax.devices():
        there, key_there = jax.device_put((data, key), device)
        bound = Partial(run, there, key_there, 1, scale=np.float32(2))
        assert nj.sweep(bound, nj.Grid(a=[1.0, 2.0])).equals(expected)


def waves(shape, chunk, devices=1):
    blocks = math.prod(math.ceil(n / c) for n, c in zip(shape, chunk, strict=True))
    return math.ceil(blocks / devices)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 5), (1, 6, 1)])
def test_chunks_are_as_large_as_allowed_and_as_many_as_there_are_devices(shape):
    points = math.prod(shape)
    for runs in range(1, points + 2):
        chunk = chunk_of(shape, runs)
        assert math.prod(chunk) <= runs
        # Little is filled up: cutting the axes from outside, inner ones whole, is no better.
        assert waves(shape, chunk) * math.prod(chunk) <= 1.5 * points
        shared = chunk_of(shape, points, devices=runs)
        assert waves(shape, shared, runs) * math.prod(shared) <= 2 * math.ceil(points / runs)
    assert chunk_of(shape, points) == shape


def test_the_axis_that_is_cut_is_cut_evenly_and_the_outermost_first():
    assert chunk_of((10,), 7) == (5,)
    assert chunk_of((4, 10), 39) == (2, 10)
    assert chunk_of((10, 4), 40, devices=3) == (4, 4)
    assert chunk_of((10, 10), 50) == (5, 10)


def test_what_is_shared_along_an_axis_decides_what_is_cut():
    # Half of the work is done once for all of axis 0: axis 1 is cut, and axis 0 kept whole.
    assert chunk_of((10, 10), 50, {0b10: 10.0, 0b11: 1.0}) == (10, 5)
    assert chunk_of((10, 10), 50, {0b01: 10.0, 0b11: 1.0}) == (5, 10)
    assert chunk_of((19, 19, 100), 400, {0b100: 5.0, 0b110: 1.0, 0b111: 1.0}) == (19, 19, 1)
    # More shapes than can be compared.
    assert math.prod(chunk_of((997,) * 4, 1000)) <= 1000


def test_an_automatic_chunk_shares_the_grid_out_over_the_devices():
    for devices in (1, 2):
        results = nj.sweep(descend, DESCENTS, devices=jax.devices()[:devices])
        assert results.attrs["devices"] == devices
        # Shared as evenly as one axis of three, two or five values can be.
        assert 30 / devices <= results.attrs["chunk"] <= 30 / devices * 4 / 3


def bytes_of(run, grid, chunk):
    devices = LocalDevices(jax.devices()[:1])
    return devices.bytes_needed(Job(Partial(run), grid, chunk))


def test_an_automatic_chunk_is_smaller_where_memory_is_short(monkeypatch, compilations):
    one = jax.devices()[:1]
    whole = nj.sweep(descend, DESCENTS, devices=one)
    jax.clear_caches()
    compilations.clear()
    wanted = bytes_of(descend, DESCENTS, (3, 2, 5)) // 3
    monkeypatch.setattr(LocalDevices, "bytes_wanted", lambda self: wanted)
    compilations.clear()
    results = nj.sweep(descend, DESCENTS, devices=one)
    assert len(compilations) <= 2
    assert results.attrs["chunk"] <= 10
    np.testing.assert_allclose(results.loss, whole.loss, rtol=FLOAT32_RTOL)
    monkeypatch.setattr(LocalDevices, "bytes_wanted", lambda self: 1)
    assert nj.sweep(descend, DESCENTS, devices=one).attrs["chunk"] == 1


@pytest.mark.parametrize(("entries", "points"), [(2, None), (30_000, _layout.LANES)])
def test_what_a_loop_carries_in_lanes_fits_a_cache(monkeypatch, entries, points):
    """Unless it would be no lanes any more."""
    monkeypatch.setattr(_layout, "ENTRIES", 10**9)

    def run(rate):
        def step(x, _):
            return jnp.tanh(rate * x), None

        return {"x": jax.lax.scan(step, jnp.full(entries, rate), length=200)[0].sum()}

    grid = nj.Grid(rate=np.linspace(0.1, 0.9, 250_000))
    job = LocalDevices(jax.devices()[:1]).plan(Partial(run), grid, "auto", "auto")
    assert job.layouts("cpu") != (None,)
    assert bytes_carried_by(job, 0) == job.chunk[0] * entries * 4
    if points:
        assert points <= job.chunk[0] < 1.1 * points
    else:
        assert 0.5 * LANES_BYTES < bytes_carried_by(job, 0) <= LANES_BYTES


def test_a_chunk_that_does_not_fit_says_what_to_pass(monkeypatch):
    def wide(rate, scale, seed):
        return {"x": jnp.sort(jnp.full(10000, rate * scale) + seed).sum()}

    needed = bytes_of(wide, DESCENTS, (3, 2, 5))
    available = needed // 4
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: available)
    sizes = f"needs {needed / 2**30:.3g} GiB of {available / 2**30:.3g} GiB a device"
    one = jax.devices()[:1]
    with pytest.raises(MemoryError) as caught:
        nj.sweep(wide, DESCENTS, chunk=30, devices=one)
    message = f"`chunk` must fit into memory: one of 30 {sizes}; pass chunk=7 or less."
    assert str(caught.value) == message
    assert 1 < nj.sweep(wide, DESCENTS, chunk=7, devices=one).attrs["chunk"] <= 7
    # Left to itself it fits.
    assert nj.sweep(wide, DESCENTS, devices=one).attrs["chunk"] <= 7


def test_a_container_may_have_less_memory_than_the_machine(monkeypatch, tmp_path):
    devices = LocalDevices(jax.devices()[:2])
    limit, none = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr(_local, "CONTAINER_LIMITS", (str(none), str(limit)))
    whole = devices.bytes_available()
    limit.write_text("max\n")
    assert devices.bytes_available() == whole
    limit.write_text(f"{2**20}\n")
    assert devices.bytes_available() == int(0.8 * 2**20) // 2


def test_the_program_that_holds_most_decides_on_the_chunk(monkeypatch, compilations):
    def run(word, rate):
        return {"x": jnp.sort(jnp.full({"small": 10, "large": 10_000}[word], rate)).sum()}

    one = jax.devices()[:1]
    grid = nj.Grid(word=["small", "large"], rate=np.linspace(0.0, 1.0, 40))
    needed = bytes_of(run, grid.sub(word=["large"]), (40,))
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: needed // 4)
    compilations.clear()
    results = nj.sweep(run, grid, devices=one)
    assert results.attrs["chunk"] <= 10
    # The whole was compiled before; smaller chunks of it, and then the same of the small word.
    assert len(compilations) == 2


def test_a_store_with_chunks_too_large_for_this_machine_says_so(monkeypatch, tmp_path):
    nj.sweep(descend, DESCENTS, chunk=30, store=tmp_path)
    next(tmp_path.glob("chunk-*")).unlink()
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: 2)
    with pytest.raises(MemoryError, match="`chunk` must fit into memory: one of 30 needs"):
        nj.sweep(descend, DESCENTS, store=tmp_path)


def test_units_are_kept_with_what_they_are_of():
    grid = nj.Grid(rate=[0.1], scale=[1.0], seed=[0])
    units = {"rate": "1/step", "loss": "squared target"}
    results = nj.sweep(descend, grid, units=units)
    assert {name: results[name].attrs["units"] for name in units} == units
    assert "units" not in results.seed.attrs
    with pytest.raises(TypeError, match=r"`units` must be a dict of words by name, got \{"):
        nj.sweep(descend, grid, units={"rate": 1})
    message = r"`units` must name axes or results \(curve, loss, rate, scale, seed\), got 'decay'\."
    with pytest.raises(ValueError, match=message):
        nj.sweep(descend, grid, units={"decay": "1"})


@pytest.mark.parametrize("chunk", ["auto", 1])
@pytest.mark.parametrize("seeds", [1, 5])
def test_a_run_that_does_not_fit_says_so(monkeypatch, chunk, seeds):
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: 2)
    message = (
        r"`chunk` must fit into memory: one of 1 needs .* GiB of 1\.86e-09 GiB a device; a run has "
        r"to be made smaller\."
    )
    with pytest.raises(MemoryError, match=message):
        nj.sweep(descend, nj.Grid(rate=[0.1], scale=[1.0], seed=range(seeds)), chunk=chunk)


@pytest.mark.slow
def test_memory_is_bounded_by_the_chunk_and_flat_in_steps():
    def run(steps, learning_rate, seed):
        problem = nj.drifting_regression(dim=2)
        tx = nj.momentum(learning_rate)
        return {"loss": nj.rollout(tx, problem, jax.random.key(seed), steps).mean_loss}

    small = nj.Grid(learning_rate=[0.1, 0.2], seed=range(4))
    large = nj.Grid(learning_rate=np.geomspace(0.01, 0.2, 20), seed=range(40))
    short = bytes_of(functools.partial(run, 2000), small, (1, 4))
    assert bytes_of(functools.partial(run, 2000), large, (1, 4)) == short
    long = bytes_of(functools.partial(run, 8000), small, (1, 4))
    assert long == pytest.approx(short, rel=MEMORY_RTOL)


# --- Compilation ---


@pytest.mark.parametrize("bind", [Partial, functools.partial])
def test_a_grid_of_the_same_shape_is_not_compiled_again(bind, compilations):
    def run(data, a, b):
        return {"x": a * b + jnp.sum(data)}

    data = jnp.arange(3.0)
    bound = bind(run, data)
    compilations.clear()
    first = nj.sweep(bound, nj.Grid(a=[1.0, 2.0], b=[1, 2]))
    np.testing.assert_array_equal(first.x, [[4, 5], [5, 7]])
    assert len(compilations) == 1
    again = nj.sweep(bound, nj.Grid(a=[3.0, 4.0], b=[0, 7]))
    np.testing.assert_array_equal(again.x, [[3, 24], [3, 31]])
    # What `Partial` binds is an argument: other data are no other program.
    if bind is Partial:
        other = nj.sweep(Partial(run, np.asarray(data) + 1), nj.Grid(a=[1.0, 2.0], b=[1, 2]))
        np.testing.assert_array_equal(other.x, first.x + 3)
    assert len(compilations) == 1
    nj.sweep(bound, nj.Grid(a=[1.0, 2.0, 3.0], b=[1, 2]), chunk=6)
    assert len(compilations) == 2


@pytest.mark.parametrize("chunk", ["auto", 5])
def test_one_program_a_word_for_all_chunks_and_for_the_next_sweep(chunk, compilations):
    def run(rate, scale, seed, word):
        return descend(rate * len(word), scale, seed)

    for shift in (0, 0, 1):
        draw = nj.zipped(rate=[0.1, 0.2, 0.3 + shift], scale=[0.5, 0.5, 1 + shift])
        grid = nj.Grid(word=["a", "bc"], draw=draw, seed=range(shift, shift + 5))
        nj.sweep(run, grid, chunk=chunk)
        assert len(compilations) == 2


@pytest.mark.parametrize("x64", [False, True])
def test_numbers_have_jax_precision_and_integers_stay_integers(x64):
    def run(level, rate):
        dtypes.append((level.dtype, rate.dtype))
        return {"next_level": level + 1, "half_rate": rate / 2}

    dtypes = []
    with jax.enable_x64(x64):
        results = nj.sweep(run, nj.Grid(level=np.array([1, 2], np.int8), rate=[1, 0.1]))
    bits = 64 if x64 else 32
    assert all(at == (f"int{bits}", f"float{bits}") for at in dtypes)
    assert dtypes
    assert (results.next_level.dtype, results.half_rate.dtype) == (f"int{bits}", f"float{bits}")
    # The coordinates are what was given.
    assert (results.coords["level"].dtype, results.coords["rate"].dtype) == (np.int8, np.float64)
    np.testing.assert_array_equal(results.coords["rate"], [1, 0.1])


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


# --- Values are held against the rules of the factories that they reach ---


def optimize(rate, decay=0.9, levels=1, kind="nested"):
    if kind == "plain":
        nj.momentum(2 * rate)  # Not the value of the axis as it is.
    else:
        nj.nested_momentum(rate, levels=levels, decay=decay, max_levels=4)
    return {"x": rate * decay}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"rate": [0.1, 0.2, -1.0]},
            "`rate`[2] = -1.0: `learning_rate` must be non-negative and finite, got -1.0.",
        ),
        (
            {"rate": [0.1, math.inf]},
            "`rate`[1] = inf: `learning_rate` must be non-negative and finite, got inf.",
        ),
        (
            {"rate": [0.1], "decay": [1.5, 0.5]},
            "`decay`[0] = 1.5: `decay` must lie in [0, 1), got 1.5.",
        ),
        # What it is in float32 counts.
        (
            {"rate": [0.1], "decay": [0.5, 0.99999999]},
            "`decay`[1] = 0.99999999: `decay` must lie in [0, 1), got 1.0.",
        ),
        (
            {"rate": [0.1], "levels": [1, 4, 5]},
            "`levels`[2] = 5: `levels` must be at most `max_levels` = 4, got 5.",
        ),
        (
            {"rate": [0.1], "levels": [0]},
            "`levels`[0] = 0: `levels` must be an integer of at least 1, got 0.",
        ),
        (
            {"draw": nj.zipped(rate=[0.1, 0.1], decay=[0.9, -0.25])},
            "`decay`[1] = -0.25: `decay` must lie in [0, 1), got -0.25.",
        ),
        # Only the second of the programs asks.
        (
            {"kind": ["plain", "nested"], "rate": [0.1, -1.0]},
            "`rate`[1] = -1.0: `learning_rate` must be non-negative and finite, got -1.0.",
        ),
    ],
)
def test_values_are_checked_before_anything_is_compiled(axes, message, compilations, tmp_path):
    good = {"rate": [0.1], "decay": [0.9], "levels": [2], "kind": ["nested"]}
    for store in (tmp_path / "store", None, None):  # At last the program is traced already.
        with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
            nj.sweep(optimize, nj.Grid(**axes), store=store)
    assert not compilations
    assert not (tmp_path / "store").exists()
    nj.sweep(optimize, nj.Grid(**good))


def lasting(steps, warmup):
    problem = nj.drifting_regression(2)
    trace = nj.rollout(nj.momentum(0.1), problem, jax.random.key(0), 50, warmup=warmup)
    schedule = nj.with_warmup(nj.constant(steps), steps)
    return {"x": trace.mean_loss * schedule(3) * nj.cosine(steps)(3)}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"warmup": [0, 49, 50], "steps": [9]},
            "`warmup`[2] = 50: `warmup` must be less than `steps` = 50, got 50.",
        ),
        (
            {"warmup": [0], "steps": [5, 2.5]},
            "`steps`[1] = 2.5: `total_steps` must be a whole number of at least 1, got 2.5.",
        ),
        (
            {"warmup": [0], "steps": [0, 5]},
            "`steps`[0] = 0: `total_steps` must be a whole number of at least 1, got 0.",
        ),
    ],
)
def test_lengths_are_checked_too(axes, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        nj.sweep(lasting, nj.Grid(**axes))


def test_a_fraction_is_checked_against_its_neighbours():
    def drop(at):
        return {"x": nj.step_drop(10, drops=[0.5, at, 0.9])(6)}

    message = "`at`[1] = 0.25: `drops` must increase from above 0, got [0.5, 0.25, 0.9]."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        nj.sweep(drop, nj.Grid(at=[0.75, 0.25]))
    with pytest.raises(ValueError, match=r"^`at`\[1\] = 0\.95: `drops` must increase"):
        nj.sweep(drop, nj.Grid(at=[0.75, 0.95]))


def test_values_of_a_second_sweep_are_checked_too():
    grid = nj.Grid(rate=[0.1, 0.2], levels=[1, 4])
    nj.sweep(optimize, grid)
    for axes, name in (({"rate": [0.1, -0.2]}, "rate"), ({"levels": [1, 7]}, "levels")):
        with pytest.raises(ValueError, match=rf"^`{name}`\[1\] = "):
            nj.sweep(optimize, nj.Grid(**({"rate": [0.1, 0.2], "levels": [1, 4]} | axes)))
    assert nj.sweep(optimize, grid).x.shape == (2, 2)


def test_only_values_that_arrive_as_they_are_are_checked():
    assert nj.sweep(optimize, nj.Grid(kind=["plain"], rate=[-0.1])).x.size == 1


# --- Errors ---


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (3, TypeError, "`run` must be callable, got 3."),
        (lambda a: a, TypeError, "`run` must return a dict of arrays by name, got JitTracer"),
        (lambda a: None, TypeError, "`run` must return a dict of arrays by name, got None."),
        (lambda a: "abc", TypeError, "`run` must return a dict of arrays by name, got 'abc'."),
        (lambda a: {}, TypeError, "`run` must return a dict of arrays by name, got {}."),
        (
            lambda a: {"x": "abc"},
            TypeError,
            "`run` must return a dict of arrays by name, got 'abc' for 'x'.",
        ),
        (
            lambda a: {"x": np.array(["abc"])},
            TypeError,
            "`run` must return a dict of arrays by name, got array(['abc'], dtype='<U3') for 'x'.",
        ),
        (
            lambda a: {"x": [a]},
            TypeError,
            "`run` must return a dict of arrays by name, got [JitTr",
        ),
        (
            lambda a: {"x": None},
            TypeError,
            "`run` must return a dict of arrays by name, got None fo",
        ),
        (
            lambda a: {"x": jax.random.key(0)},
            TypeError,
            "`run` must return a dict of arrays by name, got JitTracer(key<fry>[]) for",
        ),
        (lambda a: {1: a}, TypeError, "`run` must return a dict of arrays by name, got JitTracer"),
        (lambda a: {"a": a}, ValueError, "`run` must not return the name of an axis, got 'a'."),
        (
            lambda a: {"x": jnp.ones(2), "x_0": a},
            ValueError,
            "`run` must not return an array 'x' beside 'x_0', which is what its dimension is call",
        ),
        (lambda b: {"x": b}, TypeError, "got an unexpected keyword argument 'a'"),
        (lambda a: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda a: {"x": 1 if a > 0 else 2}, jax.errors.TracerBoolConversionError, "Attempted bo"),
    ],
)
def test_rejects_a_wrong_run_before_anything_is_compiled(run, error, message, compilations):
    with pytest.raises(error, match=re.escape(message)):
        nj.sweep(run, nj.Grid(a=[1.0, 2.0]))
    assert not compilations


@pytest.mark.parametrize("name", ["draw", "a", "kind"])
def test_rejects_a_result_with_the_name_of_any_axis(name):
    grid = nj.Grid(kind=["b"], draw=nj.zipped(a=[1.0]))
    with pytest.raises(ValueError, match=f"must not return the name of an axis, got {name!r}"):
        nj.sweep(lambda kind, a: {name: a}, grid)


def test_rejects_a_dimension_with_the_name_of_an_axis():
    with pytest.raises(ValueError, match="must not return an array 'x' beside 'x_0'"):
        nj.sweep(lambda x_0: {"x": jnp.ones(2) * x_0}, nj.Grid(x_0=[1.0]))


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        (lambda a: {"x": a, "y": a}, "x: float32[], y: float32[]"),
        (lambda a: {"y": a}, "y: float32[]"),
        (lambda a: {"x": jnp.ones(2)}, "x: float32[2]"),
        (lambda a: {"x": 1}, "x: int32[]"),
    ],
)
def test_rejects_a_structure_that_changes_between_points(changed, shown, compilations):
    def run(changes, a):
        return changed(a) if changes else {"x": a}

    message = (
        "`run` must return the same structure at every point, got x: float32[] for "
        f"{{'changes': False}} and {shown} for {{'changes': True}}."
    )
    with pytest.raises(TypeError, match="^" + re.escape(message) + "$"):
        nj.sweep(run, nj.Grid(changes=[False, True], a=[1.0, 2.0]))
    assert not compilations


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"grid": {"a": [1]}}, TypeError, "`grid` must be a nested_jax.Grid, got a dict."),
        ({"progress": 1}, TypeError, "`progress` must be True or False, got 1."),
        ({"chunk": 0}, ValueError, "`chunk` must be an integer of at least 1, got 0."),
        ({"chunk": 2.5}, TypeError, "`chunk` must be an integer of at least 1, got 2.5."),
        ({"chunk": "all"}, ValueError, "`chunk` must be \"auto\" or a number of runs, got 'all'."),
        ({"devices": []}, ValueError, "`devices` must hold at least one device, got none."),
        (
            {"devices": "cpu"},
            TypeError,
            "`devices` must be a sequence of JAX's devices, such as jax.devices()[:1], got 'cpu'.",
        ),
        (
            {"grid": nj.Grid(base=[1.0, 1.00000001], exponent=[1])},
            ValueError,
            "`base` must hold values that stay distinct in float32 (is x64 enabled?), got "
            "1.00000001 at index 1.",
        ),
        (
            {"executor": "ray"},
            TypeError,
            "`executor` must be an executor such as RayWorkers(2), got 'ray'.",
        ),
        (
            {"executor": LocalDevices},
            TypeError,
            "`executor` must be an executor such as RayWorkers(2), got <class",
        ),
    ],
)
def test_rejects_wrong_arguments(arguments, error, message):
    arguments = {"run": powers, "grid": nj.Grid(base=[1.0], exponent=[1])} | arguments
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.sweep(**arguments)


@pytest.mark.parametrize("around", [jax.jit, jax.vmap, jax.grad])
def test_a_sweep_does_not_depend_on_what_is_traced_around_it(around, compilations):
    def inside(scale):
        results = nj.sweep(lambda a: {"x": a * scale}, nj.Grid(a=[1.0, 2.0]))
        return results.x.values.sum() * scale

    with pytest.raises(TypeError, match=r"`run` must not depend on what is traced around"):
        around(inside)(jnp.ones(1) if around is jax.vmap else 1.0)
    with pytest.raises(TypeError, match=r"`run` must not depend on what is traced around"):
        jax.jit(lambda x: nj.sweep(Partial(lambda x, a: {"y": a * x}, x), nj.Grid(a=[1.0])))(2.0)


def test_a_sweep_is_apart_from_a_mesh_that_is_set():
    grid = nj.Grid(a=[1.0, 2.0])
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        results = nj.sweep(lambda a: {"x": 2 * a}, grid)
    np.testing.assert_array_equal(results.x, [2.0, 4.0])


def test_without_compilation_there_is_no_sweep():
    with jax.disable_jit(), pytest.raises(ValueError, match="`jax_disable_jit` must be off"):
        nj.sweep(powers, nj.Grid(base=[1.0], exponent=[1]))


def test_values_that_repeat_in_a_zipped_axis_may_be_equal_in_float32():
    grid = nj.Grid(pair=nj.zipped(a=[1.0, 1.00000001], b=[0.0, 1.0]))
    assert nj.sweep(lambda a, b: {"x": a + b}, grid).x.values.tolist() == [1.0, 2.0]


def test_rejects_devices_beside_an_executor():
    devices = jax.devices()
    with pytest.raises(ValueError, match=r"`devices` must be None if there is an `executor`, got"):
        nj.sweep(powers, DESCENTS, executor=LocalDevices(devices), devices=devices)


# --- Progress and interruption ---


def test_is_quiet_unless_on_a_terminal(capsys):
    nj.sweep(powers, nj.Grid(base=[1.0], exponent=[1]))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_shows_progress_on_a_terminal(screen, progress):
    def run(a):
        return {"x": 1 / a, "curve": jnp.ones(3) / a}

    nj.sweep(run, nj.Grid(a=[*range(-2, 48)]), chunk=1, progress=progress)
    shown = screen.getvalue()
    for part in ("running", "50/50", "runs/s", "1 not finite"):
        assert (part in shown) is progress


def test_what_was_stored_counts_as_done(bars, tmp_path):
    def run(a):
        return {"x": 1 / a}

    grid = nj.Grid(a=[0.0, 1.0, 2.0])
    for _ in range(2):
        nj.sweep(run, grid, chunk=1, store=tmp_path)
        task = bars[-1]._bar.tasks[0]
        assert (task.completed, task.total, bars[-1].diverged) == (3, 3, 1)


def test_leaves_the_terminal_in_order_when_the_run_fails(screen):
    with pytest.raises(ZeroDivisionError):
        nj.sweep(lambda a: 1 / 0, nj.Grid(a=[1.0]))
    assert "compiling" in screen.getvalue()
    assert "\x1b[?25h" in screen.getvalue()  # The cursor is shown again.


def interrupting(monkeypatch, at, times=1):
    """Press Ctrl-C while chunk number `at` is being stored."""
    saved = []
    save_chunk = Store.save

    def press(self, index, arrays):
        saved.append(index)
        if len(saved) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        save_chunk(self, index, arrays)

    monkeypatch.setattr(Store, "save", press)
    return saved


@pytest.mark.parametrize(("devices", "stored"), [(1, 3), (2, 5)])
def test_an_interruption_waits_for_the_chunks_in_flight(monkeypatch, tmp_path, devices, stored):
    def run(word, a):
        return {"x": a * len(word)}

    # Three chunks a word: with two devices they come in waves of 2, 1, 2, 1.
    grid = nj.Grid(word=["a", "bc"], a=[1.0, 2.0, 3.0])
    devices = jax.devices()[:devices]
    handler = signal.getsignal(signal.SIGINT)
    # While a wave is stored, the next one is in flight: it is finished and stored, too.
    interrupting(monkeypatch, at=2 if stored == 3 else 3)
    with pytest.raises(KeyboardInterrupt) as caught:
        nj.sweep(run, grid, chunk=1, store=tmp_path, devices=devices)
    folder = re.escape(str(tmp_path))
    message = f"Stopped with {stored} of 6 chunks stored in {folder}; the same call goes on."
    assert re.fullmatch(message, str(caught.value))
    assert len(list(tmp_path.glob("chunk-*"))) == stored
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    results = nj.sweep(run, grid, store=tmp_path, devices=devices)
    np.testing.assert_array_equal(results.x, [[1, 2, 3], [2, 4, 6]])
    assert len(list(tmp_path.glob("chunk-*"))) == 6


def test_an_interruption_at_the_last_chunk_is_not_forgotten(monkeypatch, tmp_path):
    interrupting(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt, match=r"^Stopped with 3 of 3 chunks stored in"):
        nj.sweep(lambda a: {"x": a}, nj.Grid(a=[1, 2, 3]), chunk=1, store=tmp_path)


def test_a_second_interruption_does_not_wait(monkeypatch, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    interrupting(monkeypatch, at=2, times=2)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        nj.sweep(lambda a: {"x": a}, nj.Grid(a=[1, 2, 3]), chunk=1, store=tmp_path)
    assert len(list(tmp_path.glob("chunk-*"))) == 1
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interruption_without_a_store_says_what_is_lost():
    def run(a):
        return {"x": a}

    class Pressing(LocalDevices):
        def evaluate(self, job, indices):
            for number, wave in enumerate(super().evaluate(job, indices)):
                if number == 0:
                    signal.raise_signal(signal.SIGINT)
                yield wave

    with pytest.raises(KeyboardInterrupt, match=r"^Stopped; nothing was stored\. Pass store="):
        nj.sweep(run, nj.Grid(a=[1, 2, 3]), chunk=1, executor=Pressing())


def test_sweeps_in_threads_do_not_disturb_each_other():
    def work(at):
        found[at] = nj.sweep(descend, DESCENTS.sub(rate=[DESCENTS["rate"].columns["rate"][at]]))

    found = {}
    threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, results in found.items():
        alone = nj.sweep(descend, DESCENTS.sub(rate=results.rate.values))
        assert results.equals(alone)
        assert at in range(3)
    assert len(found) == 3


# --- Results ---


def test_attributes(tmp_path):
    results = nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2, 3]), chunk=4)
    attrs = results.attrs
    assert list(attrs) == [
        "axes",
        "runs",
        "chunk",
        "compile_seconds",
        "run_seconds",
        "device",
        "devices",
        "jax",
        "nested_jax",
    ]
    assert attrs["axes"] == ["base", "exponent"]
    assert (attrs["runs"], attrs["devices"]) == (6, 2)
    assert 2 <= attrs["chunk"] <= 4
    assert attrs["compile_seconds"] > 0
    assert attrs["run_seconds"] > 0
    assert attrs["device"] == jax.devices()[0].device_kind
    assert (attrs["jax"], attrs["nested_jax"]) == (jax.__version__, nj.__version__)
    stored = nj.sweep(powers, nj.Grid(base=[1.0], exponent=[1]), store=tmp_path)
    assert re.fullmatch("[0-9a-f]{64}", stored.attrs["configuration"])


def test_results_are_a_frame_for_regression():
    results = nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2]))
    frame = results.to_dataframe().reset_index()
    chex.assert_equal(sorted(frame.columns), ["base", "exponent", "power", "root"])


@pytest.fixture(scope="module")
def found():
    """Return a sweep whose best point depends on what is averaged; one of its runs diverges."""

    def run(kind, rate, decay, seed):
        noise = jnp.array([0.0, -3.0, 3.0])[seed]
        loss = (rate - 2) ** 2 + (5.0 if kind is None else 1.0) + noise * (rate == 3)
        loss = jnp.where((rate == 2) & (seed == 2), jnp.nan, loss)
        return {
            "loss": loss,
            "narrow": loss.astype(jnp.bfloat16),
            "curve": jnp.arange(3) * decay + seed,
            "steps": seed,
            "fine": seed < 2,
        }

    draw = nj.zipped(rate=[1.0, 2.0, 3.0], decay=[0.1, 0.2, 0.3])
    return nj.sweep(run, nj.Grid(seed=range(3), kind=[None, "good"], draw=draw))


def test_the_best_run_has_its_coordinates_and_all_results(found):
    point = nj.best_point(found)
    assert (point.seed, point.kind, point.draw, point.rate) == (1, "good", 2, 3.0)
    assert float(point.loss) == float(found.loss.min()) == -1.0
    assert point.curve.dims == ("curve_0",)
    np.testing.assert_allclose(point.curve, [1.0, 1.3, 1.6], rtol=1e-6)
    assert point.attrs["averaged"] == []
    assert point.attrs["runs"] == found.attrs["runs"]


def test_the_best_point_over_seeds_did_not_diverge_at_any(found):
    point = nj.best_point(found, over="seed")
    assert (point.kind, point.rate) == ("good", 1.0)  # Rate 2 has a seed that is NaN; 3 is equal.
    assert float(point.loss) == 2.0
    assert point.attrs["averaged"] == ["seed"]
    np.testing.assert_allclose(point.curve, [1.0, 1.1, 1.2], rtol=1e-6)
    assert (float(point.steps), float(point.fine)) == (1.0, pytest.approx(2 / 3))
    assert "seed" not in point.coords
    over = nj.best_point(found.isel(draw=[0, 2]), over=["seed", "kind"])
    assert (float(over.rate), float(over.loss)) == (1.0, 4.0)
    assert nj.best_point(found.isel(draw=[0]), over=["seed", "kind", "draw"]).loss == 4.0


def test_the_best_by_another_result_or_the_largest(found):
    assert nj.best_point(found, by="steps").seed == 0
    assert nj.best_point(found, by="steps", mode="max").seed == 2
    assert nj.best_point(found, by="fine", over=["kind", "draw"], mode="max").seed == 0
    point = nj.best_point(found, by="narrow")
    assert (point.rate, point.narrow.dtype) == (3.0, np.float32)
    assert nj.best_point(found, mode="max").kind == "None"
    # Of what was selected, and of results that did not come from a sweep.
    assert nj.best_point(found.sel(kind="None"), over="seed").loss == 6.0
    plain = xr.Dataset({"loss": ("a", [3.0, 1.0, 2.0])})
    assert nj.best_point(plain).loss == 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"by": "error"},
            ValueError,
            "`by` must be one of ['curve', 'fine', 'loss', 'narrow', 'st",
        ),
        (
            {"by": "curve"},
            ValueError,
            "`by` must be a number a run, got dimensions ('seed', 'kind'",
        ),
        ({"over": "rate"}, ValueError, "`over` must be axes of ('seed', 'kind', 'draw'), got 'rat"),
        ({"mode": "least"}, ValueError, "`mode` must be one of 'min', 'max', got 'least'."),
        ({"mode": None}, TypeError, "`mode` must be one of 'min', 'max', got None."),
    ],
)
def test_best_rejects(found, arguments, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.best_point(found, **arguments)


def test_what_is_infinite_is_not_the_best():
    results = nj.sweep(lambda a: {"loss": 1 / a}, nj.Grid(a=[0.0, 2.0]))
    assert nj.best_point(results, mode="max").a == 2.0
    assert nj.best_point(-results, mode="min").a == 2.0


def test_best_rejects_a_sweep_that_diverged_everywhere(found):
    everywhere = found.isel(draw=[1], seed=[2])
    with pytest.raises(
        ValueError, match=r"`by` must be finite somewhere, got none of 'loss' \(all"
    ):
        nj.best_point(everywhere)


def test_an_axis_may_have_any_name_for_best():
    results = nj.sweep(lambda **axes: {"loss": axes["a b"]}, Grid(**{"a b": [2.0, 1.0]}))
    assert nj.best_point(results)["a b"] == 1.0


def test_saved_results_are_the_same(found, tmp_path):
    for results in (found, nj.best_point(found), nj.best_point(found, over="seed")):
        save(results, tmp_path / "results.nc")
        again = load(tmp_path / "results.nc")
        assert again.identical(results)
        for name in results.variables:
            assert again[name].dtype.kind == results[name].dtype.kind
        assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]


def test_saved_results_still_have_a_best_point(tmp_path):
    results = nj.sweep(lambda a: {"loss": a, "v": a * jnp.ones(2)}, nj.Grid(a=[2.0, 1.0]))
    save(results, str(tmp_path / "results.nc"))
    again = load(str(tmp_path / "results.nc"))
    assert nj.best_point(again).a == 1.0
    with pytest.raises(ValueError, match="`by` must be a number a run, got dimensions"):
        nj.best_point(again, by="v")


def test_a_file_is_saved_whole_or_not_at_all(found, tmp_path, monkeypatch):
    path = tmp_path / "results.nc"
    save(found, path)
    before = path.read_bytes()

    def fail(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="No space left on device"):
        save(found, path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["results.nc"]


def test_save_rejects_other_names(found, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in \.nc, got '.*results\.csv'\."):
        save(found, tmp_path / "results.csv")
