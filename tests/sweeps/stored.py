"""What the tests of the store share: a sweep in chunks, and what lies in its folder."""

import jax
import jax.numpy as jnp

import nested_jax as nj

# As long as wide, so that there are as many chunks whichever axis is cut.
GRID = nj.Grid(word=["a", "bc"], rate=[0.1, 0.2, 0.3], seed=range(3))
CHUNKS = 6  # Of three runs each.


def run(word, rate, seed):
    noise = jax.random.normal(jax.random.key(seed), (3,))
    return {"loss": jnp.sum(jnp.sin(rate * noise)) * len(word), "noise": noise * rate}


def sweep(store=None, run=run, grid=GRID, **options):
    return nj.sweep(run, grid, **({"chunk": 3, "store": store} | options))


def chunks(store):
    return sorted(store.glob("chunk-*"))


def contents(store):
    return {path.name: path.read_bytes() for path in store.iterdir()}
