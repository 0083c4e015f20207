"""The figures of the Adam experiment's report."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.adam.corrections import FIRST_STEPS, NEVER, STOPPED_RATE
from experiments.adam.games import METHODS, games
from experiments.adam.numbers import bound, game_times, jump, noise_ratio
from experiments.adam.runs import B1, B2, GRADIENTS
from experiments.lab.figures import COLOURS, PREDICTED, label, legend, line, panels

MARKS = "osD^vPX"
STEPS = "step t [steps]"
RATIO = "gradient / ε [1]"
GAME_STEPS = "step T [steps]"


def points(order: int) -> dict[str, object]:
    """Return the style of measured points."""
    return {"color": COLOURS[order], "marker": MARKS[order], "mfc": "none", "ms": 5, "ls": ""}


def steps(silence: xr.Dataset, bounds: xr.Dataset) -> Figure:
    """Draw the largest steps against time, and for other decays."""
    figure, ((left, right),) = panels(2)
    title = f"β = ({B1:g}, {B2:g}), with bias correction"
    label(left, "step of the last gradient [steps]", "largest step / learning rate [1]", title)
    t = silence["last"].values
    for order, (name, title) in enumerate(
        {"growing": "growing gradients", "lone": "a lone gradient"}.items()
    ):
        left.plot(t, bound(B1, B2, t, growing=name == "growing"), **PREDICTED)
        left.plot(t, silence.step.sel(stream=name), label=title, **points(order))
        end = bound(B1, B2, growing=name == "growing")
        left.axhline(end, color=COLOURS[order], lw=0.9, ls="--")
        place = {"xytext": (0, 3), "textcoords": "offset points", "fontsize": 9}
        left.annotate(f"{end:.4f}, for t → ∞", (t[0], end), **place)
    left.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    left.set_ylim(0.35, 11)
    left.legend(loc="lower right", fontsize=9, frameon=False)
    memory_label = "memory of the second moment 1 / (1 − β₂) [steps]"
    label(right, memory_label, "largest step / learning rate [1]", "other decays, as t → ∞")
    memory = np.geomspace(1 / (1 - bounds.b2.values[0]), 1 / (1 - bounds.b2.values[-1]), 200)
    for order, b1 in enumerate(bounds.b1.values):
        right.plot(memory, bound(b1, 1 - 1 / memory), **PREDICTED)
        found = bounds.step.sel(stream="growing", b1=b1)
        right.plot(1 / (1 - bounds.b2), found, label=f"β₁ = {b1:g}", **points(order))
    right.legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def signal(results: xr.Dataset, late: xr.DataArray) -> Figure:
    """Draw the signal-to-noise ratio over time, and late against b1."""
    figure, ((left, right),) = panels(2)
    label(left, STEPS, "mean of |m̂| / √v̂ [1]", f"β₁ = {B1:g}")
    title = f"after {int(results.t[-1]):,} steps"
    label(right, "β₁ [1]", "late mean of |m̂| / √v̂ [1]", title, xlog=False)
    grid = np.linspace(0, 0.99, 200)
    for order, (name, stream) in enumerate(GRADIENTS.items()):
        runs = results.ratio.sel(stream=name, b1=B1).transpose("seed", "t")
        line(left, results.t, runs, order, name)
        right.plot(grid, noise_ratio(*stream, grid), **PREDICTED)
        found = late.sel(stream=name).mean("seed")
        right.plot(results.b1, found, clip_on=False, **points(order))
    for ax in (left, right):
        ax.set_ylim(3e-3, 1.3)
    legend(figure, left, 7)
    return figure


def early(results: xr.Dataset, training: xr.Dataset, rate: float) -> Figure:
    """Draw steps on a constant gradient, and losses on the quadratic."""
    figure, ((left, middle, right),) = panels(3)
    label(left, STEPS, "step / learning rate [1]", "constant gradient")
    label(middle, "learning rate [1]", "largest loss / first loss [1]", "noisy quadratic")
    label(right, STEPS, "loss / first loss [1]", f"quadratic, learning rate {rate:.2g}")
    shown = [(f"β₂ = {b2:g}", False, b2) for b2 in results.b2.values]
    for order, (name, debias, b2) in enumerate([*shown, (f"corrected, β₂ = {B2}", True, B2)]):
        line(left, results.t, results.step.sel(debias=debias, b2=b2), order, name)
        if b2 in training.b2.values:
            runs = training.sel(debias=debias, b2=b2).transpose("seed", ...)
            line(middle, runs.learning_rate, runs.peak, order, name)
            line(right, runs.t, runs.loss.sel(learning_rate=rate), order, name)
    legend(figure, left, 5)
    return figure


def epsilon(first: xr.Dataset, restart: xr.Dataset) -> Figure:
    """Draw first steps against gradient / epsilon, and the peak of the loss after a restart."""
    figure, axes = panels(1 + restart.sizes["learning_rate"])
    left, *others = axes[0]
    label(left, RATIO, f"largest of {FIRST_STEPS} steps / learning rate [1]", "constant gradient")
    for ax, rate in zip(others, restart.learning_rate.values, strict=True):
        title = f"restart, learning rate {rate:g}"
        label(ax, RATIO, "largest loss / loss before [1]", title, ylog=False)
    ratios = float(restart.gradient.mean()) / restart.eps
    for order, warmup in enumerate(first.warmup.values):
        name = f"warm-up of {warmup} steps" if warmup else "without warm-up"
        runs = first.sel(warmup=warmup)
        left.plot(runs.ratio, runs.step, label=name, **points(order))
        gain = FIRST_STEPS / warmup if warmup else 1
        left.plot(runs.ratio, gain / (1 + 1 / runs.ratio), **PREDICTED)
        peaks = restart.peak.sel(warmup=warmup).transpose("learning_rate", "seed", "eps")
        for ax, peak in zip(others, peaks, strict=True):
            style = {"marker": MARKS[order], "mfc": "none", "geometric": True}
            line(ax, ratios, peak, order, name, **style)
    legend(figure, left, 2)
    return figure


def stopped(results: xr.Dataset) -> Figure:
    """Draw steps on a constant gradient and losses on the quadratic, by when correction stops."""
    figure, ((left, right),) = panels(2)
    label(left, STEPS, "step / learning rate [1]", "constant gradient", ylog=False)
    title = f"noisy quadratic, learning rate {STOPPED_RATE:g}"
    label(right, STEPS, "excess loss [1]", title)
    left.plot(results.t, jump(results.t), **PREDICTED)
    left.set_ylim(0, 7)
    for order, stop in enumerate(results.stop.values):
        name = "never stopped" if stop == NEVER else f"stopped at t = {stop:,}"
        runs = results.sel(stop=stop).transpose("seed", ...)
        line(left, runs.t, runs.step, order, name)
        line(right, runs.t, runs.loss, order, name)
    legend(figure, left, 3)
    return figure


def ladder(results: xr.Dataset, tuned: xr.Dataset) -> Figure:
    """Draw losses over time at the tuned rate, and last losses at all rates."""
    figure, ((left, right),) = panels(2)
    label(left, STEPS, "training loss [nat]", "at the tuned learning rate", xlog=False)
    label(right, "learning rate [1]", "last training loss [nat]", "at all learning rates")
    for order, method in enumerate(results.optimizer.values):
        line(left, tuned.t, tuned.loss.sel(optimizer=method), order, str(method))
        last = results["last"].sel(optimizer=method).transpose("seed", "learning_rate")
        line(right, results.learning_rate, last, order, "")
        end = np.exp(np.log(tuned["last"].sel(optimizer=method)).mean())
        right.plot(tuned.rate.sel(optimizer=method), end, "o", color=COLOURS[order], ms=5)
    legend(figure, left, 4)
    return figure


def counterexamples(results: xr.Dataset) -> Figure:
    """Draw the decisions and the mean regret of the games on which Adam does not converge."""
    figure, axes = _game_panels(results.game)
    for name, (top, bottom) in axes.items():
        t = game_times(results.sel(game=name))
        label(top, GAME_STEPS, "θ [1]", _title(name), ylog=False)
        label(bottom, GAME_STEPS, "R(T)/T [loss]")
        for order, method in enumerate(METHODS):
            runs = results.sel(game=name, optimizer=method).transpose("seed", ...)
            line(top, t, runs.theta, order, method)
            line(bottom, t, runs.regret, order, method)
        top.set_ylim(-1.08, 1.08)
    legend(figure, figure.axes[0], 5)
    return figure


def regret(found: xr.DataArray, best: xr.DataArray) -> Figure:
    """Draw the mean regret over time at the tuned learning rate, and at the end for all rates."""
    figure, axes = _game_panels(found.game)
    t, rates = found.t.values, found.learning_rate.values
    for name, (top, bottom) in axes.items():
        label(top, GAME_STEPS, "R(T)/T [loss]", _title(name))
        label(bottom, "learning rate [1]", f"R(T)/T at T = {t[-1]:,} [loss]")
        for order, method in enumerate(METHODS):
            rate = float(best.sel(game=name, optimizer=method))
            runs = found.sel(game=name, optimizer=method)
            tuned = runs.sel(learning_rate=rate)
            line(top, t, tuned, order, method)
            line(bottom, rates, runs[..., -1], order, method)
            bottom.plot(rate, tuned[:, -1].mean(), "o", color=COLOURS[order], ms=5)
        low, high = top.get_ylim()
        top.plot(t, 0.8 * high * (t / t[0]) ** -0.5, label="∝ 1/√T", **PREDICTED)
        top.set_ylim(low, high)
    legend(figure, figure.axes[0], 6)
    return figure


def _game_panels(names: xr.DataArray) -> tuple[Figure, dict[str, tuple[Axes, Axes]]]:
    """Return a figure with two panels, one above the other, for each game."""
    figure, axes = panels(names.size, 2, height=2.9)
    return figure, {str(name): tuple(pair) for name, pair in zip(names.values, axes.T, strict=True)}


def _title(name: str) -> str:
    return f"{name}:\n{games()[name].title}"
