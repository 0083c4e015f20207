"""Time updates of M3 against optax's Muon at as many Newton-Schulz steps.

    python -m benchmarks.matrix_step

Both orthogonalize a momentum in every update. M3 also keeps a second moment and a slow memory,
which it orthogonalizes once every `period` updates, so whole periods are timed. Peers take turns at
every update, and the fastest period of each counts.

About a minute on 2 CPU cores. Expected: 0.7 to 0.9.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import nested_jax as nj
from benchmarks import _report

M3, MUON = "nested_jax, scale_by_m3", "optax, scale_by_muon"
GOAL = 1.1
MODELS = {
    "one of 512 x 512": [(512, 512)],
    "a tree of 6": [(256, 256), (256, 512), (512, 256), (384, 128), (128, 384), (256, 64)],
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time updates of M3 against optax's Muon."""

    period: int = 32
    """Updates between two changes of M3's slow memory."""
    ns_steps: int = 5
    """Newton-Schulz steps of both."""
    repeats: int = 5
    """Periods, of which the minimum counts."""
    out: Path | None = None
    """JSON file to write the record to."""


def peers(config: Config) -> dict[str, optax.GradientTransformation]:
    """Return the two transforms."""

    def axes(tree):
        return jax.tree.map(lambda x: optax.contrib.MuonDimensionNumbers(), tree)

    return {
        M3: nj.scale_by_m3(period=config.period, ns_steps=config.ns_steps),
        MUON: optax.contrib.scale_by_muon(
            ns_steps=config.ns_steps, nesterov=False, weight_dimension_numbers=axes
        ),
    }


def measure(config: Config, shapes: list[tuple[int, int]]) -> dict[str, list[float]]:
    """Return the seconds of each period by peer."""
    rng = np.random.default_rng(0)
    gradients = [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]
    updates, states = {}, {}
    for name, tx in peers(config).items():
        updates[name], states[name] = jax.jit(tx.update, donate_argnums=1), tx.init(gradients)
        _, states[name] = updates[name](gradients, states[name])  # Compiles.
    seconds: dict[str, list[float]] = {name: [0.0] * config.repeats for name in updates}
    for repeat in range(config.repeats):
        for _ in range(config.period):
            for name, update in updates.items():
                start = time.perf_counter()
                out: Any = jax.block_until_ready(update(gradients, states[name]))
                seconds[name][repeat] += time.perf_counter() - start
                states[name] = out[1]
    return seconds


def main(config: Config) -> None:
    """Measure both models, print their tables and write the ratios."""
    ratios, goals, found = {}, {}, {}
    for model, shapes in MODELS.items():
        seconds = measure(config, shapes)
        title = f"{config.period} updates of {model}; {_report.machine()}"
        _report.show_times(title, seconds, MUON, {}, [])
        for name, ratio in _report.quotients(seconds, [(M3, MUON)]).items():
            ratios[f"{model}: {name}"], goals[f"{model}: {name}"] = ratio, GOAL
        found[model] = seconds
    _report.finish(config, _report.record(config, ratios, goals, found))


if __name__ == "__main__":
    main(tyro.cli(Config))
