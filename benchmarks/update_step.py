"""One update of a large model: AdamW and Adafactor against optax's, side by side in one run.

The command: `python -m benchmarks.update_step`, or with `--leaves 96 --repeats 50`.

A model of `params` float32 parameters in `leaves` leaves, half of them square matrices and half
vectors, takes updates with parameters and state donated. Peers compute the same (this is checked)
and take turns, so that what else the machine does meets both; of the times, medians are shown.
Tracing and compiling are timed once each, with all of JAX's caches empty.

Wall time 2 to 5 minutes on 2 CPU cores, memory about 3 GB. Expected there, ours over optax's: run
time 0.95 to 1.05 for AdamW and 0.8 to 1 for Adafactor, temporary memory 1, and for Adafactor a
trace time of at most 0.25 from 96 leaves on. Compile times of a busy machine move by half.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table

import nested_jax as nj

TOLERANCE = 1e-5  # Parameters of order one in float32, after a few updates of at most 1e-2.


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    leaves: tuple[int, ...] = (8, 96, 768)
    """Numbers of leaves, each even."""
    params: int = 48_000_000
    """Number of parameters, about."""
    repeats: int = 20
    """Updates timed for each peer."""
    optimizers: tuple[str, ...] = ("adamw", "adafactor")
    """Which optimizers."""


def paper_rate(step):
    """Return Adafactor's relative step size, which optax leaves to the user."""
    return jnp.minimum(1e-2, 1 / jnp.sqrt(step + 1))


# Ours and optax's, computing the same.
PEERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "adamw": (
        lambda: nj.adamw(1e-3, weight_decay=1e-4, decay_times_rate=True),
        lambda: optax.adamw(1e-3, weight_decay=1e-4),
    ),
    "adafactor": (
        nj.adafactor,
        lambda: optax.adafactor(paper_rate, min_dim_size_to_factor=2),
    ),
}


class Measured(NamedTuple):
    """What is known of one peer before it runs."""

    trace_s: float
    compile_s: float
    temp_mb: float
    step: Callable[..., Any]
    init: Callable[..., Any]


def model(leaves: int, params: int) -> dict[str, np.ndarray]:
    """Return random numbers in the shape of a model."""
    width = math.isqrt(2 * params // leaves)
    rng = np.random.default_rng(0)
    shapes = {f"kernel_{i}": (width, width) for i in range(leaves // 2)}
    shapes |= {f"bias_{i}": (width,) for i in range(leaves // 2)}
    return {n: rng.standard_normal(shape, np.float32) for n, shape in shapes.items()}


def measure(make: Callable[[], Any], params: Any) -> Measured:
    """Trace and compile one update."""
    tx = make()

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    jax.clear_caches()
    like = jax.eval_shape(tx.init, params)
    start = time.perf_counter()
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, like, params)
    trace_s = time.perf_counter() - start
    start = time.perf_counter()
    compiled = traced.lower().compile()
    compile_s = time.perf_counter() - start
    memory = compiled.memory_analysis()
    temp_mb = math.nan if memory is None else memory.temp_size_in_bytes / 1e6
    return Measured(trace_s, compile_s, temp_mb, compiled, jax.jit(tx.init))


def run(peers: list[Measured], params: Any, repeats: int) -> list[float]:
    """Return the median seconds of one update of each peer; raise where they disagree."""
    gradients = jax.device_put(jax.tree.map(lambda x: x[..., ::-1].copy(), params))
    # A copy for each peer, as each update overwrites what it is given.
    thetas = [jax.tree.map(jnp.array, params) for _ in peers]
    states = [peer.init(params) for peer in peers]
    times: list[list[float]] = [[] for _ in peers]
    for repeat in range(repeats + 2):
        for i, peer in enumerate(peers):
            start = time.perf_counter()
            thetas[i], states[i] = jax.block_until_ready(peer.step(thetas[i], states[i], gradients))
            times[i].append(time.perf_counter() - start)
        if repeat == 1:
            apart = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y))), *thetas)
            if max(jax.tree.leaves(apart)) > TOLERANCE:
                raise ValueError(f"The peers are {max(jax.tree.leaves(apart))} apart.")
    return [statistics.median(own[2:]) for own in times]


def main(config: Config) -> None:
    """Measure and print one table."""
    jax.config.update("jax_enable_compilation_cache", False)
    table = Table(title=f"One update of {config.params:,} parameters: nested_jax / optax = ratio")
    for column in ("optimizer", "leaves", "run ms", "trace s", "compile s", "temporary MB"):
        table.add_column(column, no_wrap=True)
    for name in config.optimizers:
        for make in PEERS[name]:
            measure(make, model(2, 2))  # What is imported late is not to be timed.
        for leaves in config.leaves:
            params = model(leaves, config.params)
            peers = [measure(make, params) for make in PEERS[name]]
            columns = [
                [1e3 * seconds for seconds in run(peers, params, config.repeats)],
                *([getattr(p, f) for p in peers] for f in ("trace_s", "compile_s", "temp_mb")),
            ]
            cells = [f"{a:.3g} / {b:.3g} = {a / b if b else math.nan:.2f}" for a, b in columns]
            table.add_row(name, str(leaves), *cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
