"""Report of the Adam experiment, all of it from the stored results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import norm

from experiments import _lines, _sections
from experiments._adam_games_report import counterexamples, regret
from experiments._adam_runs import B1, B2, CURVATURES, GRADIENTS
from experiments._sections import Section

TITLE = "Adam: its steps, its signal, its bias, its regret"
MARKS = "osD^vPX"
STEPS = "step t [steps]"
SHOWN_RATE = 1.0  # The losses at the rate nearest to it are drawn over time.


def write(folder: Path) -> None:
    """Write figures and report from the stored results; print what they come to."""
    _sections.report(
        folder,
        TITLE,
        sections,
        experiment="adam",
        data="Streams of gradients, the quadratic and the games are made up from the seed.",
    )


def sections(results: Mapping[str, xr.Dataset]) -> list[Section]:
    """Return the sections of the report."""
    return [
        _bounds(results["silence"], results["bounds"]),
        _signal(results["signal"]),
        _early(results["early"], results["training"]),
        counterexamples(results["counterexamples"]),
        regret(results["regret"]),
    ]


def bound(b1: Any, b2: Any, t: Any = np.inf, *, growing: bool = True) -> Any:
    """Return the largest step over the rate that t gradients, or the last of t alone, can make."""
    ratio = b1**2 / b2
    terms = (1 - ratio**t) / (1 - ratio) if growing else 1.0
    gain = np.sqrt(1 - b2**t) / (1 - b1**t)
    return gain * (1 - b1) / np.sqrt(1 - b2) * np.sqrt(terms)


def noise_ratio(mean: float, swing: float, noise: float, b1: Any) -> Any:
    """Return the late mean of |m| / sqrt(v) down a stream of gradients, for b2 near 1."""
    if swing:
        return (1 - b1) / (1 + b1)
    if not noise:
        return np.ones_like(b1)
    spread = noise * np.sqrt((1 - b1) / (1 + b1))
    folded = 2 * spread * norm.pdf(mean / spread) + mean * (1 - 2 * norm.cdf(-mean / spread))
    return folded / np.sqrt(mean**2 + noise**2)


def _bounds(silence: xr.Dataset, bounds: xr.Dataset) -> Section:
    expected = bound(bounds.b1, bounds.b2)
    off = float(abs(bounds.step.sel(stream="growing") / expected - 1).max())
    last = silence.step.isel(last=-1)
    rows = []
    for b1 in bounds.b1.values:
        steps = [bounds.step.sel(b1=b1, b2=b2) for b2 in bounds.b2.values]
        pairs = [(float(x.sel(stream="growing")), float(x.sel(stream="lone"))) for x in steps]
        rows.append([f"{b1:g}", *(f"{tight:.4f} ({lone:.4f})" for tight, lone in pairs)])
    caption = "Largest step over the rate, measured: growing gradients (a lone one)"
    return Section(
        "How far a step can go",
        "The paper takes (1 − β₁) / √(1 − β₂) for the largest step over the rate: what a lone "
        "gradient among zeros makes. It is no bound: gradients that grew as (β₂ / β₁)ᵗ make "
        "(1 − β₁) / √((1 − β₂)(1 − β₁² / β₂)), and none make more. Bias correction takes some of "
        "it away while the run is young.",
        f"After {int(silence['last'][-1]):,} steps a lone gradient makes a step of "
        f"{float(last.sel(stream='lone')):.4f} times the rate, growing ones of "
        f"{float(last.sel(stream='growing')):.4f}; over all decays the tight bound is attained to "
        f"a relative {off:.0e}.",
        {
            "bounds": (
                _bounds_figure(silence, bounds),
                "Largest step over the rate. Left: by the step at which it is provoked; right: by "
                "the memory of the second moment, for several β₁. Points are measured, dotted "
                "lines the closed form.",
            )
        },
        [(["β₁ \\ β₂", *(f"{b2:g}" for b2 in bounds.b2.values)], rows, caption)],
    )


def _bounds_figure(silence, bounds):
    figure, ((left, right),) = _lines.panels(2)
    _lines.label(left, "step of the last gradient [steps]", "largest step / rate [1]")
    left.set_title("β = (.9, .999), bias corrected", loc="left", fontsize=10.5)
    t = silence["last"].values
    names = {"growing": "growing gradients", "lone": "a lone gradient"}
    for order, (name, title) in enumerate(names.items()):
        style = {"color": _lines.COLOURS[order], "mfc": "none", "ms": 5}
        left.plot(t, bound(B1, B2, t, growing=name == "growing"), **_lines.PREDICTED)
        left.plot(t, silence.step.sel(stream=name), MARKS[order], label=title, **style)
        end = bound(B1, B2, growing=name == "growing")
        left.axhline(end, color=_lines.COLOURS[order], lw=0.9, ls="--")
        place = {"xytext": (0, 3), "textcoords": "offset points", "fontsize": 9}
        left.annotate(f"{end:.4f}, for t → ∞", (t[0], end), **place)
    left.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    left.set_ylim(0.35, 11)
    left.legend(loc="lower right", fontsize=9, frameon=False)
    _lines.label(right, "memory of the squares 1 / (1 − β₂) [steps]", "tight bound / rate [1]")
    right.set_title("other decays, after a long silence", loc="left", fontsize=10.5)
    memory = np.geomspace(1 / (1 - bounds.b2.values[0]), 1 / (1 - bounds.b2.values[-1]), 200)
    for order, b1 in enumerate(bounds.b1.values):
        style = {"color": _lines.COLOURS[order], "mfc": "none", "ms": 5}
        right.plot(memory, bound(b1, 1 - 1 / memory), **_lines.PREDICTED)
        points = bounds.step.sel(stream="growing", b1=b1)
        right.plot(1 / (1 - bounds.b2), points, MARKS[order], label=f"β₁ = {b1:g}", **style)
    right.legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def _signal(signal: xr.Dataset) -> Section:
    late = signal.ratio.isel(t=slice(-6, None)).mean("t").transpose("seed", "stream", "b1")
    rows = []
    for name, stream in GRADIENTS.items():
        row = [name]
        for b1 in signal.b1.values:
            found = _lines.number(late.sel(stream=name, b1=b1))
            row.append(f"{found} ({float(noise_ratio(*stream, b1)):.4f})")
        rows.append(row)
    caption = "Late mean of |m̂| / √v̂ with its 95 % interval over seeds (and in theory)"
    alternating, noise = (late.sel(stream=name, b1=B1) for name in ("alternating", "noise"))
    return Section(
        "What Adam takes for a signal",
        "The paper reads m̂ / √v̂ as a signal-to-noise ratio: the step shrinks where gradients "
        "disagree. Down a constant gradient it is ±1, whatever its size; alternating ones leave "
        "(1 − β₁) / (1 + β₁), and 0 only as β₁ nears 1; independent ones of mean μ and standard "
        "deviation 1 leave the mean size of a normal number of mean μ and variance "
        "(1 − β₁) / (1 + β₁), over √(μ² + 1).",
        f"With β₁ = .9 alternating gradients still move a parameter by {_lines.number(alternating)}"
        f" of the rate a step, pure noise by {_lines.number(noise)}.",
        {
            "signal": (
                _signal_figure(signal, late),
                "Mean of |m̂| / √v̂ over all coordinates, by the stream of gradients (those with "
                "'mean' have noise of standard deviation 1). Left: over time, bands being 95 % "
                "intervals over seeds; right: late in the run against β₁, points measured, dotted "
                "lines theory.",
            )
        },
        [(["gradients", *(f"β₁ = {b1:g}" for b1 in signal.b1.values)], rows, caption)],
    )


def _signal_figure(signal, late):
    figure, ((left, right),) = _lines.panels(2)
    _lines.label(left, STEPS, "mean of |m̂| / √v̂ [1]", f"β₁ = {B1:g}")
    _lines.label(right, "β₁ [1]", "late mean of |m̂| / √v̂ [1]", xlog=False)
    right.set_title(f"after {int(signal.t[-1]):,} steps", loc="left", fontsize=10.5)
    grid = np.linspace(0, 0.99, 200)
    for order, (name, stream) in enumerate(GRADIENTS.items()):
        runs = signal.ratio.sel(stream=name, b1=B1).transpose("seed", "t")
        style = {"color": _lines.COLOURS[order], "mfc": "none", "ms": 5, "ls": ""}
        _lines.line(left, signal.t, runs, order, name)
        right.plot(grid, noise_ratio(*stream, grid), **_lines.PREDICTED)
        points = late.sel(stream=name).mean("seed")
        right.plot(signal.b1, points, marker=MARKS[order], clip_on=False, **style)
    for ax in (left, right):
        ax.set_ylim(3e-3, 1.3)
    _lines.legend(figure, left, 7)
    return figure


def _early(early: xr.Dataset, training: xr.Dataset) -> Section:
    rates = training.learning_rate.values
    rate = rates[np.argmin(abs(np.log(rates / SHOWN_RATE)))]
    peaks, losses = early.step.max("t"), training.peak.sel(learning_rate=rate)
    rows = []
    for b2 in early.b2.values:
        steps = [f"{float(peaks.sel(debias=flag, b2=b2)):.4f}" for flag in ("False", "True")]
        known = b2 in training.b2.values
        runs = [losses.sel(debias=flag, b2=b2) if known else None for flag in ("False", "True")]
        rows.append([f"{b2:g}", *steps, *("" if x is None else _lines.number(x) for x in runs)])
    header = ["β₂", "largest step / rate", "corrected", "largest loss / first", "corrected"]
    caption = (
        f"Down a constant gradient, and on the quadratic at the rate {rate:.2g}, with 95 % "
        "intervals over seeds"
    )
    plain, corrected = (_lines.number(losses.sel(debias=x, b2=B2)) for x in ("False", "True"))
    return Section(
        "The first steps, with and without bias correction",
        "Without it the first step is (1 − β₁) / √(1 − β₂) times the rate and not 1, and steps go "
        "on growing until m is there, while v takes 1 / (1 − β₂) steps to follow. The quadratic "
        f"has curvatures from {CURVATURES[0]:g} to {CURVATURES[-1]:g} and noise of standard "
        "deviation 1 in every gradient, and starts at standard normals. At small rates the larger "
        "first steps are a gain; it is large rates that they spoil.",
        f"Down a constant gradient uncorrected steps of β₂ = {B2} grow to "
        f"{float(peaks.sel(debias='False', b2=B2)):.2f} times the rate; on the quadratic at the "
        f"rate {rate:.2g} the loss rises to {plain} times the first one, corrected to {corrected}.",
        {
            "early": (
                _early_figure(early, training, rate),
                "Left: step down a constant gradient. Middle: the largest loss of the run, the "
                "first step left out; right: the loss over time. Both are excess losses over the "
                "first one, with 95 % intervals over seeds as bands. Corrected runs are of "
                f"β₂ = {B2}: those of other β₂ lie on the same line.",
            )
        },
        [(header, rows, caption)],
    )


def _early_figure(early, training, rate):
    figure, ((left, middle, right),) = _lines.panels(3)
    _lines.label(left, STEPS, "step / rate [1]", "a constant gradient")
    _lines.label(middle, "rate [1]", "largest loss / first one [1]", "a noisy quadratic")
    _lines.label(right, STEPS, "loss / first one [1]", f"the same, at the rate {rate:.2g}")

    def draw(order, name, flag, b2):
        _lines.line(left, early.t, early.step.sel(debias=flag, b2=b2), order, name)
        if b2 in training.b2.values:
            runs = training.sel(debias=flag, b2=b2)
            _lines.line(middle, runs.learning_rate, runs.peak.transpose("seed", ...), order, name)
            loss = runs.loss.sel(learning_rate=rate).transpose("seed", ...)
            _lines.line(right, runs.t, loss, order, name)

    for order, b2 in enumerate(early.b2.values):
        draw(order, f"β₂ = {b2:g}", "False", b2)
    draw(4, f"corrected, β₂ = {B2}", "True", B2)
    _lines.legend(figure, left, 5)
    return figure
