"""Tests of which programs have lanes, and of optimizers in lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import nested_jax as nj
from nested_jax.sweeps.engine import _evaluation
from nested_jax.sweeps.lanes import _layout
from tests.sweeps.test_layout import RUN_RTOL, assert_is_vmap, job_of, layout_of, stream

# --- Choice ---

MANY = np.linspace(0.01, 0.1, 64)


def network(rate, seed):
    x = jax.random.normal(jax.random.key(seed), (32, 8))

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params[0]) @ params[1] - x[:, :1] ** 2) ** 2)

    def step(params, _):
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params)), None

    start = jnp.full((8, 16), 0.1), jnp.full((16, 1), 0.1)
    return {"loss": loss(lax.scan(step, start, length=200)[0])}


def repeated(body, entries=3, steps=200):
    """Return a run of many steps of `body`, a function of (x, rate)."""

    def run(rate):
        start = jnp.linspace(0.1, 0.2, entries)
        return {"x": lax.scan(lambda x, _: (body(x, rate), None), start, length=steps)[0]}

    return run


def shout(x):
    jax.debug.print("{}", x)
    return x


def in_two_sums(x, y):
    added = lambda p, q: (p[0] + q[0], p[1] + q[1])  # noqa: E731
    return lax.reduce((x, y), (0.0, 0.0), added, (0,))[0]


VMAPPED = {
    "a network": (network, {"rate": MANY, "seed": range(2)}),
    "few points": (repeated(lambda x, r: r * x), {"rate": MANY[:63]}),
    "few steps": (repeated(lambda x, r: r * x, steps=99), {"rate": MANY}),
    "no loop": (lambda rate: {"x": rate * jnp.arange(3.0)}, {"rate": MANY}),
    "large arrays": (repeated(lambda x, r: r * x, 65), {"rate": MANY}),
    "a branch": (
        repeated(lambda x, r: lax.cond(x[0] > r, lambda: x, lambda: x * r)),
        {"rate": MANY},
    ),
    "a loop without a count": (
        repeated(lambda x, r: lax.while_loop(lambda y: y[0] < r, lambda y: 2 * y, x)),
        {"rate": MANY},
    ),
    "effects": (repeated(lambda x, r: shout(r * x)), {"rate": MANY}),
    "others": (repeated(lambda x, r: jnp.sort(r * x)), {"rate": MANY}),
    "a function of its own": (repeated(lambda x, r: r * x + in_two_sums(x, r * x)), {"rate": MANY}),
    "alike in all runs": (
        lambda rate: {"x": repeated(lambda x, r: jnp.sin(x))(0.1)["x"] * rate},
        {"rate": MANY},
    ),
}
IN_LANES = {
    "a loop": (repeated(lambda x, r: r * x), {"rate": MANY}),
    "just enough steps": (repeated(lambda x, r: r * x, steps=100), {"rate": MANY}),
    "just small enough": (repeated(lambda x, r: r * x, 64), {"rate": MANY}),
    "a regression": (stream, {"rate": MANY, "seed": [0], "levels": [1, 2]}),
    "larger where pieces pay": (
        lambda rate, levels: repeated(lambda x, r: jnp.where(levels > 1, jnp.sin(x), r * x), 500)(
            rate
        ),
        {"rate": MANY, "levels": [1, 2]},
    ),
}


@pytest.mark.parametrize(("run", "axes"), VMAPPED.values(), ids=VMAPPED)
def test_vmapped_are(run, axes):
    assert layout_of(run, **axes) is None


@pytest.mark.parametrize(("run", "axes"), IN_LANES.values(), ids=IN_LANES)
def test_in_lanes_are(run, axes):
    assert layout_of(run, **axes) is not None
    assert job_of(run, **axes).layouts("NVIDIA A100-SXM4-40GB") == (None,)


# --- Optimizers ---


def noisy(rate, decay):
    links = optax.centralize(), optax.add_noise(0.01, 0.55, 0), optax.ema(decay)
    return optax.chain(*links, optax.sgd(rate))


OPTIMIZERS = {
    "nested momentum": lambda rate, decay: nj.nested_momentum(rate, levels=3, decay=decay),
    "debiased": lambda rate, decay: nj.nested_momentum(rate, levels=3, decay=decay, debias=True),
    "zero lag": lambda rate, decay: nj.nested_momentum(
        rate, levels=3, decay=decay, readout="zero_lag"
    ),
    "mean": lambda rate, decay: nj.nested_momentum(rate, levels=3, decay=decay, readout="mean"),
    "nesterov": lambda rate, decay: nj.nesterov(rate, decay=decay),
    "momentum": lambda rate, decay: nj.momentum(rate, decay=decay),
    "adam": lambda rate, decay: nj.adam(rate, b1=decay),
    "amsgrad": lambda rate, decay: nj.adam(rate, b1=decay, amsgrad=True),
    "adamw": lambda rate, decay: nj.adamw(
        rate,
        weight_decay=0.01,
        b1=decay,
        normalized=True,
        schedule=nj.with_warmup(nj.cosine(120), 10),
    ),
    "adafactor": lambda rate, decay: nj.adafactor(b1=decay, decay_rate=1 - rate),
    "adafactor, not factored": lambda rate, decay: nj.adafactor(
        rate, b1=decay, factored=False, relative_step=False
    ),
    "clipped": lambda rate, decay: optax.chain(
        nj.clip_by_block_rms(decay),
        optax.clip_by_global_norm(decay),
        optax.clip(0.1),
        optax.sgd(rate),
    ),
    "metrics": lambda rate, decay: nj.with_metrics(nj.momentum(rate, decay=decay)),
    "optax.adamw": lambda rate, decay: optax.adamw(rate, decay),
    "optax.lion": lambda rate, decay: optax.lion(rate, decay),
    "optax.sgd": lambda rate, decay: optax.sgd(rate, decay),
    "optax.chain": noisy,
    "injected": lambda rate, decay: optax.inject_hyperparams(optax.adam)(rate, b1=decay),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_are_in_lanes(x64, optimizer):
    def run(rate, decay):
        tx = optimizer(rate, decay)
        params = {"weight": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "bias": jnp.ones(2)}

        def loss(params, target):
            out = params["weight"] @ jnp.array([1.0, -0.5, 2.0]) + params["bias"]
            return jnp.sum((out - target) ** 2)

        def step(carry, target):
            value, gradient = jax.value_and_grad(loss)(carry[0], target)
            update, state = tx.update(gradient, carry[1], carry[0])
            return (optax.apply_updates(carry[0], update), state), value

        targets = jnp.sin(jnp.arange(120.0))  # Losses do not become as small as rounding.
        (params, _), losses = lax.scan(step, (params, tx.init(params)), targets)
        return {"loss": losses[::30], **params}

    assert_is_vmap(job_of(run, rate=MANY[:32], decay=[0.9, 0.5]), RUN_RTOL)


def test_rollouts_are_in_lanes(x64, monkeypatch):
    def run(rate, levels, seed):
        tx = nj.with_metrics(nj.nested_momentum(rate, levels=levels, max_levels=3))
        trace = nj.rollout(
            tx,
            nj.quadratic([1.0, 0.5, 0.1], noise_std=0.1),
            jax.random.key(seed),
            120,
            warmup=20,
            bound=1.0,
            stride=40,
            record=lambda params, state: {"norm": nj.metrics_of(state).gradient_norm, "x": params},
        )
        names = "mean_loss", "loss_curve", "diverged_at", "diverged"
        return {name: getattr(trace, name) for name in names} | trace.records

    monkeypatch.setattr(_layout, "FOREIGN_SHARE", 1.0)  # Few runs share their draws.
    assert_is_vmap(job_of(run, rate=MANY[:16], levels=[2, 1, 3], seed=[3, 1]), RUN_RTOL)


def test_the_layout_can_be_chosen(monkeypatch):
    """Lanes even where they would not pay, vmap even where they would; within rounding."""
    taken = []
    evaluate = _evaluation.evaluate_in_lanes
    monkeypatch.setattr(
        _evaluation, "evaluate_in_lanes", lambda *args: taken.append(1) or evaluate(*args)
    )

    def swept(length, layout):
        def run(rate, power):
            def step(x, _):
                return x - rate * x**power, None

            return {"x": jax.lax.scan(step, 1.0, length=length)[0]}

        grid = nj.Grid(rate=np.linspace(0.1, 0.5, 16), power=np.linspace(1, 2, 8))
        taken.clear()
        results = nj.sweep(run, grid, layout=layout, progress=False)
        return results.x, bool(taken)

    for length, pays in ((3, False), (300, True)):
        vmapped, in_lanes = swept(length, "vmap")
        assert not in_lanes
        for layout, expected in (("auto", pays), ("lanes", True)):
            values, in_lanes = swept(length, layout)
            assert in_lanes == expected
            np.testing.assert_allclose(values, vmapped, rtol=1e-5, atol=1e-30)  # float32's powers.
    with pytest.raises(ValueError, match="`layout` must be one of 'auto', 'lanes', 'vmap', got"):
        swept(3, "columns")
