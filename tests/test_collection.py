"""Tests of the collection as a whole: what one program holds, and the rule of every number."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import optimizers, transforms

STEPS = 25
# The same operations in another order of fusion: a few roundings of float64 a step.
RTOL = 1e-12
# A parameter that passes through 0 has the roundings of its steps, of size 0.1.
ATOL = 1e-14
POINTS = {
    "rate": [0.1, 0.03, 0.01, 0.1],
    "decay": [0.9, 0.5, 0.0, 0.99],
    "b1": [0.9, 0.0, 0.5, 0.9],
    "b2": [0.999, 0.9, 0.99, 0.0],
    "first_cycle": [5.0, 4.0, 100.0, 7.5],
    "growth": [1.0, 2.0, 1.5, 1.0],
    "clip": [0.5, 1.0, 3.0, 0.1],
    "levels": [1, 2, 4, 3],
    "weight_decay": [0.0, 0.1, 0.01, 0.5],
    "nu": [0.7, 0.0, 1.0, 0.3],
    "erasure": [1.0, 0.0, 0.5, 1.5],
}


def test_one_compilation_for_a_grid_over_everything(x64):
    traces = []
    gradients = jnp.asarray(np.random.default_rng(0).standard_normal((STEPS, 3)))

    @jax.jit
    def trajectory(
        rate, decay, b1, b2, first_cycle, growth, clip, levels, weight_decay, nu, erasure
    ):
        traces.append(None)
        schedule = nj.warm_restarts(first_cycle, growth=growth)
        tx = optax.chain(
            nj.clip_by_block_rms(clip),
            nj.scale_by_adam(b1, b2=b2),
            nj.scale_by_nested_momentum(nj.nested_decays(levels, decay=decay, max_levels=4)),
            nj.scale_by_aggmo([b1, decay]),
            nj.scale_by_qhm(decay, nu=nu),
            nj.scale_by_delta_momentum(decay, erasure=erasure),
            nj.scale_by_learning_rate(rate, schedule=schedule),
            nj.add_decoupled_weight_decay(weight_decay, schedule=schedule, normalized=True),
        )

        def step(carry, gradient):
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        params = jnp.ones(3)
        return jax.lax.scan(step, (params, tx.init(params)), gradients)[1]

    columns = {name: jnp.asarray(values) for name, values in POINTS.items()}
    alone = [trajectory(**{name: column[i] for name, column in columns.items()}) for i in range(4)]
    assert len(traces) == 1, "a value compiled the program again"
    together = jax.jit(jax.vmap(lambda point: trajectory(**point)))(columns)
    np.testing.assert_allclose(together, np.stack(alone), rtol=RTOL, atol=ATOL)
    assert len({float(path[-1, 0]) for path in together}) == 4, "all points are the same run"


UNIT, FRACTION = (0.9, (1.0, 1.5, -0.1)), (0.9, (1.5, -0.1))
POSITIVE, NON_NEGATIVE = (0.5, (0.0, -1.0, np.inf)), (0.5, (-1.0, np.inf))
# Every argument that is a number, by name: a right value and wrong ones, NaN not among them.
RULES = {
    "b1": UNIT,
    "b2": UNIT,
    "b2_cap": FRACTION,
    "b3": UNIT,
    "clip_threshold": POSITIVE,
    "decay": UNIT,
    "decay_rate": POSITIVE,
    "decays": UNIT,  # One of two.
    "eps": NON_NEGATIVE,
    "eps1": POSITIVE,
    "eps2": NON_NEGATIVE,
    "erasure": NON_NEGATIVE,
    "learning_rate": NON_NEGATIVE,
    "levels": (2, (0, -1, 4)),
    "nu": FRACTION,
    "period": (1, (0, -1)),
    "periods": (1, (0, -1)),  # One of two, of decays that are given.
    "slow_weight": NON_NEGATIVE,
    "threshold": POSITIVE,
    "weight_decay": NON_NEGATIVE,
}
FACTORIES = {  # With the arguments that it needs.
    nj.adafactor: {},
    nj.adam: {},
    nj.adamw: {},
    nj.add_decoupled_weight_decay: {"weight_decay": 0.1},
    nj.clip_by_block_rms: {"threshold": 1.0},
    nj.delta_gradient_descent: {"learning_rate": 0.1, "inputs": lambda batch: batch[0]},
    nj.factored_adamw: {"normalized": False, "schedule": None},
    nj.m3: {"learning_rate": 0.1, "ns_steps": 1},
    nj.matched_delay_decays: {"levels": 2, "max_levels": 3},
    nj.momentum: {"learning_rate": 0.1},
    nj.nested_decays: {"levels": 2, "max_levels": 3},
    nj.nested_momentum: {"learning_rate": 0.1, "levels": 2, "max_levels": 3},
    nj.nesterov: {"learning_rate": 0.1},
    nj.scale_by_accumulated_momentum: {},
    nj.scale_by_adam: {},
    nj.scale_by_aggmo: {},
    nj.scale_by_delta_momentum: {},
    nj.scale_by_factored_rms: {},
    nj.scale_by_learning_rate: {"learning_rate": 0.1},
    nj.scale_by_m3: {"ns_steps": 1},
    nj.scale_by_nested_momentum: {"decays": [0.5]},
    nj.scale_by_nesterov_momentum: {"learning_rate": 0.1},
    nj.scale_by_qhm: {},
    nj.scale_by_relative_step: {},
}


def numbers_of(factory):
    """Return the names of the arguments that may be traced numbers."""
    parameters = inspect.signature(factory).parameters.items()
    return [name for name, x in parameters if "numpy.ndarray" in str(x.annotation)]


def updates_of(factory, name, number):
    """Return updates, or the result of a factory that makes no transform."""
    fixed = FACTORIES[factory]
    if name == "decays":
        number = [0.5, number]
        fixed = {key: x for key, x in fixed.items() if "level" not in key}
    if name == "periods":
        number = [1, number]
        fixed = {key: x for key, x in fixed.items() if "level" not in key} | {"decays": [0.5, 0.9]}
    return used(factory(**fixed | {name: number}))


def used(made):
    """Return the updates of a transform; return anything else unchanged."""
    if not isinstance(made, optax.GradientTransformation):
        return made
    params = jnp.ones((2, 3))
    return made.update(0.1 * params, made.init(params), params, batch=params)[0]


def test_every_factory_is_held_to_its_rules():
    public = [x for module in (transforms, optimizers) for x in vars(module).values()]
    functions = [x for x in public if inspect.isfunction(x) and numbers_of(x)]
    assert set(FACTORIES) == set(functions)
    assert {name for factory in FACTORIES for name in numbers_of(factory)} == set(RULES)


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_every_number_out_of_range_is_an_error_or_nan(factory):
    """Under vmap each number is traced, yet nothing of the whole needs to be compiled."""
    for name in numbers_of(factory):
        right, wrong = RULES[name]
        if factory is nj.scale_by_factored_rms and name == "eps":
            right, wrong = POSITIVE
        values = jnp.array([right, *wrong])
        both = jax.vmap(lambda x, name=name: updates_of(factory, name, x))(values)
        for leaf in jax.tree.leaves(both):
            assert np.isfinite(leaf[0]).all(), name
            assert np.isnan(leaf[1:]).reshape(len(wrong), -1).any(1).all(), name
        for value in wrong:
            with pytest.raises(ValueError, match=f"^`{name}.*` must "):
                updates_of(factory, name, value)
        annotation = inspect.signature(factory).parameters[name].annotation
        if "Callable" not in str(annotation):
            continue
        with pytest.raises(ValueError, match=rf"^`{name}\(step\)` must "):
            updates_of(factory, name, lambda step, x=wrong[0]: x)
        of_steps = jax.vmap(lambda x, name=name: updates_of(factory, name, lambda step: x))
        for leaf in jax.tree.leaves(of_steps(jnp.array(wrong))):
            assert np.isnan(leaf).reshape(len(wrong), -1).any(1).all(), name


@pytest.mark.parametrize("kind", [np.float16, np.asarray, jnp.float32, jnp.asarray])
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_known_numbers_stay_known_while_jax_traces(factory, kind):
    """As in `nnx.eval_shape(make)`: what `make` built is used after, on its own."""
    whole = np.int32 if kind in (np.float16, jnp.float32) else kind
    numbers = {}
    for name in numbers_of(factory):
        if name not in ("decays", "periods"):
            right = 0.5 if name == "eps" else RULES[name][0]
            numbers[name] = whole(right) if name in ("levels", "period") else kind(right)
    built = []
    jax.eval_shape(lambda: built.append(factory(**FACTORIES[factory] | numbers)))
    jax.eval_shape(lambda: used(built[0]))
