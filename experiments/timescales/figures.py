"""Figures of the experiment on time scales."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab.figures import COLOURS, geometric_interval, label, line, panels
from experiments.timescales.gauge import FACTORS, GAUGED, onsets
from experiments.timescales.methods import METHODS, compared, extended
from experiments.timescales.numbers import TASKS, comparisons, shown_loss

MARKERS = "osD^"
WIDEST = 1e3
"""Ratios beyond this or its inverse are drawn at the edge."""
LOSSES = {
    "drift": "loss ÷ best possible loss",
    "quadratics": "loss ÷ initial loss",
    "language": "test loss, nats a character",
}


def draw_ratios(results: dict[str, xr.Dataset]) -> Figure:
    """Draw the loss of each method over that of the one with one time scale that it extends."""
    figure, axes = panels(len(TASKS), height=3.9)
    names = list(extended("drift"))[::-1]
    for ax, task in zip(axes[0], TASKS, strict=True):
        found = comparisons(results, task)
        cases = [str(case) for case in results[task].case.values]
        for one in found:
            order = cases.index(one.case)
            row = names.index(one.method) + _offset(order, len(cases))
            ends = np.clip([one.low, one.mean, one.high], 1 / WIDEST, WIDEST)
            ax.plot(ends[[0, 2]], [row, row], color=COLOURS[order], lw=1.2)
            ax.plot(ends[1], row, MARKERS[order % 4], color=COLOURS[order], ms=4.5)
        _key(ax, cases)
        ax.axvline(1, color="0.3", lw=1.0)
        words = "loss ÷ that with one time scale", "", task_title(task)
        label(ax, *words, xlog=task == "quadratics", ylog=False)
        _rows(ax, names, axes[0, 0])
    return figure


def draw_losses(results: dict[str, xr.Dataset]) -> Figure:
    """Draw the loss of each method on each task."""
    figure, axes = panels(len(TASKS), height=4.2)
    names = list(compared("drift"))[::-1]
    for ax, task in zip(axes[0], TASKS, strict=True):
        loss = shown_loss(results, task)
        cases = [str(case) for case in loss.case.values]
        for name in compared(task):
            for order in range(len(cases)):
                runs = loss.sel(optimizer=name).values[order]
                if not (np.isfinite(runs).all() and (runs > 0).all()):
                    continue
                mean, low, high = geometric_interval(runs)
                row = names.index(name) + _offset(order, len(cases))
                ax.plot([low, high], [row, row], color=COLOURS[order], lw=1.2)
                ax.plot(mean, row, MARKERS[order % 4], color=COLOURS[order], ms=4.5)
        _key(ax, cases)
        label(ax, LOSSES[task], "", task_title(task), xlog=task == "quadratics", ylog=False)
        _rows(ax, names, axes[0, 0])
    return figure


def draw_gauge(results: dict[str, xr.Dataset]) -> Figure:
    """Draw loss and gauge along the first run of each gauged method and rate."""
    found = results["gauge"].isel(seed=0)
    figure, axes = panels(len(GAUGED), 2, height=2.6)
    for column, name in enumerate(GAUGED):
        for order, factor in enumerate(FACTORS):
            run = found.sel(optimizer=name, factor=factor)
            words = "tuned rate" if factor == 1 else f"{factor:g} × tuned rate"
            loss, gauge = run.loss.values, run.gauge.values
            line(axes[0, column], run.step, loss, order, words)
            line(axes[1, column], run.step, np.where(gauge > 0, gauge, np.nan), order, words)
            begun = onsets(loss)
            marks = {"color": COLOURS[order], "ms": 6, "ls": "", "marker": "v"}
            axes[0, column].plot(run.step.values[begun], loss[begun], **marks)
        label(axes[0, column], "", "training loss", METHODS[name].label, xlog=False)
        label(axes[1, column], "step", "gauge", xlog=False)
        axes[1, column].axhline(1, color="0.3", lw=1.0)
        axes[0, column].legend(frameon=False, fontsize=8)
    return figure


def task_title(task: str) -> str:
    """Return the name of a task as a panel's title."""
    title = TASKS[task].removeprefix("the ")
    return title[0].upper() + title[1:]


def _offset(order: int, cases: int) -> float:
    return 0.16 * ((cases - 1) / 2 - order)


def _key(ax: Axes, cases: list[str]) -> None:
    """Name the markers of the cases."""
    if len(cases) == 1:
        return
    for order, case in enumerate(cases):
        ax.plot([], [], MARKERS[order % 4], color=COLOURS[order], ms=4.5, label=case)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=7.5, frameon=False)


def _rows(ax: Axes, names: list[str], first: Axes) -> None:
    """Name the rows, in the first panel only."""
    ax.set_yticks(range(len(names)), [METHODS[name].label for name in names], fontsize=8.5)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.tick_params(labelleft=ax is first)
