"""Figures of the tracking experiment."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from experiments.lab.figures import COLOURS, label, legend, panels
from experiments.tracking.compared import METHODS
from experiments.tracking.numbers import multiples, order, penalties
from experiments.tracking.streams import COMPARED, SERIES

MARKERS = "osD^v<>"
MULTIPLE = "loss ÷ best possible loss"


def draw_answer(results: dict[str, xr.Dataset]) -> Figure:
    """Draw how far each method is from the bound, and the cost of assuming the wrong levels."""
    figure, axes = panels(2, height=5.2, widths=(1.35, 1))
    _methods(axes[0, 0], results)
    _map(axes[0, 1], results)
    legend(figure, axes[0, 0], 5)
    return figure


def draw_map(results: dict[str, xr.Dataset]) -> Figure:
    """Draw the loss of filters by the levels that they assume and those of the data."""
    figure, axes = panels(1, width=5.6, height=4.6)
    _map(axes[0, 0], results)
    return figure


def _methods(ax: Axes, results: dict[str, xr.Dataset]) -> None:
    found, references = multiples(results), results["references"]
    names = order(results)[::-1]
    rows = np.arange(len(names))
    for i, d in enumerate(found.data_level.values):
        mean = found.sel(data_level=d, optimizer=names).mean("seed", skipna=False)
        ax.plot(
            mean,
            rows,
            MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            ms=5,
            ls="",
            label=f"{d} data level{'' if d == 1 else 's'}",
        )
    worst = float((references.zero / references.bound).min())
    ax.axvline(1, color="0.3", lw=1.2)
    ax.axvline(worst, color="0.3", lw=0.8, ls=":")
    ax.text(worst, len(names) - 0.4, "always 0", fontsize=8, ha="center", color="0.3")
    ax.set_yticks(rows, [METHODS[name].label for name in names])
    ax.set_ylim(-0.6, len(names) - 0.1)
    label(ax, MULTIPLE, "", ylog=False)
    ax.set_xlim(0.95, min(4.0, ax.get_xlim()[1]))
    _plain(ax)


def _map(ax: Axes, results: dict[str, xr.Dataset]) -> None:
    penalty = penalties(results).transpose("assumed_level", "data_level")
    shown = ax.imshow(np.log(penalty.values), cmap="viridis_r", origin="lower", aspect="auto")
    bright = np.asarray(shown.norm(np.log(penalty.values))) < 0.6
    for i, row in enumerate(penalty.values):
        for j, value in enumerate(row):
            colour = "black" if bright[i, j] else "white"
            weight = "bold" if i == j else "normal"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, weight=weight)
    for name, axis in (("data_level", "x"), ("assumed_level", "y")):
        getattr(ax, f"set_{axis}ticks")(range(penalty.sizes[name]), penalty[name].values)
    ax.grid(False)
    title = "Kalman filters: loss ÷ column's best"
    label(ax, "levels of the data", "levels that the filter assumes", title, False, False)


def draw_series(results: dict[str, xr.Dataset]) -> Figure:
    """Draw the loss of each method on each series, relative to predicting no change."""
    figure, axes = panels(len(SERIES), height=4.6)
    loss = results["streams"].loss
    names = [*COMPARED][::-1]
    for ax, name in zip(axes[0], SERIES, strict=True):
        ax.plot(loss.sel(series=name, optimizer=names), range(len(names)), "o", color=COLOURS[0])
        ax.axvline(1, color="0.3", lw=0.8, ls=":")
        label(ax, "loss ÷ no change", "", SERIES[name].label, xlog=False, ylog=False)
        ax.set_yticks(range(len(names)), [COMPARED[one].label for one in names], fontsize=8)
        if ax is not axes[0, 0]:
            ax.tick_params(labelleft=False)
    return figure


def _plain(ax: Axes) -> None:
    """Write small multiples as numbers and not as powers."""
    ticks = [tick for tick in (1, 1.2, 1.5, 2, 3, 4) if tick <= ax.get_xlim()[1]]
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
