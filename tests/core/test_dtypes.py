"""Tests of what transforms make of dtypes: casts, complex leaves, derivatives, and refusals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax._core.dtypes import cast, in_dtype, positive_root, root, squared

# Of the paths below, those of many leaves: few equations a leaf are what tracing time is made of.
LEAVES = 50
EQUATIONS_A_LEAF = {
    "momentum": (lambda: nj.momentum(0.1), 3),
    "nested_momentum": (lambda: nj.nested_momentum(0.1, levels=4), 3 * 3 + 1),
    "nesterov": (lambda: nj.nesterov(0.1), 2 * 3),
    "adam": (lambda: nj.adam(0.1), 2 * 3 + 1 + 6 + 1),
    "adamw": (lambda: nj.adamw(0.1), 2 * 3 + 1 + 6 + 1 + 2),
}

RATE = 0.01
OPTIMIZERS = {
    "momentum": nj.momentum,
    "nested_momentum": lambda rate: nj.nested_momentum(rate, levels=3),
    "nesterov": nj.nesterov,
    "adam": nj.adam,
    "amsgrad": lambda rate: nj.adam(rate, amsgrad=True),
    "adamw": nj.adamw,
    "adafactor": nj.adafactor,
    "whole": lambda rate: nj.adafactor(rate, factored=False),
    "steps": lambda rate: nj.adafactor(rate, b1=0.9, momentum_of="step"),
    "factored_adamw": lambda rate: nj.factored_adamw(rate, schedule=nj.constant(9)),
    "with_metrics": lambda rate: nj.with_metrics(nj.adam(rate)),
}
TRANSFORMS = {
    "scale_by_accumulated_momentum": nj.scale_by_accumulated_momentum,
    "scale_by_adam": nj.scale_by_adam,
    "scale_by_factored_rms": nj.scale_by_factored_rms,
    "scale_by_nested_momentum": lambda: nj.scale_by_nested_momentum([0.9]),
    "scale_by_learning_rate": lambda: nj.scale_by_learning_rate(RATE),
    "scale_by_relative_step": nj.scale_by_relative_step,
    "clip_by_block_rms": lambda: nj.clip_by_block_rms(1.0),
    "add_decoupled_weight_decay": lambda: nj.add_decoupled_weight_decay(RATE),
}
EVERYTHING = TRANSFORMS | {n: lambda make=make: make(RATE) for n, make in OPTIMIZERS.items()}
# Five steps of a few dozen roundings each.
COMPLEX_RTOL = {"complex64": 200 * np.finfo(np.float32).eps, "complex128": 1e-12}
# Central differences over 1e-6 of a number of order ten: rounding 1e-9, truncation 1e-12.
DIFFERENCE, DIFFERENCE_RTOL = 1e-6, 1e-7
FLOAT32_RTOL = 1e-4  # Of a derivative through five steps.
FLOAT8_RTOL = 3 * 2.0**-3  # One rounding to three bits for each link of a chain.
FLOAT8_ATOL = 2.0**-9  # Steps of subnormal numbers are as long as that.


def test_what_has_the_dtype_is_not_touched():
    x = jnp.ones(3)
    assert cast(x, x.dtype) is x
    assert not jax.make_jaxpr(lambda x: cast(x, jnp.float32))(x).eqns


def test_a_weak_type_becomes_one_that_is_meant():
    weak = jnp.asarray(1.0)
    assert weak.weak_type
    assert not cast(weak, weak.dtype).weak_type


@pytest.mark.parametrize("x", [np.ones(3, np.float16), jnp.ones(3, jnp.bfloat16)])
def test_other_dtypes_are_cast(x):
    np.testing.assert_array_equal(cast(x, jnp.float32), np.ones(3, np.float32), strict=True)


def test_numbers_are_cast_once_a_dtype():
    def program(x):
        numbers = in_dtype(x)
        return [numbers(np.dtype(dtype))[0] for dtype in ("float16", "bfloat16") * 5]

    eqns = jax.make_jaxpr(program)(jnp.float32(2.0)).eqns
    assert [str(e.primitive) for e in eqns] == ["convert_element_type"] * 2
    assert [x.dtype for x in program(2.0)[:2]] == [jnp.float16, jnp.bfloat16]


@pytest.mark.parametrize("name", EQUATIONS_A_LEAF)
def test_every_leaf_costs_its_arithmetic_alone(name):
    make, expected = EQUATIONS_A_LEAF[name]

    def equations(leaves):
        params, tx = [jnp.ones(2)] * leaves, make()
        state = jax.eval_shape(tx.init, params)
        return len(jax.make_jaxpr(tx.update)(params, state, params).eqns)

    assert equations(2 * LEAVES) - equations(LEAVES) == expected * LEAVES


def random_tree(seed, steps=()):
    rng = np.random.default_rng(seed)
    return {"b": rng.normal(size=(*steps, 4)), "w": rng.normal(size=(*steps, 4, 3))}


def final_params(tx, params, gradients):
    """Return the parameters behind all `gradients` (time first)."""

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), gradients)[0][0]


@pytest.mark.parametrize("dtype", COMPLEX_RTOL)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_phases_pass_through(x64, name, dtype):
    # Squares are of sizes, so that a phase of parameter and gradient is one of the update, too.
    tx, angles = OPTIMIZERS[name](RATE), random_tree(0)
    phases = {n: np.exp(1j * angle) for n, angle in angles.items()}
    params, gradients = random_tree(1), random_tree(2, (5,))
    expected = final_params(tx, *jax.tree.map(jnp.asarray, (params, gradients)))
    turned = jax.tree.map(
        lambda x, p: jnp.asarray(p * x, dtype), (params, gradients), (phases,) * 2
    )
    actual = final_params(tx, *turned)
    for n in actual:
        assert actual[n].dtype == dtype
        np.testing.assert_allclose(actual[n], phases[n] * expected[n], COMPLEX_RTOL[dtype])


@pytest.mark.parametrize("dtype", COMPLEX_RTOL)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_complex_adam_is_optax(x64, amsgrad, dtype):
    parts = random_tree(3, (5,)), random_tree(4, (5,))
    gradients = jax.tree.map(lambda x, y: jnp.asarray(x + 1j * y, dtype), *parts)
    params = jax.tree.map(lambda g: g[0], gradients)
    theirs = optax.amsgrad(RATE) if amsgrad else optax.adam(RATE)
    tx = nj.adam(RATE, amsgrad=amsgrad)
    moments = [x.dtype for x in jax.tree.leaves(tx.init(params)[0].nu)]
    assert set(moments) == {jnp.finfo(dtype).dtype}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, COMPLEX_RTOL[dtype]),
        final_params(tx, params, gradients),
        final_params(theirs, params, gradients),
    )


@pytest.mark.parametrize("name", ["adam", "adafactor"])
def test_metrics_of_complex_leaves_are_those_of_their_sizes(name):
    tx = nj.with_metrics(OPTIMIZERS[name](RATE))
    gradient = {"w": jnp.array([[3.0, -4.0], [1.0, 2.0]])}

    def metrics(gradient):
        return nj.metrics_of(tx.update(gradient, tx.init(gradient), gradient)[1])

    actual = metrics(jax.tree.map(lambda g: g * (0.6 + 0.8j), gradient))
    np.testing.assert_allclose(actual, metrics(gradient), COMPLEX_RTOL["complex64"])


def outcome(make, rate, gate, dtype):
    """Return the loss after five steps of a layer, of whose units those with gate 0 are dead."""
    x = jnp.asarray([1.0, -2.0, 0.5], dtype)

    def loss(params):
        return jnp.sum((jnp.asarray(gate, dtype) * (x @ params["w"] + params["b"]) - 1) ** 2)

    params = {"w": [[1.0, -1.0, 0.3], [0.2, 1.0, -0.4], [0.5, -0.5, 0.7]], "b": [0.1, -0.2, 0.3]}
    params = {name: jnp.asarray(rows, dtype) for name, rows in params.items()}
    tx = make(rate)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.lax.scan(step, (params, tx.init(params)), length=5)[0][0]
    return loss(params) + params["w"].sum()


# What takes roots.
ROOTED = ["adam", "amsgrad", "adamw", "adafactor", "factored_adamw", "with_metrics"]


@pytest.mark.parametrize("name", ROOTED)
def test_rates_have_a_derivative_where_gradients_are_0(x64, name):
    gates = jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])  # One unit dead, or all.

    def of(rate, dtype):
        return jax.vmap(lambda gate: outcome(OPTIMIZERS[name], rate, gate, dtype))(gates)

    rates = RATE + DIFFERENCE * jnp.array([1.0, -1.0])
    ends = jax.jit(jax.vmap(lambda rate: of(rate, "float64")))(rates)
    expected = (ends[0] - ends[1]) / (2 * DIFFERENCE)
    actual = jax.jit(jax.jacrev(lambda rate: of(rate, "float64")))(RATE)
    np.testing.assert_allclose(actual, expected, DIFFERENCE_RTOL, DIFFERENCE_RTOL)
    for derivative in (jax.jacrev, jax.jacfwd):
        single = jax.jit(derivative(lambda rate: of(rate, "float32")))(jnp.float32(RATE))
        np.testing.assert_allclose(single, actual, FLOAT32_RTOL, FLOAT32_RTOL)


def test_roots_of_nothing_have_no_slope():
    for function in (root, positive_root):
        assert jax.grad(function)(0.0) == 0
        assert jax.grad(function)(4.0) == 0.25
        assert np.isnan(function(jnp.float32(np.nan)))
        tiny = jnp.finfo(jnp.float32).tiny
        np.testing.assert_array_equal(function(jnp.float32(tiny)), np.sqrt(tiny))
    assert root(jnp.float32(0)) == 0


def test_squares_are_of_sizes():
    assert squared(jnp.complex64(3 - 4j)) == 25
    assert squared(jnp.float32(-3)) == 9


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_float8_is_kept(name, dtype):
    tx = EVERYTHING[name]()
    params = {"a": jnp.ones((3, 2), dtype), "b": jnp.ones(2)}
    updates, state = tx.update(params, tx.init(params), params)
    assert updates["a"].dtype == dtype
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    expected = tx.update(wide, tx.init(wide), wide)[0]
    actual = np.asarray(updates["a"].astype(jnp.float32))
    np.testing.assert_allclose(actual, expected["a"], FLOAT8_RTOL, FLOAT8_ATOL)
    assert not [x for x in jax.tree.leaves(state) if x.dtype == dtype]


def test_float8_parameters_decay_beside_wider_updates():
    tx, params = nj.add_decoupled_weight_decay(0.5), jnp.ones(2, "float8_e4m3fn")
    update, _ = tx.update(jnp.zeros(2), tx.init(params), params)
    np.testing.assert_array_equal(update, jnp.full(2, -0.5), strict=True)


def updated(name, leaf):
    tx = EVERYTHING[name]()
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones(2)}
    return tx.update({"a": leaf, "b": jnp.ones(2)}, tx.init(params), params)


@pytest.mark.parametrize("name", EVERYTHING)
def test_rejects_updates_of_integers(name):
    with pytest.raises(TypeError, match=r"Arrays must be of a floating dtype, got int32"):
        updated(name, jnp.ones((3, 4), jnp.int32))


REAL = ["momentum", "nested_momentum", "nesterov", "adam", "amsgrad", "adafactor", "factored_adamw"]
# Of these the state shows what the parameters are, and the decay sees them.
KNOWING = [n for n in EVERYTHING if not re.search("rate|clip|relative", n)]


@pytest.mark.parametrize("name", KNOWING)
@pytest.mark.parametrize("shape", [(3, 1), (4,), ()])
def test_rejects_updates_of_another_shape(name, shape):
    with pytest.raises(
        ValueError, match=r"Updates must have the shapes of the parameters"
    ) as error:
        updated(name, jnp.ones(shape))
    assert f"got {shape}" in str(error.value)


@pytest.mark.parametrize("name", REAL)
def test_rejects_complex_updates_of_real_parameters(name):
    with pytest.raises(TypeError, match="Updates must be real like the parameters, got complex64"):
        updated(name, jnp.ones((3, 4), jnp.complex64))


def test_rejects_real_updates_of_complex_parameters():
    tx, params = nj.momentum(RATE), jnp.ones(2, jnp.complex64)
    with pytest.raises(TypeError, match="Updates must be complex like the parameters, got float32"):
        tx.update(jnp.ones(2), tx.init(params))


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adafactor"])
def test_names_the_leaf(name):
    message = "Leaves must be arrays, got True at ['a']."
    with pytest.raises(TypeError, match=re.escape(message)):
        updated(name, True)
    with pytest.raises(TypeError, match=re.escape(message)):
        EVERYTHING[name]().init({"a": True})
    with pytest.raises(TypeError, match=re.escape("a floating dtype, got int32 at ['a'].")):
        EVERYTHING[name]().init({"a": jnp.ones(2, jnp.int32)})
    with pytest.raises(ValueError, match=re.escape("got (3, 1) at ['a'].")):
        updated(name, jnp.ones((3, 1)))


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if not re.search("decay", n)])
def test_every_transform_names_the_leaf_that_is_no_array(name):
    with pytest.raises(TypeError, match=re.escape("Leaves must be arrays, got True at ['a'].")):
        updated(name, True)
    with pytest.raises(TypeError, match=re.escape("a floating dtype, got int32 at ['a'].")):
        updated(name, jnp.ones((3, 4), jnp.int32))


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adafactor"])
def test_rejects_none_in_place_of_an_array(name):
    # None is a tree without leaves.
    message = "`updates` must have the structure of the parameters, got PyTreeDef({'a': "
    with pytest.raises(ValueError, match=re.escape(message)):
        updated(name, None)
