"""One update of a large model: every optimizer against optax's, side by side in one run.

The command: `python -m benchmarks.update_step`, or with `--leaves 96 --optimizers adamw`.

A model of `params` float32 parameters in `leaves` leaves, half of them square matrices and half
vectors, takes updates with parameters and state donated. Peers compute the same (this is checked)
and take turns; of the run times and the tracings minima count. Tracing and compiling are timed in
seconds of the processor, with all of JAX's caches empty, compiling once each. The last rows are of
the largest number of leaves, where those of one shape are held as one stack
(docs/howto/large_models.md).

Wall time 7 minutes on 2 CPU cores, a third of it XLA's for Adafactor at 2,048 leaves; memory
about 7 GB. Expected there, ours over optax's: run time .75 to 1.05; temporary memory 1; trace time
at most 1.1 from 96 leaves on, .8 for all but the plain momenta, .3 if factored. Compile times move
by half.
"""

import dataclasses
import gc
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import nested_jax as nj
from benchmarks import _report

TOLERANCE = 1e-5  # Parameters of order one in float32, after a few updates of at most 1.
CYCLE = 1_000  # Steps, for the normalized decay.
GOALS = {"run": 1.1, "trace": 1.1, "temporary": 1.01}
MANY = 96  # Leaves from which on goals are set: with few, a tracing takes 5 ms whatever is traced.


@dataclasses.dataclass(frozen=True)
class Config:
    """Time one update of a large model against optax's."""

    leaves: tuple[int, ...] = (8, 96, 768, 2048)
    """Numbers of leaves, each even."""
    params: int = 24_000_000
    """Number of parameters, about."""
    repeats: int = 10
    """Updates timed for each peer, of which the minimum counts."""
    tracings: int = 2
    """Tracings timed for each peer, of which the minimum counts."""
    optimizers: tuple[str, ...] = (
        "momentum",
        "nested_momentum",
        "nesterov",
        "adam",
        "adamw",
        "adafactor",
        "factored_adamw",
    )
    """Which optimizers."""
    everything: bool = False
    """Also `factored_adamw` beyond 768 leaves, where it takes XLA two minutes."""
    out: Path | None = None
    """JSON file to write the ratios to."""


def paper_rate(step):
    """Return Adafactor's relative step size, which optax leaves to the user."""
    return jnp.minimum(1e-2, 1 / jnp.sqrt(step + 1))


def nested_averages():
    """Return three averages in a row, of optax's."""
    averages = [optax.ema(0.95, debias=False) for _ in range(3)]
    return optax.chain(*averages, optax.scale_by_learning_rate(0.1))


def factored_pieces():
    """Return `factored_adamw` of optax's pieces, the nearest it has."""
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2),
        optax.clip_by_block_rms(1.0),
        optax.ema(0.9, debias=False),
        optax.scale_by_schedule(paper_rate),
        optax.scale_by_param_block_rms(),
        optax.add_decayed_weights(0.025 / math.sqrt(CYCLE)),
        optax.scale(-1.0),
    )


# Ours and optax's, computing the same.
PEERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "momentum": (lambda: nj.momentum(0.1, decay=0.9), lambda: optax.sgd(0.1, momentum=0.9)),
    "nested_momentum": (lambda: nj.nested_momentum(0.1, levels=4), nested_averages),
    "nesterov": (
        lambda: nj.nesterov(0.1, decay=0.9),
        lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (lambda: nj.adam(1e-3), lambda: optax.adam(1e-3)),
    "adamw": (
        lambda: nj.adamw(1e-3, weight_decay=1e-4, decay_times_rate=True),
        lambda: optax.adamw(1e-3, weight_decay=1e-4),
    ),
    "adafactor": (
        nj.adafactor,
        lambda: optax.adafactor(paper_rate, min_dim_size_to_factor=2),
    ),
    "factored_adamw": (lambda: nj.factored_adamw(schedule=nj.constant(CYCLE)), factored_pieces),
}
# Leaves of `factored_adamw`, which is compiled like `adafactor`, for minutes with more.
AFFORDABLE = 768
# These take a norm of each leaf, so that one of a stack is not one of its parts.
LEAFWISE = ("adafactor", "factored_adamw")


class Measured(NamedTuple):
    """What is known of one peer before it runs."""

    trace: float
    compile: float
    temporary: float
    step: Callable[..., Any]
    init: Callable[..., Any]


def model(leaves: int, params: int) -> dict[str, np.ndarray]:
    """Return random numbers in the shape of a model."""
    width = math.isqrt(2 * params // leaves)
    rng = np.random.default_rng(0)
    shapes = {f"kernel_{i}": (width, width) for i in range(leaves // 2)}
    shapes |= {f"bias_{i}": (width,) for i in range(leaves // 2)}
    return {n: rng.standard_normal(shape, np.float32) for n, shape in shapes.items()}


def in_stacks(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the same model with leaves of one shape along the first axis of one."""
    kinds = {name.split("_")[0] for name in params}
    return {k: np.stack([x for n, x in params.items() if n.startswith(k)]) for k in sorted(kinds)}


def over_stacks(tx: Any) -> Any:
    """Return `tx` for a model in stacks, each leaf of a stack on its own."""
    return optax.GradientTransformation(jax.vmap(tx.init), jax.vmap(tx.update))


def measure(makers: list[Callable[[], Any]], params: Any, tracings: int) -> list[Measured]:
    """Trace and compile one update of each peer."""
    lowered, inits = [], []
    seconds: list[list[float]] = [[] for _ in makers]
    for tracing in range(tracings):
        for peer, make in enumerate(makers):
            tx = make()
            like = jax.eval_shape(tx.init, params)
            jax.clear_caches()
            gc.collect()
            start = time.process_time()
            traced = _jitted(tx).trace(params, like, params)
            seconds[peer].append(time.process_time() - start)
            if tracing == tracings - 1:
                inits.append(jax.jit(tx.init))
                lowered.append(traced.lower())
    return [
        _compiled(min(s), low, init) for s, low, init in zip(seconds, lowered, inits, strict=True)
    ]


def _jitted(tx: Any) -> Any:
    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def _compiled(trace: float, lowered: Any, init: Any) -> Measured:
    start = time.process_time()
    step = lowered.compile()
    seconds = time.process_time() - start
    memory = step.memory_analysis()
    # A few bytes are nothing, and no ratio.
    temporary = math.nan if memory is None else round(memory.temp_size_in_bytes / 1e6, 1)
    return Measured(trace, seconds, temporary, step, init)


def run(peers: list[Measured], params: Any, repeats: int) -> list[float]:
    """Return the least seconds of one update of each peer; raise where they disagree."""
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
    return [min(own[2:]) for own in times]


def compare(config: Config, name: str, leaves: int, *, stacked: bool) -> dict[str, list[float]]:
    """Return what ours and optax's cost: seconds, and megabytes of temporary memory."""
    makers, params = list(PEERS[name]), model(leaves, config.params)
    if stacked:
        params = in_stacks(params)
        if name in LEAFWISE:
            makers = [lambda make=make: over_stacks(make()) for make in makers]
    peers = measure(makers, params, config.tracings)
    costs = {"run": run(peers, params, config.repeats)}
    return costs | {c: [getattr(p, c) for p in peers] for c in ("trace", "compile", "temporary")}


def ratio(a: float, b: float) -> float:
    """Return a / b, and 1 of nothing over nothing."""
    return 1.0 if a == b else a / b if b else math.inf


def main(config: Config) -> None:
    """Measure, print one table and write the ratios."""
    jax.config.update("jax_enable_compilation_cache", False)
    table = Table(title=f"One update of {config.params:,} parameters: nested_jax / optax = ratio")
    for column in ("optimizer", "leaves", "run ms", "trace s", "compile s", "temporary MB"):
        table.add_column(column, no_wrap=True)
    ratios, goals, found = {}, {}, {}
    for name in config.optimizers:
        measure(list(PEERS[name]), model(2, 2), 1)  # What is imported late is not to be timed.
        long = name == "factored_adamw" and not config.everything
        numbers = [n for n in config.leaves if not long or n <= AFFORDABLE] or [AFFORDABLE]
        for leaves, stacked in [*((n, False) for n in numbers), (max(numbers), True)]:
            costs = compare(config, name, leaves, stacked=stacked)
            case = f"{leaves:,} in 2 stacks" if stacked else f"{leaves:,}"
            cells = []
            for cost, (a, b) in costs.items():
                key = f"{name}, {case} leaves, {cost}: nested_jax / optax"
                ratios[key] = ratio(a, b)
                if cost in GOALS and leaves >= MANY and not stacked:
                    goals[key] = GOALS[cost]
                scale = 1e3 if cost == "run" else 1
                cells.append(f"{a * scale:.3g} / {b * scale:.3g} = {ratio(a, b):.2f}")
            found[f"{name}, {case} leaves"] = costs
            table.add_row(name, case, *cells)
    Console(width=150).print(table)
    if config.out:
        _report.write(config.out, _report.record(config, ratios, goals, found))


if __name__ == "__main__":
    import tyro  # Not above: `benchmarks.gpu`, which uses parts of this, does without.

    main(tyro.cli(Config))
