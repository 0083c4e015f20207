"""The gauge of the edge of stability along runs of the language model, and the spikes of its loss.

A reading is taken every `STRIDE` steps, on a fixed batch of the training part. A spike begins at a
reading whose loss is above `RISE` times the smallest of the `BEFORE` readings before it, or not
finite, unless the reading before was in a spike already.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.lab import Lab
from experiments.timescales.config import STRIDE, Config
from experiments.timescales.tasks import Task, characters, spread_windows
from experiments.timescales.text import Text
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

GAUGED = ("momentum", "adam")
"""Methods whose momentum is linear and whose preconditioner is known."""
FACTORS = (1.0, 8.0)
"""Multiples of the tuned learning rate."""
PROBES = 64
"""Windows of the fixed batch."""
ITERATIONS = 12
"""Hessian-vector products of each reading."""
RISE = 1.1
BEFORE = 5


class Counts(NamedTuple):
    """What the gauge said at the spikes of some runs.

    Attributes:
        spikes: Spikes of the loss.
        foreseen: Those before which the gauge was above 1, in one of `BEFORE` readings.
        passed: Times that the gauge rose above 1 outside of a spike.
        alone: Those of them that no spike followed within `BEFORE` readings.
        above: Share of all readings outside of spikes that were above 1.
    """

    spikes: int
    foreseen: int
    passed: int
    alone: int
    above: float


def simulate(
    config: Config, lab: Lab, text: Text, task: Task, key: jax.Array, chosen: dict[str, dict]
) -> "xr.Dataset":
    """Read the gauge along runs at multiples of the tuned learning rate.

    Args:
        config: The options.
        lab: Where to run.
        text: What is learned.
        task: The language model.
        key: That of the reported runs.
        chosen: Name of a method -> its tuned hyperparameters.

    Returns:
        `gauge` and `loss`, that of the fixed batch, over optimizer, factor, seed and step.
    """
    import xarray as xr

    probes = jnp.asarray(spread_windows(text.train, PROBES, config.context))
    found = []
    for name in GAUGED:
        run = Partial(_function(config, text, name, chosen[name]), task.data[0], probes, key)
        grid = nj.Grid(factor=FACTORS, seed=range(config.text_seeds))
        results = lab.sweep("gauge", run, grid, piece=name)
        arrays = {one: results[one].rename({f"{one}_0": "step"}) for one in ("gauge", "loss")}
        found.append(xr.Dataset(arrays).assign_coords(optimizer=name))
    steps = STRIDE * (1 + np.arange(config.text_steps // STRIDE))
    return xr.concat(found, "optimizer", combine_attrs="drop").assign_coords(step=steps)


def _function(config: Config, text: Text, name: str, chosen: dict[str, float]) -> Any:
    problem = characters(config, text.symbols)

    def run(train: Any, probes: Any, key: Any, factor: Any, seed: Any) -> dict[str, jax.Array]:
        key_init, key_draw = jax.random.split(jax.random.fold_in(key, seed))
        rate = factor * chosen["learning_rate"]
        if name == "adam":
            tx, momentum = nj.adam(rate, b1=chosen["b1"]), theory.ema(chosen["b1"])
        else:
            decay = chosen["decay"]
            tx, momentum = nj.momentum(rate, decay=decay), theory.heavy_ball(decay)

        def on_probes(params: Any) -> jax.Array:
            return problem.loss(params, probes)

        def record(params: Any, opt_state: Any) -> Any:
            divided = theory.preconditioner_of(opt_state) if name == "adam" else None
            reading = theory.edge_of_stability(
                on_probes,
                params,
                learning_rate=rate,
                momentum=momentum,
                preconditioner=divided,
                iterations=ITERATIONS,
            )
            return reading, on_probes(params)

        options = {"stride": STRIDE, "record": record}
        initial = problem.init(key_init)[0], train
        trace = nj.rollout(tx, problem, key_draw, config.text_steps, initial=initial, **options)
        return dict(zip(("gauge", "loss"), trace.records, strict=True))

    return run


def in_spike(losses: np.ndarray) -> np.ndarray:
    """Tell which readings of a run are in a spike of its loss."""
    spiking = np.zeros(len(losses), bool)
    for t, loss in enumerate(losses):
        before = losses[max(t - BEFORE, 0) : t]
        smallest = min(before[np.isfinite(before)], default=np.inf)
        spiking[t] = not np.isfinite(loss) or loss > RISE * smallest
    return spiking


def onsets(losses: np.ndarray) -> np.ndarray:
    """Return the readings at which spikes begin."""
    spiking = in_spike(losses)
    return np.flatnonzero(spiking & ~np.append(False, spiking[:-1]))


def counted(losses: np.ndarray, gauges: np.ndarray) -> Counts:
    """Compare spikes and gauge; both arguments have shape (runs, readings)."""
    spikes = foreseen = passed = alone = above = outside = 0
    for loss, gauge in zip(losses, gauges, strict=True):
        begun, high, calm = onsets(loss), gauge > 1, ~in_spike(loss)
        spikes += len(begun)
        foreseen += sum(bool(high[max(t - BEFORE, 0) : t].any()) for t in begun)
        risen = np.flatnonzero(high & calm & ~np.append(False, high[:-1]))
        passed += len(risen)
        alone += sum(not ((begun > t) & (begun <= t + BEFORE)).any() for t in risen)
        above, outside = above + int((high & calm).sum()), outside + int(calm.sum())
    return Counts(spikes, foreseen, passed, alone, above / max(outside, 1))
