"""Tests of the collection as a whole: what one compiled program holds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj

STEPS = 25
# The same operations in another order of fusion: a few roundings of float64 a step.
RTOL = 1e-12
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
}


def test_one_compilation_for_a_grid_over_everything(x64):
    traces = []
    gradients = jnp.asarray(np.random.default_rng(0).standard_normal((STEPS, 3)))

    @jax.jit
    def trajectory(rate, decay, b1, b2, first_cycle, growth, clip, levels, weight_decay):
        traces.append(None)
        schedule = nj.warm_restarts(first_cycle, growth=growth)
        tx = optax.chain(
            nj.clip_by_block_rms(clip),
            nj.scale_by_adam(b1, b2=b2),
            nj.scale_by_nested_momentum(nj.nested_decays(levels, decay=decay, max_levels=4)),
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
    np.testing.assert_allclose(together, np.stack(alone), rtol=RTOL)
    assert len({float(path[-1, 0]) for path in together}) == 4, "all points are the same run"
