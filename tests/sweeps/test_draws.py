"""Tests of draws as vectors: the same bits, in every place of a program where draws can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax._core.jaxpr import all_eqns
from nested_jax.sweeps.engine._draws import with_flat_draws
from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._tracing import program_of

SHAPE = (7, 3)


def in_a_scan(seed):
    def step(total, key):
        return total + jax.random.normal(key, SHAPE), jax.random.bits(key, (2, 5), "uint8")

    return lax.scan(step, jnp.zeros(SHAPE), jax.random.split(jax.random.key(seed), 4))


def in_a_while(seed):
    def more(state):
        return state[0].sum() < 100

    def step(state):
        total, key = state
        key, now = jax.random.split(key)
        return total + jax.random.uniform(now, SHAPE), key

    return lax.while_loop(more, step, (jnp.zeros(SHAPE), jax.random.key(seed)))[0]


def in_a_branch(seed):
    key = jax.random.key(seed)
    branches = [lambda: jax.random.normal(key, SHAPE), lambda: jax.random.uniform(key, SHAPE)]
    return lax.switch(seed % 2, branches)


def under_vmap(seed):
    keys = jax.random.split(jax.random.key(seed), (2, 3))
    return jax.vmap(jax.vmap(lambda key: jax.random.normal(key, SHAPE)))(keys)


def in_a_derivative(seed):
    def loss(x):
        noisy = jax.checkpoint(lambda x: jnp.sin(x + jax.random.normal(key, SHAPE)))
        return noisy(x).sum()

    key = jax.random.PRNGKey(seed)  # A key of the old kind.
    return jax.grad(loss)(0.5)


def twice(seed):
    """Draw in a function that JAX traces once for two calls."""
    one, other = jax.random.split(jax.random.key(seed))
    return jax.random.normal(one, SHAPE), jax.random.normal(other, SHAPE)


def of_a_network(seed):
    model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    return model.init(jax.random.key(seed), jnp.ones((1, 7)))


def of_other_kinds(seed):
    key = jax.random.key(seed)
    return (
        jax.random.choice(key, 9, SHAPE),
        jax.random.randint(key, SHAPE, 0, 9),
        jax.random.gamma(key, 2.0, SHAPE),
    )


DRAWS = [
    in_a_scan,
    in_a_while,
    in_a_branch,
    under_vmap,
    in_a_derivative,
    twice,
    of_a_network,
    of_other_kinds,
]


def draws(program):
    return [eqn for eqn in all_eqns(program.jaxpr) if eqn.primitive.name == "random_bits"]


@pytest.mark.parametrize("function", DRAWS)
def test_draws_are_vectors_of_the_same_bits(function):
    program = jax.make_jaxpr(function)(3)
    flat = with_flat_draws(program)
    assert max(len(eqn.params["shape"]) for eqn in draws(program)) == 2
    assert max(len(eqn.params["shape"]) for eqn in draws(flat)) == 1
    # Operation by operation, so that no fusion rounds anew.
    with jax.disable_jit():
        expected, found = jaxpr_as_fun(program)(jnp.int32(3)), jaxpr_as_fun(flat)(jnp.int32(3))
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_function_traced_once_stays_one():
    def functions(program):
        calls = (eqn.params.get("jaxpr") for eqn in program.jaxpr.eqns)
        return {id(called) for called in calls if called is not None}

    program = jax.make_jaxpr(twice)(3)
    assert len(functions(with_flat_draws(program))) == len(functions(program))


@pytest.mark.parametrize(
    "function",
    [
        lambda seed: jax.random.normal(jax.random.key(seed), (7,)),
        lambda seed: jax.random.normal(jax.random.key(seed)),
        lambda seed: jax.random.normal(jax.random.key(seed, impl="rbg"), SHAPE),
        lambda seed: lax.scan(lambda x, _: (jnp.sin(x), x), 1.0 * seed, length=3),
    ],
)
def test_programs_without_such_draws_stay_as_they_are(function):
    program = jax.make_jaxpr(function)(3)
    assert with_flat_draws(program) is program


def kernel(seed):
    return {"kernel": of_a_network(seed)["params"]["layers_2"]["kernel"]}


def test_a_swept_network_begins_with_the_bits_of_one_that_is_not_swept():
    results = nj.sweep(kernel, nj.Grid(seed=[3, 5]))
    for seed in (3, 5):
        expected = jax.jit(kernel)(seed)["kernel"]
        np.testing.assert_array_equal(results.kernel.sel(seed=seed), expected)


def test_a_sweep_draws_vectors():
    columns = ({"seed": np.int32([3, 5])},)
    run = Partial(kernel)
    program = program_of((), run, columns)
    swept = jax.make_jaxpr(lambda *axes: evaluate((), None, program, run, axes))(*columns)
    assert {len(eqn.params["shape"]) for eqn in draws(swept)} == {1}


@pytest.mark.parametrize("seeds", [[3], [3, 5]])
def test_constant_results_keep_their_types(seeds):
    constants = {"steps": 4, "rate": 0.5, "small": np.int8(3), "found": np.bool_(True)}

    def run(seed):
        return {**constants, "drawn": jax.random.normal(jax.random.key(seed), SHAPE)}

    results = nj.sweep(run, nj.Grid(seed=seeds))
    for name, value in constants.items():
        assert results[name].dtype == jnp.asarray(value).dtype
        assert (results[name] == value).all()


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_draws_that_depend_on_the_chunk_are_warned_of(kind):
    def run(seed):
        return {"x": jax.random.normal(jax.random.key(seed, impl=kind))}

    with pytest.warns(UserWarning, match="their numbers depend on the chunk"):
        nj.sweep(run, nj.Grid(seed=range(2)))
