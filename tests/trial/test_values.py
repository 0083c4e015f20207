"""Wrong numbers are loud: an error where they are concrete, NaN where they are traced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import schedules, theory

KEY = jax.random.key(0)
PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}


def update(make, **fixed):
    """Return a function from a number to two updates of `make(number)`."""

    def run(number):
        tx = make(number, **fixed)
        gradients = jax.tree.map(lambda p: 0.1 * p, PARAMS)
        state = tx.init(PARAMS)
        _, state = tx.update(gradients, state, PARAMS)
        return tx.update(gradients, state, PARAMS)[0]

    return run


def by(factory, name, **fixed):
    """Return a function from the hyperparameter `name` to two updates."""
    return update(lambda number: factory(**{name: number}, **fixed))


def mean_loss(number, name, **fixed):
    trace = nj.rollout(nj.momentum(0.1), nj.quadratic([1.0]), KEY, 10, **{name: number}, **fixed)
    return trace.mean_loss


def drifting(number, name, **fixed):
    problem = nj.drifting_regression(dim=2, **{name: number}, **fixed)
    return nj.rollout(nj.momentum(0.01), problem, KEY, 10).mean_loss


def classified(fold):
    masks, images = jnp.eye(3, dtype=bool), jnp.ones((3, 2))
    problem = nj.classification(
        lambda p, x: x @ p,
        lambda key: jnp.ones((2, 3)),
        images,
        jnp.arange(3),
        batch_size=2,
        folds=masks,
        fold=fold,
    )
    return nj.rollout(nj.momentum(0.1), problem, KEY, 5).mean_loss


def schedule(make, step=3):
    return lambda number: (make(number)(step), make(number).cycle_steps(step))


DECAYS, POSITIVE, COUNTS = (1.0, 1.5, -0.1), (0.0, -1.0, np.inf), (0, -1)
FACTORED = {"learning_rate": 0.1, "relative_step": False}
# A function of one number, a value that is right, and values that are wrong.
CASES = {
    "momentum(decay)": (by(nj.momentum, "decay", learning_rate=0.1), 0.9, DECAYS),
    "momentum(learning_rate)": (by(nj.momentum, "learning_rate"), 0.1, (-1.0, np.inf)),
    "nesterov(decay)": (by(nj.nesterov, "decay", learning_rate=0.1), 0.9, DECAYS),
    "nested_momentum(levels)": (
        by(nj.nested_momentum, "levels", learning_rate=0.1, max_levels=3),
        2,
        (0, -1, 4),
    ),
    "nested_momentum(decay)": (by(nj.nested_momentum, "decay", learning_rate=0.1), 0.9, DECAYS),
    "scale_by_nested_momentum": (update(lambda a: nj.scale_by_nested_momentum([a])), 0.9, DECAYS),
    "scale_by_nested_momentum(debias)": (
        update(lambda a: nj.scale_by_nested_momentum([0.5, a], debias=True)),
        0.9,
        DECAYS,
    ),
    "adam(b1)": (by(nj.adam, "b1"), 0.9, DECAYS),
    "adam(b2)": (by(nj.adam, "b2"), 0.9, DECAYS),
    "adam(eps)": (by(nj.adam, "eps"), 1e-8, (-1.0, np.inf)),
    "adamw(weight_decay)": (by(nj.adamw, "weight_decay"), 0.1, (-1.0, np.inf)),
    "clip_by_block_rms": (by(nj.clip_by_block_rms, "threshold"), 1.0, POSITIVE),
    "factored_rms(decay_rate)": (by(nj.scale_by_factored_rms, "decay_rate"), 0.8, POSITIVE),
    "factored_rms(b2)": (by(nj.scale_by_factored_rms, "b2"), 0.9, DECAYS),
    "factored_rms(b2_cap)": (by(nj.scale_by_factored_rms, "b2_cap"), 0.9, (-0.1, 1.5)),
    "factored_rms(eps)": (by(nj.scale_by_factored_rms, "eps"), 1e-30, POSITIVE),
    "adafactor(eps2)": (by(nj.adafactor, "eps2"), 1e-3, (-1.0, np.inf)),
    "adafactor(clip_threshold)": (by(nj.adafactor, "clip_threshold"), 1.0, POSITIVE),
    "adafactor(b1)": (by(nj.adafactor, "b1", **FACTORED), 0.9, DECAYS),
    "rollout(warmup)": (functools.partial(mean_loss, name="warmup"), 5, (10, 11, -1)),
    "rollout(bound)": (functools.partial(mean_loss, name="bound"), 5.0, (np.nan,)),
    "drifting_regression(data_levels)": (
        functools.partial(drifting, name="data_levels", max_levels=3),
        2,
        (0, -1, 4),
    ),
    "drifting_regression(decay)": (functools.partial(drifting, name="decay"), 0.9, DECAYS),
    "drifting_regression(noise_std)": (functools.partial(drifting, name="noise_std"), 0.1, (-1.0,)),
    "classification(fold)": (classified, 1, (3, -1)),
    "constant": (schedule(nj.constant), 10, (0, -1)),
    "cosine": (schedule(nj.cosine), 10, (0, -1)),
    "cosine(floor)": (lambda f: nj.cosine(10, floor=f)(3), 0.5, (-0.1, 1.5)),
    "step_drop": (schedule(nj.step_drop), 10, (0, -1)),
    "step_drop(factor)": (lambda f: nj.step_drop(10, factor=f)(9), 0.5, (-0.1, 1.5)),
    "step_drop(drops)": (lambda d: nj.step_drop(10, drops=[d, 0.6])(9), 0.5, (0.0, 0.6, 0.7, 1.5)),
    "warm_restarts": (schedule(nj.warm_restarts), 10, (0, -1, 0.5)),
    "warm_restarts(growth)": (
        schedule(lambda g: nj.warm_restarts(10, growth=g)),
        2.0,
        (0.5, -1.0),
    ),
    "warmup_linear_decay": (
        schedule(lambda n: nj.warmup_linear_decay(n, warmup_steps=6)),
        10,
        (0, -1, 5),
    ),
    "warmup_linear_decay(warmup_steps)": (
        schedule(lambda w: nj.warmup_linear_decay(10, warmup_steps=w)),
        2,
        (-1, 11),
    ),
    "warmup_linear_decay(floor)": (
        lambda f: nj.warmup_linear_decay(10, warmup_steps=2, floor=f)(3),
        0.5,
        (-0.1, 1.5),
    ),
    "with_warmup": (schedule(lambda w: nj.with_warmup(nj.constant(10), w)), 2, (-1,)),
    "cascade_limit(stages)": (lambda k: theory.cascade_limit(k, 0.9), 2, (-1,)),
    "cascade_limit(decay)": (lambda a: theory.cascade_limit(2, a), 0.9, DECAYS),
    "geometric_sum": (lambda n: theory.geometric_sum(0.5, n), 3, (-1,)),
    "negative_binomial_weights": (
        lambda a: theory.negative_binomial_weights(2, a, 4),
        0.9,
        DECAYS,
    ),
    "mean_square_growth(dim)": (
        lambda dim: theory.mean_square_growth(optax.identity(), dim, 0.01),
        3,
        COUNTS,
    ),
    "mean_square_growth(learning_rate)": (
        lambda rate: theory.mean_square_growth(optax.identity(), 3, rate),
        0.01,
        (0.0, -1.0),
    ),
    "stationary_loss(noise_std)": (
        lambda std: theory.stationary_loss(nj.momentum(0.01), 3, noise_std=std).total,
        0.1,
        (-1.0,),
    ),
    "constant(total_steps)": (schedule(nj.constant), 10.0, (np.inf,)),
    "cosine(total_steps)": (schedule(nj.cosine), 10.0, (np.inf,)),
    "step_drop(total_steps)": (schedule(nj.step_drop), 10.0, (np.inf,)),
    "warm_restarts(first_cycle)": (schedule(nj.warm_restarts), 10.0, (np.inf,)),
    "warm_restarts(floor)": (lambda f: nj.warm_restarts(10, floor=f)(3), 0.5, (-0.1, 1.5)),
    "quadratic(eigenvalues)": (
        lambda h: nj.rollout(nj.momentum(0.1), nj.quadratic([h]), KEY, 10).mean_loss,
        1.0,
        (np.inf,),
    ),
    "quadratic(noise_std)": (
        lambda std: (
            nj.rollout(nj.momentum(0.1), nj.quadratic([1.0], noise_std=std), KEY, 10).mean_loss
        ),
        0.1,
        (-1.0, np.inf),
    ),
    "online_convex(curvatures)": (
        lambda h: nj.rollout(nj.momentum(0.1), nj.online_convex([[1.0]], [[h]]), KEY, 10).params,
        1.0,
        (-1.0, np.inf),
    ),
}
WRONG = [(name, value) for name, (_, _, values) in CASES.items() for value in values]
# No hyperparameter is one of these, wherever a number is asked for.
NO_NUMBERS = {
    "bool": True,
    "numpy bool": np.bool_(True),
    "array of a bool": jnp.array(True),
    "word": "0.5",
    "bytes": b"1",
    "numpy word": np.array("x"),
    "complex": 1j,
    "list": [0.5],
    "vector": np.array([0.5, 0.2]),
    "dict": {},
    "beyond 64 bits": 10**400,
    "beyond what Python prints": -(10**5000),
}


@pytest.mark.parametrize("name", CASES)
def test_a_traced_value_gives_what_a_concrete_one_gives_and_nan_if_it_is_wrong(name):
    run, right, wrong = CASES[name]
    values = jnp.asarray([right, *wrong], jnp.result_type(*map(type, (right, *wrong))))
    found = jax.tree.leaves(jax.jit(jax.vmap(run))(values))  # One program for all values.
    concrete = jax.tree.leaves(run(right))
    assert found
    for leaf, expected in zip(found, concrete, strict=True):
        assert np.isfinite(leaf[0]).all()
        np.testing.assert_allclose(leaf[0], expected, rtol=1e-5)  # Float32, in another order.
        assert np.isnan(leaf[1:].reshape(len(wrong), -1)).any(axis=1).all()


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_concrete_value_out_of_range_is_an_error(name, value):
    with pytest.raises(ValueError, match=r"^`[^`]+` must .*, got "):
        CASES[name][0](value)


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.parametrize("name", CASES)
def test_what_is_not_a_number_is_an_error(name, kind):
    with pytest.raises((TypeError, ValueError), match=r"^`[^`]+` must .*, got "):
        CASES[name][0](NO_NUMBERS[kind])


@pytest.mark.parametrize(
    "value",
    [jnp.ones(2), [0.1], None, 1j, "fast"],
    ids=["vector", "list", "none", "complex", "word"],
)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (nj.scale_by_learning_rate, "learning_rate"),
        (lambda f: nj.momentum(0.1, schedule=f), "schedule"),
        (lambda f: nj.nesterov(0.1, decay=f), "decay"),
        (nj.scale_by_relative_step, "learning_rate"),
        (lambda f: nj.scale_by_factored_rms(b2=f), "b2"),
        (lambda f: nj.adamw(0.1, schedule=f), "schedule"),
    ],
)
def test_a_schedule_must_return_a_number(make, name, value):
    run = functools.partial(update(make), lambda step: value)
    for again in (run, jax.jit(run)):
        with pytest.raises((TypeError, ValueError), match=rf"^`{name}\(step\)` must .*, got "):
            again()


@pytest.mark.parametrize("value", [1.0, -1.0, np.nan])
def test_a_decay_that_a_schedule_gives_keeps_its_rule(value):
    for make in (lambda f: nj.nesterov(0.1, decay=f), lambda f: nj.scale_by_factored_rms(b2=f)):
        with pytest.raises(ValueError, match=r"\(step\)` must lie in \[0, 1\), got "):
            update(make)(lambda step: value)
        updates = jax.jit(lambda x, make=make: update(make)(lambda step: x))(value)
        assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    "factory", [nj.momentum, nj.nested_momentum, nj.nesterov, nj.adam, nj.adamw]
)
def test_a_schedule_is_no_learning_rate(factory):
    with pytest.raises(TypeError, match=r"^`learning_rate` must be .*: pass it as `schedule`"):
        factory(schedules.warm_restarts(100))


def test_integers_do_not_wrap():
    many = np.int64(3_000_000_000)
    assert float(nj.cosine(many)(1_500_000_000)) == pytest.approx(0.5, abs=1e-6)
    assert float(nj.warm_restarts(many).cycle_steps(0)) == pytest.approx(3e9)
    assert float(nj.step_drop(many)(0)) == 1
    updates = by(nj.clip_by_block_rms, "threshold")(many)
    np.testing.assert_allclose(updates["w"], 0.1)


@pytest.mark.parametrize("threshold", [1e39, 1e300])
def test_a_threshold_beyond_float32_does_not_clip(threshold):
    clipped = by(nj.clip_by_block_rms, "threshold")(threshold)
    assert all((leaf == jnp.float32(0.1)).all() for leaf in clipped.values())
    unclipped = by(nj.adafactor, "clip_threshold")(None)
    for name, leaf in by(nj.adafactor, "clip_threshold")(threshold).items():
        np.testing.assert_array_equal(leaf, unclipped[name])


@pytest.mark.parametrize("small", [1e-37, 1e-38, 1e-39, 1e-46])
@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_zeros_stay_zeros_beside_numbers_that_flush_to_zero(small, shape):
    zeros = jnp.zeros(shape)
    for tx in (nj.clip_by_block_rms(small), nj.scale_by_factored_rms(eps=small)):
        state = tx.init(zeros)
        for _ in range(3):
            updates, state = jax.jit(tx.update)(zeros, state)
            np.testing.assert_array_equal(updates, 0)
