"""Report of the Adafactor experiment, all of it from the stored results."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from experiments import _lines, _sections
from experiments._adafactor_runs import BETAS, CAP, CLIPS, PAPER, STEPS
from experiments._sections import Section

TITLE = "Adafactor: its gauges and its memory"
TIME = "step t [steps]"
RMS = "largest RMS(u) of a leaf [1]"
FACTOR = "smallest clip factor [1]"
CONSTANT = ".999"
MARKS = "osD^vPX"


def write(folder: Path) -> None:
    """Write figures and report from the stored results; print what they come to."""
    origin = xr.load_dataset(folder / "training.nc").attrs["origin"]
    _sections.report(folder, TITLE, sections, experiment="adafactor", data=origin)


def sections(results: Mapping[str, xr.Dataset]) -> list[Section]:
    """Return the sections of the report."""
    training = results["training"]
    return [
        _decays(training.sel(step="relative").sel(cap=CAP, method="nearest")),
        _shift(results["shift"]),
        _steps(training.sel(beta2=BETAS[PAPER]).sel(cap=CAP, method="nearest")),
        _caps(training.sel(step="relative")),
        _memory(results["memory"]),
    ]


def _clipped(results: xr.Dataset, clips: bool) -> xr.Dataset:
    return results.sel(clip=CLIPS[0] if clips else CLIPS[1]).transpose("seed", ...)


def _decays(runs: xr.Dataset) -> Section:
    free, clipped = _clipped(runs, False), _clipped(runs, True)
    rows = []
    for beta2 in BETAS:
        one, two = free.sel(beta2=beta2), clipped.sel(beta2=beta2)
        late = one.update_rms[:, one.t.values > one.t.values[-1] / 2].mean("t")
        ends = (one.update_rms[:, 0], one.update_rms.max("t"), late, two.clip_factor.min("t"))
        losses = (one.train_loss, two.train_loss)
        rows.append([beta2, *map(_lines.number, (*ends, *losses))])
    header = ["β₂", "RMS(u), first", "largest", "late", "least clip factor"]
    header += ["last loss, no clipping", "with clipping"]
    first = free.update_rms.isel(t=0)
    ratio = first.sel(beta2=CONSTANT) / first.sel(beta2=BETAS[PAPER])
    return Section(
        "What the decay of the second moment does to the gauge",
        "RMS(u), of u = g / √V before clipping, is the paper's gauge: 1 is healthy, above 1 V lags "
        "behind the gradients. At the paper's step. Constant decays are not corrected, but for the "
        "last, and u begins too large by 1 / √(1 − β₂); 1 − t⁻¹ is the mean of all squares so far, "
        "which .999 with correction is at first. A clip factor below 1 is what clipping at d = 1 "
        "takes off.",
        f"The first update of a constant β₂ = {CONSTANT} is {_lines.number(ratio)} times that of a "
        "schedule, and clipping leaves "
        f"{_lines.number(clipped.clip_factor.sel(beta2=CONSTANT).isel(t=0))} of it; the paper's "
        f"1 − t⁻⁰·⁸ is never above {rows[PAPER][2]} and late at {rows[PAPER][3]}.",
        {
            "gauges": (
                _gauges_figure(free, clipped, free.t.values, TIME),
                "Largest RMS(u) of a leaf without and with clipping, and the smallest factor that "
                "clipping multiplied a leaf by. Bands are 95 % intervals over seeds.",
            )
        },
        [(header, rows, "By decay, with 95 % intervals over seeds; late: the run's second half")],
    )


def _gauges_figure(free, clipped, t, x):
    figure, ((left, middle, right),) = _lines.panels(3)
    _lines.label(left, x, RMS, "no clipping")
    _lines.label(middle, x, RMS, "clipping at d = 1")
    _lines.label(right, x, FACTOR, "clipping at d = 1")
    for order, beta2 in enumerate(BETAS):
        name = f"β₂ = {beta2}"
        _lines.line(left, t, free.update_rms.sel(beta2=beta2), order, name)
        _lines.line(middle, t, clipped.update_rms.sel(beta2=beta2), order, name)
        _lines.line(right, t, clipped.clip_factor.sel(beta2=beta2), order, name)
    highest = max(ax.get_ylim()[1] for ax in (left, middle))
    for ax in (left, middle):
        ax.axhline(1, **_lines.PREDICTED)
        ax.set_ylim(0.1, highest)
    _lines.legend(figure, left, 6)
    return figure


def _shift(results: xr.Dataset) -> Section:
    half = int(results.t[-1]) // 2
    before = results.isel(t=(results.t.values > half // 2) & (results.t.values <= half))
    after = results.isel(t=results.t.values > half)
    rows, peaks = [], {}
    for beta2 in BETAS:
        free, clipped = (_clipped(after, x).sel(beta2=beta2) for x in (False, True))
        usual = _clipped(before, False).sel(beta2=beta2).update_rms.mean("t")
        peaks[beta2] = free.update_rms.max("t")
        numbers = (usual, peaks[beta2], clipped.clip_factor.min("t"))
        stale = (_stale(x.update_rms.values, after.t.values - half) for x in (free, clipped))
        rows.append([beta2, *map(_lines.number, numbers), *stale])
    header = ["β₂", "RMS(u) before", "largest after", "least clip factor"]
    header += ["stale for [steps], no clipping", "with clipping"]
    return Section(
        "When the gradients change",
        "Half-way through every class takes the next one's name: gradients grow at once, and "
        "every V is stale. How stale, and for how long, is the memory of the decay. A second "
        "moment counts as stale until the mean of RMS(u) over seeds is below 1 again.",
        f"RMS(u) rises to {_lines.number(peaks[BETAS[0]])} with β₂ = {BETAS[0]}, to "
        f"{_lines.number(peaks[BETAS[PAPER]])} with the paper's {BETAS[PAPER]}, to "
        f"{_lines.number(peaks[CONSTANT])} with a constant {CONSTANT}.",
        {
            "shift": (
                _gauges_figure(
                    _clipped(after, False),
                    _clipped(after, True),
                    after.t.values - half,
                    "steps since the change [steps]",
                ),
                "The gauges since the labels changed. Bands are 95 % intervals over seeds.",
            )
        },
        [(header, rows, "Gauges about the change, with 95 % intervals over seeds")],
    )


def _stale(rms: np.ndarray, since: np.ndarray) -> str:
    """Return the first of the reported steps on which the mean over seeds is not above 1."""
    healthy = np.flatnonzero(rms.mean(0) <= 1)
    return f"{since[healthy[0]]:,}" if healthy.size else f"over {since[-1]:,}"


def _steps(runs: xr.Dataset) -> Section:
    clipped = _clipped(runs, True)
    rows = []
    for step in STEPS:
        part = clipped.sel(step=step)
        numbers = (part.update_rms.max("t"), part.clip_factor.min("t"), part.train_loss)
        error = 100 * part.test_error
        rows.append([step, *map(_lines.number, (*numbers, error))])
    figure, ((left, middle, right),) = _lines.panels(3)
    _lines.label(left, TIME, "ηρ, step of a leaf of RMS 1 [1]", "the rate")
    _lines.label(middle, TIME, RMS, "the gauge, clipping at d = 1", ylog=False)
    _lines.label(right, TIME, "loss of the batches [nat]", "the loss", xlog=False)
    for order, step in enumerate(STEPS):
        part = clipped.sel(step=step)
        # A cosine ends near 0, far below all else.
        _lines.line(left, part.t, part.rate, order, step)
        _lines.line(middle, part.t, part.update_rms, order, step)
        _lines.line(right, part.window, part.loss, order, step)
    left.set_ylim(CAP / 1e3, 1.5 * CAP)
    middle.set_ylim(bottom=0)
    _lines.legend(figure, left, 3)
    gauges, losses = ("; ".join(f"{row[0]} {row[i]}" for row in rows) for i in (1, 3))
    return Section(
        "Ramp-up and decay of the step",
        f"The paper's second moment, 1 − t⁻⁰·⁸, and step, min({CAP:g}, 1/√t) times RMS(θ); the "
        "same rising over the first tenth of the run; and then falling as a cosine, too.",
        f"Largest RMS(u): {gauges}. Last training loss: {losses}.",
        {
            "steps": (
                figure,
                "Left: the rate, relative to a leaf's RMS; middle: the gauge; right: losses of "
                "batches, averaged over a fiftieth of the run. Bands are 95 % intervals over "
                "seeds.",
            )
        },
        [
            (
                ["step", "largest RMS(u)", "least clip factor", "last loss [nat]", "error [%]"],
                rows,
                "Loss on the training set and error on the test set after the last step, with 95 % "
                "intervals over seeds; nothing was tuned on either",
            )
        ],
    )


def _caps(runs: xr.Dataset) -> Section:
    figure, ((left, right),) = _lines.panels(2)
    rows, last = [], {}
    for ax, clips in ((left, False), (right, True)):
        title = f"clipping at d = {CLIPS[0]:g}" if clips else "no clipping"
        _lines.label(ax, "cap of the relative step [1]", "last training loss [nat]", title)
        part = _clipped(runs, clips)
        for order, beta2 in enumerate(BETAS):
            losses = part.train_loss.sel(beta2=beta2)
            style = {"marker": MARKS[order], "ms": 4, "geometric": True}
            _lines.line(ax, runs.cap, losses, order, f"β₂ = {beta2}", **style)
            logs = np.log10(losses.values.T)
            rows.append([f"{beta2}, {title}", *map(_lines.number, logs)])
            last[clips, beta2] = f"{10 ** logs[-1].mean():.2g}"
    limits = [f(ax.get_ylim()[i] for ax in (left, right)) for i, f in enumerate((min, max))]
    for ax in (left, right):
        ax.set_ylim(limits)
    _lines.legend(figure, left, 6)
    caption = "log10 of the last training loss [nat], with 95 % intervals over seeds"
    return Section(
        "Where clipping matters",
        "The loss on the whole training set after the last step, for caps of the relative step "
        f"around the paper's {CAP:g}. Losses differ by factors, so their logarithms are averaged. "
        "The larger the steps, the more a stale second moment costs.",
        f"At a cap of {float(runs.cap[-1]):.3g} a constant β₂ = {CONSTANT} ends at a loss of "
        f"{last[False, CONSTANT]} without clipping and of {last[True, CONSTANT]} with it, the "
        f"paper's schedule at {last[False, BETAS[PAPER]]} and {last[True, BETAS[PAPER]]}.",
        {
            "caps": (
                figure,
                "Last training loss against the cap of the relative step. Bands are 95 % intervals "
                "over seeds, of the logarithm.",
            )
        },
        [(["β₂, clipping", *(f"cap {float(cap):.3g}" for cap in runs.cap)], rows, caption)],
    )


def _memory(memory: xr.Dataset) -> Section:
    rows = []
    for model in memory.model.values:
        for name in memory.optimizer.values:
            one = memory.sel(model=model, optimizer=name)
            sizes = (one.params, one.state, one.xla_state, one.xla_temporary)
            share = f"{float(one.state / one.params):.3g}"
            rows.append([f"{model}: {name}", *(f"{int(x):,}" for x in sizes), share])
    header = ["model and optimizer", "parameters [bytes]", "state [bytes]", "state in XLA [bytes]"]
    header += ["temporaries in XLA [bytes]", "state / parameters"]
    last = memory.isel(model=-1)
    adam, factored = (last.sel(optimizer=name) for name in ("Adam", "Adafactor"))
    return Section(
        "What the state weighs",
        "Bytes of the state's arrays after init, and what XLA says of the compiled update (state "
        "and gradients donated): its arguments beside gradients and parameters, and the "
        "temporaries that it holds while it runs. Updates that are clipped are formed before they "
        "are scaled, in memory that is free again after the step.",
        f"For a {memory.model.values[-1]} Adam holds {int(adam.state) / 2**20:,.0f} MiB, Adafactor "
        f"{int(factored.state) / 2**10:,.1f} KiB: one part in "
        f"{float(adam.state / factored.state):,.0f}. While it is updated Adafactor needs "
        f"{int(factored.xla_temporary) / 2**20:,.0f} MiB for a moment.",
        {
            "memory": (
                _memory_figure(memory),
                "Bytes of the optimizer's state for each byte of parameters, in float32.",
            )
        },
        [(header, rows, "Memory, all in float32")],
    )


def _memory_figure(memory):
    figure, ((ax,),) = _lines.panels(1, height=3.6)
    _lines.label(ax, "state / parameters [bytes / byte]", "", ylog=False)
    places = np.arange(memory.sizes["optimizer"])
    for order, model in enumerate(memory.model.values):
        part = memory.sel(model=model)
        # Points that would cover each other are moved apart.
        heights = places + 0.16 * (order - (memory.sizes["model"] - 1) / 2)
        style = {"color": _lines.COLOURS[order], "ms": 6, "mfc": "none", "ls": ""}
        share = part.state / part.params
        ax.plot(share, heights, marker=MARKS[order], label=str(model), **style)
    ax.set_yticks(places, memory.optimizer.values)
    ax.invert_yaxis()
    _lines.legend(figure, ax, 2)
    return figure
