"""Tests of the edge-of-stability gauge: quadratics run to their end, and Adam at its edge."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets

import nested_jax as nj
from nested_jax import theory

RTOL = 1e-9  # Of float64, through an eigenvalue problem.
PARAMS = {"w": (4, 3), "b": (3,), "conv": (2, 5, 3, 4)}

CASES = 50
STEPS = 20_000
SMALLEST = 1e-200
NEAR = 0.01  # Closer to the edge, growth over all steps is too small to see.

# Of each: a momentum by two numbers in (0, 1).
MOMENTA = {
    "heavy_ball": lambda a, b: optax.trace(0.95 * a),
    "nesterov": lambda a, b: optax.trace(0.95 * a, nesterov=True),
    "cascade": lambda a, b: nj.scale_by_nested_momentum([0.9 * a, 0.9 * b]),
    "aggmo": lambda a, b: nj.scale_by_aggmo([0.0, 0.9 * a, 0.9 * b]),
    "identity": lambda a, b: optax.identity(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOMENTA)
def test_a_quadratic_diverges_exactly_beyond_1(name, x64):
    """Run each case for 20,000 steps; the error of the last quarter is compared with the second."""
    make = MOMENTA[name]

    def case(a, b, ratio, curvatures, scales):
        tx = make(a, b)
        limit = theory.stability_limit(tx)

        def loss(p):
            return jnp.sum(curvatures * p**2) / 2

        rate = ratio * limit / jnp.max(curvatures / scales)
        gauge = theory.edge_of_stability(
            loss, jnp.ones(3), learning_rate=rate, momentum=tx, preconditioner=scales
        )

        def step(carry, _):
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p) / scales, state, p)
            p = p - rate * updates
            return (p, state), jnp.max(jnp.abs(p))

        start = jnp.ones(3)
        sizes = jax.lax.scan(step, (start, tx.init(start)), None, STEPS)[1]
        return gauge, sizes.reshape(4, -1).max(1)

    rng = np.random.default_rng(len(name))
    ratios = rng.uniform(0.9, 1.1, CASES)
    ratios = np.where(abs(ratios - 1) < NEAR, 1 + NEAR, ratios)
    draws = rng.uniform(size=(2, CASES)), rng.uniform(0.1, 2, (2, CASES, 3))
    gauges, sizes = jax.vmap(case)(*draws[0], ratios, *draws[1])
    np.testing.assert_allclose(gauges, ratios, rtol=RTOL)
    # A growing run may overflow; a stable one may end in rounding errors of the smallest numbers.
    ends = sizes[:, 3]
    grows = ~np.isfinite(ends) | ((ends > sizes[:, 1]) & (ends > SMALLEST))
    np.testing.assert_array_equal(grows, ratios > 1)


def quadratic(matrix):
    return lambda p: p @ matrix @ p / 2


def test_it_is_the_largest_eigenvalue_over_the_limit(x64):
    root = np.random.default_rng(0).normal(size=(100, 100))
    matrix, scales = root @ root.T, np.geomspace(0.1, 10, 100)
    scaled = np.linalg.eigvals(matrix / scales[:, None]).real.max()
    found = theory.edge_of_stability(
        quadratic(matrix),
        jnp.zeros(100),
        learning_rate=0.02,
        momentum=theory.ema(0.9),
        preconditioner=scales,
        iterations=64,
    )
    np.testing.assert_allclose(found, 0.02 * scaled / 38, rtol=1e-6)  # By 64 of 100 products.
    still = theory.edge_of_stability(
        quadratic(np.eye(2)),
        jnp.zeros(2),
        learning_rate=1.0,
        momentum=optax.identity(),
        preconditioner=np.array([np.inf, 4.0]),
    )
    np.testing.assert_allclose(still, 1 / 4 / 2, rtol=RTOL)


def test_a_finished_optimizer_has_its_rate():
    loss = quadratic(jnp.diag(jnp.array([1.0, 30.0])))
    rate, momentum = 0.1, optax.trace(0.9)
    apart = theory.edge_of_stability(loss, jnp.ones(2), learning_rate=rate, momentum=momentum)
    finished = nj.momentum(rate, decay=0.9)
    together = theory.edge_of_stability(loss, jnp.ones(2), learning_rate=1, momentum=finished)
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    np.testing.assert_allclose(apart, 3 / 3.8, rtol=1e-5)


def state_after(tx, steps=3):
    """Return parameters, the last gradients before them, and a state after some steps."""
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in PARAMS.items()}
    state = tx.init(params)
    for _ in range(steps):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        updates, state = tx.update(grads, state, params)
    return params, grads, updates, state


DIVIDERS = {
    "scale_by_adam": (nj.scale_by_adam(0.0, b2=0.9), {}),
    "scale_by_adam[amsgrad]": (nj.scale_by_adam(0.0, b2=0.9, amsgrad=True), {}),
    "scale_by_adam[biased]": (nj.scale_by_adam(0.0, b2=0.9, debias=False), {}),
    "scale_by_adam[eps]": (nj.scale_by_adam(0.0, b2=0.9, eps=0.5), {"eps": 0.5}),
    "optax.scale_by_adam": (optax.scale_by_adam(0.0, 0.9), {"b2": 0.9}),
    "optax.scale_by_rms": (optax.scale_by_rms(0.9), {}),
    "optax.scale_by_rss": (optax.scale_by_rss(), {}),
    "scale_by_factored_rms": (nj.scale_by_factored_rms(), {}),
    "scale_by_factored_rms[last]": (nj.scale_by_factored_rms(factored_dims="last"), {}),
    "scale_by_factored_rms[whole]": (nj.scale_by_factored_rms(factored=False), {}),
    "optax.scale_by_factored_rms": (optax.scale_by_factored_rms(min_dim_size_to_factor=2), {}),
    "in a chain": (optax.chain(optax.clip(9.0), optax.masked(nj.scale_by_adam(0.0), True)), {}),
}


@pytest.mark.parametrize("name", DIVIDERS)
def test_the_preconditioner_is_what_the_last_gradient_was_divided_by(name, x64):
    tx, given = DIVIDERS[name]
    params, grads, updates, state = state_after(tx)
    found = theory.preconditioner_of(state, params, **given)
    jax.tree.map(
        lambda p, g, u: np.testing.assert_allclose(g / p, u, rtol=1e-6), found, grads, updates
    )


def test_adagrad_does_not_move_what_it_has_not_seen():
    tx = optax.scale_by_rss(initial_accumulator_value=0.0)
    state = tx.update(jnp.array([3.0, 0.0]), tx.init(jnp.zeros(2)))[1]
    np.testing.assert_allclose(theory.preconditioner_of(state), [3, np.inf], rtol=1e-6)


@pytest.mark.parametrize(
    ("state", "given", "message"),
    [
        (optax.sgd(0.1).init(1.0), {}, "`opt_state` must hold one of nested_jax's ScaleByAdamS"),
        (optax.rmsprop(0.1, bias_correction=True).init(jnp.ones(2)), {}, "`opt_state` must hold"),
        (optax.adam(0.1).init(jnp.ones(2)), {}, "`b2` must be that of optax.scale_by_adam, got No"),
        (optax.adam(0.1).init(jnp.ones(2)), {"b2": 1.0}, r"`b2` must lie in \[0, 1\), got 1.0"),
        (nj.adam(0.1).init(jnp.ones(2)), {"eps": -1.0}, "`eps` must"),
        (nj.adafactor(0.1).init(jnp.ones((2, 3))), {}, "`params` must be given"),
        (
            nj.adafactor(0.1).init(jnp.ones((2, 3))),
            {"params": jnp.ones((4, 3))},
            "`params` must have the shapes of the moments",
        ),
    ],
)
def test_states_that_are_refused(state, given, message):
    with pytest.raises(ValueError, match=message):
        theory.preconditioner_of(state, **given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must"),
        ({"momentum": optax.scale_by_adam()}, ValueError, "`system` must be"),
        ({"momentum": optax.trace(1.0)}, ValueError, "spectral radius below 1"),
        ({"preconditioner": jnp.ones(3)}, ValueError, "`preconditioner` must have the structure"),
        ({"preconditioner": {"a": 1.0}}, ValueError, "`preconditioner` must have the structure"),
        ({"iterations": 0}, ValueError, "`iterations` must"),
    ],
)
def test_what_the_gauge_refuses(given, error, message):
    arguments = {"learning_rate": 0.1, "momentum": optax.identity()} | given
    with pytest.raises(error, match=message):
        theory.edge_of_stability(quadratic(np.eye(2)), jnp.ones(2), **arguments)


def test_a_preconditioner_that_cannot_be_right_is_nan():
    for wrong in (-1.0, np.nan):
        found = theory.edge_of_stability(
            quadratic(np.eye(2)),
            jnp.ones(2),
            learning_rate=0.1,
            momentum=optax.identity(),
            preconditioner=jnp.array([1.0, wrong]),
        )
        assert np.isnan(found)


@pytest.mark.slow
def test_adam_on_all_digits_at_once_hovers_at_its_edge():
    """As Cohen et al. (2022) report: once at 38 / rate, the largest curvature stays there."""
    data = sklearn.datasets.load_digits()
    images = jnp.asarray(data.data / 16.0, jnp.float32)
    targets = jax.nn.one_hot(data.target, 10)

    def loss(params):
        hidden = jnp.tanh(images @ params["inner"] + params["bias"])
        return jnp.mean(jnp.sum((hidden @ params["outer"] - targets) ** 2, 1)) / 2

    keys = jax.random.split(jax.random.key(0))
    params = {
        "inner": jax.random.normal(keys[0], (64, 32)) / 8,
        "bias": jnp.zeros(32),
        "outer": jax.random.normal(keys[1], (32, 10)) / 32**0.5,
    }
    problem = nj.Problem(
        init=lambda key: (params, None),
        draw=lambda key: None,
        observe=lambda draws, world: (None, world),
        loss=lambda p, batch: loss(p),
    )
    rate = 1e-2
    gauge = lambda p, state: theory.edge_of_stability(  # noqa: E731
        loss,
        p,
        learning_rate=rate,
        momentum=theory.ema(0.9),
        preconditioner=theory.preconditioner_of(state),
        iterations=16,
    )
    run = nj.rollout(nj.adam(rate), problem, jax.random.key(1), 2_000, stride=50, record=gauge)
    np.testing.assert_allclose(run.records[-20:], 1, atol=0.15)
