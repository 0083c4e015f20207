"""What the tests of sweeps in stages share: a descent in stages, of which some runs diverge."""

import jax
import jax.numpy as jnp

import nested_jax as nj

STAGES = 9


def descend(rate, seed, word="a", scale=1.0):
    """Descend a bowl with noise: a state of keys, counts, narrow floats and vectors."""

    def init():
        key = jax.random.key(seed)
        return {
            "x": jax.random.normal(key, (5,)),
            "key": key,
            "steps": 0,
            # A state of another structure for another word.
            "narrow": tuple(jnp.zeros((2,), jnp.bfloat16) for _ in word),
        }

    def step(state, _):
        key, key_noise = jax.random.split(state["key"])
        noise = jax.random.normal(key_noise, (5,))
        x = state["x"] - rate * scale * (state["x"] + 0.1 * noise)
        narrow = tuple(each + 1 for each in state["narrow"])
        return {"x": x, "key": key, "steps": state["steps"] + 1, "narrow": narrow}, None

    def advance(state, stage):
        return jax.lax.scan(step, state, length=8)[0]

    def report(state):
        loss = jnp.sum(jnp.square(state["x"]))
        return {"loss": loss, "x": state["x"], "steps": state["steps"] + 0 * len(word)}

    return nj.Stages(init, advance, report, stages=STAGES)


# Rates above 2 diverge, faster the larger they are.
RATES = [2.5, 0.3, 9.0, 0.1, 50.0, 1.0, 1e3, 0.5, 2.2, 1e30]
GRID = nj.Grid(word=["a", "bc"], rate=RATES, seed=range(3))


def sweep(stop, grid=GRID, run=descend, **options):
    return nj.sweep(run, grid, stop=stop, **({"chunk": 6} | options))
