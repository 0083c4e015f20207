"""Tests of `sweep` against calling the function in a loop, and of what it promises about it."""

import contextlib
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

import nested_jax as nj
from tests.sweeps.support import assert_is_the_loop, descend, powers


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


def test_infinities_and_small_errors_of_rounding_pass():
    results = nj.sweep(lambda a: {"x": a}, nj.Grid(a=[-math.inf, 0.0, 0.1, math.inf]))
    np.testing.assert_allclose(results.x, [-np.inf, 0.0, 0.1, np.inf], rtol=1e-7)


def test_a_sweep_is_apart_from_a_mesh_that_is_set():
    grid = nj.Grid(a=[1.0, 2.0])
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        results = nj.sweep(lambda a: {"x": 2 * a}, grid)
    np.testing.assert_array_equal(results.x, [2.0, 4.0])


def test_values_that_repeat_in_a_zipped_axis_may_be_equal_in_float32():
    grid = nj.Grid(pair=nj.zipped(a=[1.0, 1.00000001], b=[0.0, 1.0]))
    assert nj.sweep(lambda a, b: {"x": a + b}, grid).x.values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("around", [False, True])
def test_bound_arrays_may_be_sharded(kind, around):
    # Warnings are errors: neither layout falls back.
    def run(data, *, rate, decay, seed):
        noise = jax.random.normal(jax.random.key(seed), (2, 3)).sum()
        total, _ = jax.lax.scan(lambda x, row: (x + jnp.sin(row), None), jnp.zeros(2), data)
        return {"loss": rate * total.sum() + decay * noise}

    mesh = jax.make_mesh((2,), ("rows",), axis_types=(kind,))
    data = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    sharded = jax.device_put(data, NamedSharding(mesh, PartitionSpec("rows")))
    grid = nj.Grid(rate=[1.0, 2.0], decay=[0.0, 1.0, 3.0], seed=[0, 1])
    for layout in ("vmap", "lanes"):
        expected = nj.sweep(Partial(run, data), grid, layout=layout)
        with jax.set_mesh(mesh) if around else contextlib.nullcontext():
            found = nj.sweep(Partial(run, sharded), grid, layout=layout)
        np.testing.assert_array_equal(found.loss, expected.loss)
