"""Tests of what `sweep` refuses, most of it before anything is compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps.engine._local import LocalDevices
from tests.sweeps.support import DESCENTS, powers


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


def test_without_compilation_there_is_no_sweep():
    with jax.disable_jit(), pytest.raises(ValueError, match="`jax_disable_jit` must be off"):
        nj.sweep(powers, nj.Grid(base=[1.0], exponent=[1]))


def test_rejects_devices_beside_an_executor():
    devices = jax.devices()
    with pytest.raises(ValueError, match=r"`devices` must be None if there is an `executor`, got"):
        nj.sweep(powers, DESCENTS, executor=LocalDevices(devices), devices=devices)
