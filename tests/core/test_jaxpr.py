"""Tests of what JAX does not promise about jaxprs: each item by name, and a sweep without it."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import nested_jax as nj
from nested_jax import theory
from nested_jax._core import jaxpr as _jaxpr
from nested_jax.sweeps.engine import _evaluation, _examination, _job, _local, _survey, _tracing
from nested_jax.sweeps.lanes import _interpreter, _layout, _sharing

STEPS = 100  # From here on lanes pay.
AXES = {"a": np.linspace(0.1, 0.9, 16), "b": np.linspace(-1, 1, 8)}
# float32 adds up in different orders in lanes and under vmap; the loop forgets what it rounded.
RTOL, ATOL = 1e-5, 1e-6


def everything(a, b):
    """Use every primitive whose parameters are read, in a loop that lanes serve."""

    def step(carry, x):
        square = jnp.outer(carry, x) + a
        long = lax.concatenate([square.reshape(-1), lax.slice(carry, (0,), (3,), (2,))], 0)
        long = lax.pad(long, jnp.zeros((), long.dtype), [(1, 1, 0)])
        turned = 0.1 * lax.transpose(square, (1, 0)) @ carry
        at = lax.dynamic_slice(turned, (jnp.int32(1),), (1,))
        chosen = jnp.where(jnp.arange(3) < 2 * a, carry, b)
        moved = jnp.tanh(0.1 * chosen + lax.squeeze(at, (0,)) + long.mean())
        return moved.astype(x.dtype), None

    xs = jnp.cos(jnp.arange(3.0 * STEPS)).reshape(STEPS, 3)
    start = lax.conv_general_dilated(jnp.full((1, 1, 4), b), jnp.ones((1, 1, 2)), (1,), "VALID")
    return {"y": lax.scan(step, start[0, 0], xs)[0]}


def in_a_while(a, b):
    return {"y": lax.while_loop(lambda x: x < 10, lambda x: x + a, b)}


def a_draw(a, b):
    return {"y": a + b * jax.random.normal(jax.random.key(0), (2, 3))}


def first(function, name, *arguments):
    """Return the first equation of a primitive in the jaxpr of a function."""
    program = jax.make_jaxpr(function)(*arguments)
    return next(e for e in _jaxpr.all_eqns(program.jaxpr) if e.primitive.name == name)


def program_with(name):
    """Return the swept function that has the primitive."""
    return {"while": in_a_while, "random_bits": a_draw}.get(name, everything)


# --- Every item is where it is looked for ---


@pytest.mark.parametrize("name", ["constvars", "invars", "eqns", "outvars", "replace"])
def test_a_jaxpr_has(name):
    assert hasattr(jax.make_jaxpr(everything)(0.5, 0.5).jaxpr, name)


@pytest.mark.parametrize("name", ["primitive", "invars", "outvars", "params", "effects", "replace"])
def test_an_equation_has(name):
    assert hasattr(first(everything, "scan", 0.5, 0.5), name)


@pytest.mark.parametrize("name", ["name", "bind", "multiple_results"])
def test_a_primitive_has(name):
    assert hasattr(first(everything, "scan", 0.5, 0.5).primitive, name)


@pytest.mark.parametrize("name", ["shape", "dtype"])
def test_an_operand_has(name):
    assert hasattr(first(everything, "scan", 0.5, 0.5).invars[-1].aval, name)


def test_a_variable_is_one_object():
    program = jax.make_jaxpr(lambda x: jnp.sin(x) + x)(0.5).jaxpr
    sine, total = program.eqns
    assert sine.invars[0] is program.invars[0] is total.invars[1]
    assert sine.outvars[0] is total.invars[0]


@pytest.mark.parametrize("name", sorted(_jaxpr.PARAMETERS))
def test_primitive_has_the_parameters(name):
    eqn = first(program_with(name), name, 0.5, 0.5)
    assert len(_jaxpr.parameters(eqn)) == len(_jaxpr.PARAMETERS[name])


def test_parameters_mean_what_is_read():
    """Hold them against programs whose parameters are known."""

    def of(function, name, *shapes):
        return _jaxpr.parameters(first(function, name, *(jnp.zeros(shape) for shape in shapes)))

    assert of(lambda x: lax.broadcast_in_dim(x, (2, 3), (1,)), "broadcast_in_dim", 3) == [
        (2, 3),
        (1,),
    ]
    assert of(lambda x: lax.concatenate([x, x], 1), "concatenate", (2, 3)) == [1]
    assert of(lambda x: x.astype(jnp.int32), "convert_element_type", 3) == [jnp.int32]
    assert of(lambda x, y: x @ y, "dot_general", (2, 3), (3, 4)) == [(((1,), (0,)), ((), ()))]
    assert of(lambda x: lax.dynamic_slice(x, (1,), (2,)), "dynamic_slice", 3) == [(2,)]
    assert of(lambda: lax.broadcasted_iota(jnp.int32, (2, 3), 1), "iota") == [1, jnp.int32]
    assert of(lambda x: lax.pad(x, 0.0, [(1, 2, 0)]), "pad", 3) == [((1, 2, 0),)]
    assert of(lambda: jax.random.bits(jax.random.key(0), (2, 3)), "random_bits") == [(2, 3)]
    assert of(lambda x: lax.reshape(x, (3, 2)), "reshape", (2, 3)) == [(3, 2), None]
    assert of(lambda x: lax.slice(x, (1,), (3,), (2,)), "slice", 3) == [(1,), (3,), (2,)]
    assert of(lambda x: lax.squeeze(x, (1,)), "squeeze", (3, 1)) == [(1,)]
    assert of(lambda x: lax.transpose(x, (1, 0)), "transpose", (2, 3)) == [(1, 0)]
    assert of(
        lambda x: lax.conv_general_dilated(x, jnp.ones((5, 1, 2)), (1,), "VALID"),
        "conv_general_dilated",
        (1, 1, 9),
    )[0].rhs_spec[:2] == (0, 1)


def test_counts_of_a_scan():
    def run(a, b, d, xs):
        return lax.scan(lambda c, x: ((c[0] * a, c[1] + b * d), c[0]), (b, xs[0]), (xs, {"k": xs}))

    eqn = first(run, "scan", 1.0, 2.0, jnp.ones(3), jnp.ones((4, 3)))
    scan = _jaxpr.scan_of(eqn)
    assert (scan.length, scan.reverse, scan.unroll) == (4, False, 1)
    # Not how many there are, which is JAX's business, but whose they are.
    shapes = [atom.aval.shape for atom in eqn.invars]
    assert all(shape[:1] != (4,) for shape in shapes[: scan.constants + scan.carries])
    assert all(shape[:1] == (4,) for shape in shapes[scan.constants + scan.carries :])
    carried = slice(scan.constants, scan.constants + scan.carries)
    body = scan.body.jaxpr
    assert [v.aval for v in body.invars[carried]] == [v.aval for v in body.outvars[: scan.carries]]
    assert scan.carries == 2 != scan.constants


def test_counts_of_a_while():
    def run(a, b, c):
        return lax.while_loop(lambda x: x[0] < a * b, lambda x: (x[0] + c, x[1]), (c, b))

    eqn = first(run, "while", 1.0, 2.0, 3.0)
    body, skipped, constants = _jaxpr.parameters(eqn)
    # The product may be formed before the loop, and what does not change be a constant.
    assert 1 <= skipped <= 2 <= constants + len(body.jaxpr.outvars)
    assert len(eqn.invars) == skipped + constants + len(body.jaxpr.outvars)
    assert len(body.jaxpr.invars) == constants + len(body.jaxpr.outvars)


def test_bodies_of_calls():
    @jax.custom_jvp
    def with_a_rule(x):
        return x + 1

    with_a_rule.defjvps(lambda t, ans, x: t)

    @jax.custom_vjp
    def with_another(x):
        return x + 1

    with_another.defvjp(lambda x: (x + 1, None), lambda _, g: (g,))
    calls = [jax.jit(lambda x: x + 1), jax.checkpoint(lambda x: x + 1), with_a_rule, with_another]
    for call in calls:
        eqn = jax.make_jaxpr(call)(1.0).eqns[0]
        assert eqn.primitive.name in _jaxpr.CALLS
        body, consts = _jaxpr.body_of(eqn)
        assert [inner.primitive.name for inner in body.eqns] == ["add"]
        assert not consts


def test_bodies_of_branches():
    eqn = first(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x), "cond", 1.0)
    assert {body.eqns[0].primitive.name for body in _jaxpr.bodies(eqn)} == {"sin", "cos"}


def test_literals_have_a_value():
    eqn = first(lambda x: x * 2.0, "mul", jnp.float32(1))
    assert [_jaxpr.is_literal(atom) for atom in eqn.invars] == [False, True]
    assert eqn.invars[1].val == 2


def test_constants_of_a_jaxpr():
    table = jnp.arange(3)
    program = jax.make_jaxpr(lambda i: table[i])(0)
    assert _jaxpr.is_closed_jaxpr(program)
    assert len(program.jaxpr.constvars) == len(program.consts)


def test_an_equation_can_be_evaluated_alone():
    eqn = first(lambda x: lax.top_k(x, 2)[0], "top_k", jnp.arange(3.0))
    values, places = _jaxpr.evaluate_alone(eqn, [jnp.array([3.0, 1.0, 2.0])])
    assert values.tolist() == [3, 2]
    assert places is None or places.tolist() == [0, 2]


def test_a_primitive_can_be_bound_to_arrays_with_more_axes():
    eqn = first(lambda x: jnp.sum(x, 0), "reduce_sum", jnp.ones(3))
    (total,) = _jaxpr.bind(eqn, jnp.ones((3, 5)))
    assert total.tolist() == [3] * 5


def test_leaves_that_reach_the_output():
    def update(state, u):
        now, soon, _, clock = state
        return now + u, [soon, u, clock, clock + 1]

    program = jax.make_jaxpr(update)([0.0] * 4, 0.0)
    assert _jaxpr.influential(program.jaxpr, 4) == [0, 1]


# --- A sweep without one of them ---


@pytest.fixture(autouse=True)
def _warn_again():
    _jaxpr._warn.cache_clear()
    yield
    _jaxpr._warn.cache_clear()


def fresh(function):
    """Return a function that JAX has not traced."""
    return lambda **values: function(**values)


@functools.cache
def vmapped(function):
    along_b = jax.vmap(function, (None, 0))
    return jax.jit(jax.vmap(along_b, (0, None)))(*map(np.float32, AXES.values()))


def assert_swept_with_one_warning(function, match):
    expected = vmapped(function)
    with pytest.warns(RuntimeWarning, match=match) as caught:
        results = nj.sweep(fresh(function), nj.Grid(**AXES), progress=False)
    assert len(caught) == 1
    for name, values in expected.items():
        np.testing.assert_allclose(results[name], values, RTOL, ATOL)


def edited(jaxpr, edit):
    """Return a jaxpr whose equations, at all depths, have the parameters that `edit` returns."""

    def inner(value):
        if isinstance(value, tuple | list):
            return type(value)(map(inner, value)) if type(value) in (tuple, list) else value
        if _jaxpr.is_closed_jaxpr(value):
            return (
                value.replace(jaxpr=edited(value.jaxpr, edit))
                if value.jaxpr is not value
                else (edited(value, edit))
            )
        return edited(value, edit) if _jaxpr.is_jaxpr(value) else value

    eqns = []
    for eqn in jaxpr.eqns:
        params = {name: inner(value) for name, value in eqn.params.items()}
        eqns.append(eqn.replace(params=edit(eqn.primitive.name, params)))
    return jaxpr.replace(eqns=eqns)


def change_params(monkeypatch, edit):
    """Let a sweep read jaxprs with other parameters; JAX itself keeps the true ones."""
    trace, in_lanes, flat = (
        _tracing.trace,
        _evaluation.evaluate_in_lanes,
        _evaluation.with_flat_draws,
    )

    def changed(program):
        return types.SimpleNamespace(jaxpr=edited(program.jaxpr, edit), consts=program.consts)

    def traced(*arguments):
        true = trace(*arguments)
        return types.SimpleNamespace(jaxpr=changed(true.jaxpr), out_info=true.out_info)

    def read_and_flat(program):
        flat(changed(program))
        return flat(program)

    for module in (_examination, _job, _survey):
        monkeypatch.setattr(module, "trace", traced)
    monkeypatch.setattr(
        _evaluation, "evaluate_in_lanes", lambda p, *rest: in_lanes(changed(p), *rest)
    )
    monkeypatch.setattr(_evaluation, "with_flat_draws", read_and_flat)


def without(primitive, *names):
    def edit(name, params):
        gone = names if name == primitive else ()
        return {key: value for key, value in params.items() if key not in gone}

    return edit


def test_nothing_is_missing_here():
    """The tests below take something away from a sweep that does without a warning, in lanes."""
    columns = tuple({name: np.float32(values)} for name, values in AXES.items())
    program = _tracing.trace((), jax.tree_util.Partial(everything), columns).jaxpr
    assert _layout.layout_of(program, columns, [True, True]) is not None
    results = nj.sweep(everything, nj.Grid(**AXES), progress=False)
    np.testing.assert_allclose(results.y, vmapped(everything)["y"], RTOL, ATOL)


MISSING = [
    (primitive, name) for primitive, names in _jaxpr.PARAMETERS.items() for name in names
] + [("scan", name) for name in ("jaxpr", "length", "reverse", "unroll")]


@pytest.mark.parametrize(("primitive", "name"), MISSING)
def test_sweeps_without_a_parameter(primitive, name, monkeypatch):
    change_params(monkeypatch, without(primitive, name))
    assert_swept_with_one_warning(program_with(primitive), name)


def test_sweeps_without_the_counts_of_a_scan(monkeypatch):
    change_params(monkeypatch, without("scan", "num_consts", "num_carry", "ft_in"))
    assert_swept_with_one_warning(everything, "`scan` has no parameter `num_consts`")


def test_sweeps_where_the_counts_of_a_scan_are_strange(monkeypatch):
    class Strange:
        def unpack(self):
            return (), (None,), ()

    def edit(name, params):
        return params | {"ft_in": Strange()} if name == "scan" else params

    change_params(monkeypatch, edit)
    assert_swept_with_one_warning(everything, r"`ft_in` of `scan` counts \[0, 1, 0\] of")


def test_sweeps_without_the_body_of_a_call(monkeypatch):
    change_params(monkeypatch, without("jit", *_jaxpr.BODIES_OF_CALLS))
    assert_swept_with_one_warning(everything, "`jit` has none of the parameters")


@pytest.mark.parametrize("name", ["ClosedJaxpr", "DebugInfo", "DropVar", "Jaxpr", "jaxpr_as_fun"])
def test_sweeps_without_a_name_of_jax_extend(name, monkeypatch):
    import jax.extend.core

    monkeypatch.delattr(jax.extend.core, name)
    assert_swept_with_one_warning(everything, name)


def test_sweeps_where_literals_are_not_recognized(monkeypatch):
    for module in (_jaxpr, _interpreter, _layout, _sharing):
        monkeypatch.setattr(module, "is_literal", lambda value: False, raising=False)
    assert_swept_with_one_warning(everything, "Error")


def test_sweeps_without_a_compile_option(monkeypatch):
    monkeypatch.setattr(_local, "LANES_OPTIONS", {"xla_no_such_option": True})
    assert_swept_with_one_warning(everything, "xla_no_such_option")


def test_errors_of_the_swept_function_are_its_own():
    """They are not taken for a change of JAX."""

    def run(a, b):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        nj.sweep(run, nj.Grid(**AXES), progress=False)


def test_theory_needs_no_more_than_a_jaxpr():
    limit = theory.stability_limit(optax.ema(0.9, debias=False))
    np.testing.assert_allclose(limit, 2 * 1.9 / 0.1, rtol=RTOL)
