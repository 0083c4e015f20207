"""The report of the Adafactor experiment."""

import itertools

import numpy as np
import xarray as xr

from experiments import lab
from experiments.adafactor import figures, numbers
from experiments.adafactor.clipping import clipping
from experiments.adafactor.config import Config
from experiments.adafactor.runs import BATCHES, BETAS, CAP, CONSTANT, PAPER, STEPS
from experiments.lab.figures import factor, number

DECAYS = """
RMS(u), of u = g / √V before clipping, shows whether V keeps up with the gradients: 1 is healthy,
above 1 V lags behind. Runs have the paper's step. Constant decays are not corrected, except for the
last one, so u begins too large by 1 / √(1 − β₂). The decay 1 − t⁻¹ gives the mean of all squares so
far; 0.999 with correction does so at first.
"""
SHIFT = """
Half-way, every class takes the label of the next one. The gradients grow at once, so every V is
stale; how stale and for how long depends on the memory of the decay. V counts as stale until the
mean of RMS(u) over seeds is at most 1 again.
"""
FACTORED = f"""
V is the mean of squared gradients over {BATCHES} batches of a trained network, with a row for each
input of a layer. Adafactor stores its row sums R and column sums C, and uses V̂ = R Cᵀ / ΣV. The
loss is the generalized KL divergence Σ V log(V / V̂) − V + V̂, divided by ΣV: 0 is exact. No
rank-one matrix has a smaller one. That of singular values has the least squared error, so it fits
the largest entries. Rows or columns alone are means over the other axis.
"""
RAMPS = f"""
The second moment has the paper's decay, {PAPER}. The relative step is the paper's,
min({CAP:g}, 1/√t) times RMS(θ); the same with a ramp-up over the first tenth of the run; and the
same with ramp-up and cosine decay.
"""
MEMORY = """
The state's bytes are those of its arrays after `init`. XLA's are those of the compiled update, with
state and gradients donated: its arguments without gradients and parameters, and its temporaries.
Clipping needs whole updates before it can scale them. That memory is free again after the step.
"""


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    training = results["training"]
    at_cap = training.sel(cap=CAP, method="nearest")
    return [
        clipping(training.sel(step="relative"), results["shift"]),
        _factored(results["factored"]),
        _decays(at_cap.sel(step="relative")),
        _shift(results["shift"]),
        _steps(at_cap.sel(beta2=PAPER)),
        _memory(results["memory"]),
    ]


def _factored(moments: xr.Dataset) -> lab.Section:
    found = numbers.divergences(moments)
    layer = str(found.layer.values[0])
    cells = {str(name): found.sel(approximation=name) for name in found.approximation.values}
    first = {name: factor(runs.sel(layer=layer)) for name, runs in cells.items()}
    best, *others = first
    rows = [
        [name, *(factor(runs.sel(layer=at)) for at in found.layer.values)]
        for name, runs in cells.items()
    ]
    return lab.Section(
        title="What does a factored second moment lose?",
        answer=f"On the {layer} layer, {best} lose {first[best]} of the second moment's sum in KL "
        f"divergence. The losses of other approximations are "
        f"{', '.join(f'{first[name]} ({name})' for name in others)}.",
        body=FACTORED,
        figures={
            "factored": (
                figures.factored(found),
                "KL divergence / ΣV of each approximation: geometric means over seeds, with 95 % "
                "intervals.",
            )
        },
        tables=[
            lab.Table(
                "KL divergence / ΣV, geometric means with 95 % intervals over seeds",
                ["approximation", *(f"{at} layer" for at in found.layer.values)],
                rows,
            )
        ],
    )


def _decays(runs: xr.Dataset) -> lab.Section:
    free, clipped = figures.by_clipping(runs)
    first, largest = free.update_rms.isel(t=0), free.update_rms.max("t")
    late = free.update_rms.isel(t=free.t.values > free.t.values[-1] / 2).mean("t")
    ratio = first.sel(beta2=CONSTANT) / first.sel(beta2=PAPER)
    factor = clipped.clip_factor.sel(beta2=CONSTANT).isel(t=0)
    return lab.Section(
        title="How does the decay of the second moment change RMS(u)?",
        answer=f"The first update of a constant β₂ = {CONSTANT} is {number(ratio)} times that of a "
        f"schedule, and clipping multiplies it by {number(factor)}. With the paper's {PAPER}, "
        f"RMS(u) is {number(largest.sel(beta2=PAPER))} at most and {number(late.sel(beta2=PAPER))} "
        "late in the run.",
        body=DECAYS,
        figures={
            "gauges": (
                figures.gauges(runs, runs.t, figures.TIME),
                "Largest RMS(u) of a leaf, without and with clipping, and the smallest factor by "
                "which clipping multiplied a leaf. Bands are 95 % intervals over seeds.",
            )
        },
    )


def _shift(results: xr.Dataset) -> lab.Section:
    half = int(results.t[-1]) // 2
    before = results.isel(t=(results.t.values > half // 2) & (results.t.values <= half))
    after = results.isel(t=results.t.values > half)
    since = after.t.values - half
    free, clipped = figures.by_clipping(after)
    peaks = free.update_rms.max("t")
    usual = figures.by_clipping(before)[0].update_rms.mean("t")
    columns = usual, peaks, clipped.clip_factor.min("t")
    rows = []
    for beta2 in BETAS:
        gauges = (x.update_rms.sel(beta2=beta2).values for x in (free, clipped))
        cells = (number(column.sel(beta2=beta2)) for column in columns)
        rows.append([beta2, *cells, *(_stale(gauge, since) for gauge in gauges)])
    header = ["β₂", "RMS(u) before", "largest after", "smallest clip factor"]
    header += ["stale for [steps], unclipped", "clipped"]
    rises = (f"{number(peaks.sel(beta2=name))} with {name}" for name in (BETAS[0], PAPER, CONSTANT))
    return lab.Section(
        title="What happens when the gradients change?",
        answer=f"The second moment becomes stale: RMS(u) rises to {', to '.join(rises)}.",
        body=SHIFT,
        figures={
            "shift": (
                figures.gauges(after, since, "steps since the change [steps]"),
                "RMS(u) and clip factor after the labels changed. Bands are 95 % intervals over "
                "seeds.",
            )
        },
        tables=[
            lab.Table("Before and after the change, with 95 % intervals over seeds", header, rows)
        ],
    )


def _stale(rms: np.ndarray, since: np.ndarray) -> str:
    """Return the first of the reported steps at which the mean over seeds is at most 1."""
    healthy = np.flatnonzero(rms.mean(0) <= 1)
    return f"{since[healthy[0]]:,}" if healthy.size else f"over {since[-1]:,}"


def _steps(runs: xr.Dataset) -> lab.Section:
    _, clipped = figures.by_clipping(runs)
    columns = clipped.update_rms.max("t"), clipped.train_loss, 100 * clipped.test_error
    gauges, losses, errors = ([number(x.sel(step=step)) for step in STEPS] for x in columns)
    return lab.Section(
        title="Do ramp-up and decay of the step help?",
        answer=f"The last training loss is {losses[0]} with the paper's step, {losses[1]} with a "
        f"ramp-up, and {losses[2]} with ramp-up and decay. The largest RMS(u) is {gauges[0]}, "
        f"{gauges[1]} and {gauges[2]}; the test error is {errors[0]} %, {errors[1]} % and "
        f"{errors[2]} %.",
        body=RAMPS,
        figures={
            "steps": (
                figures.steps(clipped),
                "Left: the step relative to a leaf's RMS. Middle: RMS(u). Right: the loss of "
                "batches, averaged over a fiftieth of the run. Bands are 95 % intervals over "
                "seeds.",
            )
        },
    )


def _memory(memory: xr.Dataset) -> lab.Section:
    rows = []
    for model, name in itertools.product(memory.model.values, memory.optimizer.values):
        one = memory.sel(model=model, optimizer=name)
        sizes = (f"{int(x):,}" for x in (one.params, one.state, one.xla_state, one.xla_temporary))
        rows.append([f"{model}: {name}", *sizes, f"{float(one.state / one.params):.3g}"])
    columns = ["parameters", "state", "state in XLA", "temporaries in XLA", "state / parameters"]
    last = memory.isel(model=-1)
    adam, factored = (last.sel(optimizer=name) for name in ("Adam", "Adafactor"))
    return lab.Section(
        title="How much memory does the state take?",
        answer=f"For a {memory.model.values[-1]}, Adam holds {int(adam.state) / 2**20:,.0f} MiB "
        f"and Adafactor {int(factored.state) / 2**10:,.1f} KiB. During an update, Adafactor needs "
        f"another {int(factored.xla_temporary) / 2**20:,.0f} MiB for a moment.",
        body=MEMORY,
        figures={
            "memory": (
                figures.memory(memory),
                "Bytes of the optimizer's state for each byte of parameters, in float32.",
            )
        },
        tables=[lab.Table("Memory in bytes, in float32", ["model and optimizer", *columns], rows)],
    )
