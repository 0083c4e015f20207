"""Figures of the heatmaps: all on one colour scale, and the slopes of their basins."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from experiments import _heatmaps_numbers as numbers
from experiments._heatmaps_variants import VARIANTS, Variant

COLOURS = matplotlib.colormaps["viridis"]
BEST, TOLERABLE = "#0072b2", "#d55e00"  # Blue and vermilion of Okabe and Ito.
LEAST_ERROR = 1e-3
"""Lower end of the scale of errors, since zero has no logarithm."""
RATE = {
    "AdamW": "learning rate α [per step]",
    "factored AdamW": "cap of the step ρ [per step]",
    "Adafactor": "cap of the step ρ [per step]",
}


def heatmaps(
    results: Mapping[str, xr.Dataset],
    found: Mapping[str, numbers.Diagonality],
    metric: str,
    label: str,
) -> Figure:
    """Draw one metric of all variants, means over seeds: geometric ones of losses."""
    cells = {name: means(results[name], VARIANTS[name].across, metric) for name in VARIANTS}
    norm = scale(results, metric)
    figure = Figure(figsize=(13.5, 14.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, 4).ravel()
    for ax, (name, variant) in zip(axes, VARIANTS.items(), strict=False):
        values = np.clip(cells[name], norm.vmin, norm.vmax)
        _panel(ax, values, norm, results[name], variant)
        diverged = results[name].diverged.any("seed").transpose("learning_rate", variant.across)
        if diverged.any():
            lines = LineCollection(_crosses(diverged.values), colors="black", lw=0.6)
            ax.add_collection(lines)
        _mark(ax, results[name], variant, found.get(name))
    for ax in axes[len(VARIANTS) :]:
        ax.set_axis_off()
    _legend(axes[len(VARIANTS)], any(bool(d.diverged.any()) for d in results.values()))
    place = axes[-1].inset_axes((0.05, 0.1, 0.09, 0.8))
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), cax=place, extend="both")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    bar.minorticks_off()
    bar.set_label("\n".join(_wrapped(label)), fontsize=10)
    return figure


def means(results: xr.Dataset, across: str, metric: str) -> np.ndarray:
    """Return the means over seeds that are drawn, rates first."""
    values = results[metric].transpose("learning_rate", across, "seed").values
    if metric.endswith("error"):
        return values.mean(2)
    guess = results.attrs["guess"]
    with np.errstate(divide="ignore"):
        return np.exp(np.log(np.where(values < guess, values, guess)).mean(2))


def scale(results: Mapping[str, xr.Dataset], metric: str) -> LogNorm:
    """Return the colour scale of all heatmaps of losses, or of errors."""
    guess = max(dataset.attrs["guess"] for dataset in results.values())
    if metric.endswith("error"):
        return LogNorm(LEAST_ERROR, 1 - np.exp(-guess))
    # That of the test loss for both: what a training loss is below it is beyond all tests.
    least = min(
        means(results[name], variant.across, "test_loss").min()
        for name, variant in VARIANTS.items()
    )
    return LogNorm(min(float(least), 0.9 * guess), guess)


def _panel(ax: Axes, values: np.ndarray, norm: LogNorm, results: xr.Dataset, variant: Variant):
    edges = [np.arange(n + 1) - 0.5 for n in reversed(values.shape)]
    # Edges in the colour of the face close the hairlines that SVG viewers leave between cells.
    ax.pcolormesh(*edges, values, cmap=COLOURS, norm=norm, ec="face", lw=0.7)
    for axis, name, every in ((ax.xaxis, variant.across, 3), (ax.yaxis, "learning_rate", 2)):
        exponents = np.log2(results[name].values).round().astype(int)
        places = np.flatnonzero(exponents % every == 0)
        axis.set_ticks(places, [f"$2^{{{exponents[i]}}}$" for i in places])
        axis.set_tick_params(length=2, labelsize=9)
    across = "decay λ [per step]"
    if variant.across == "clip_threshold":
        across = "clip threshold d [RMS of the update]"
    elif variant.normalized:
        across = "normalized decay λ√T [per √step]"
    ax.set_xlabel(across, fontsize=9)
    ax.set_ylabel(RATE[variant.family], fontsize=9)
    ax.set_title(variant.title.replace(": ", "\n"), fontsize=10)


def _mark(
    ax: Axes, results: xr.Dataset, variant: Variant, found: numbers.Diagonality | None
) -> None:
    """Mark the best cell, and the best decay of each rate."""
    across = np.log2(results[variant.across].values)
    if found is not None:
        told = np.flatnonzero(np.isfinite(found.best))
        style: dict[str, Any] = {"color": "white", "mec": "black", "mew": 0.8, "ms": 5, "lw": 1.2}
        ax.plot(found.best[told] - across[0], told, "o-", **style)
    best = numbers.best_cell(results, variant.across)
    place = (
        int(np.flatnonzero(results[variant.across].values == float(best[variant.across]))[0]),
        int(np.flatnonzero(results.learning_rate.values == float(best.learning_rate))[0]),
    )
    ax.plot(*place, "*", color="white", mec="black", mew=0.9, ms=15, zorder=4)


def _legend(ax: Axes, diverged: bool) -> None:
    white: dict[str, Any] = {"color": "white", "mec": "black"}
    handles = [
        Line2D([], [], ls="", marker="*", ms=15, **white, label="best cell by test loss"),
        Line2D([], [], marker="o", ms=5, lw=1.2, **white, label="best decay of a rate"),
    ]
    if diverged:
        cross = {"ls": "", "marker": "x", "color": "black", "ms": 9}
        handles.append(Line2D([], [], **cross, label="a seed diverged"))
    # White lines need another ground than the page's.
    ax.legend(handles=handles, loc="center", facecolor="0.75", fontsize=10, borderpad=0.9)


def _crosses(mask: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return both diagonals of every cell in `mask`."""
    corners = np.argwhere(mask) - 0.5
    rising = [((j, i), (j + 1, i + 1)) for i, j in corners]
    return rising + [((j + 1, i), (j, i + 1)) for i, j in corners]


def _wrapped(label: str) -> list[str]:
    """Return the words in two lines of about one length."""
    words = label.split()
    half = len(label) / 2
    first = 1
    while first < len(words) and len(" ".join(words[: first + 1])) <= half + 3:
        first += 1
    return [" ".join(words[:first]), " ".join(words[first:])]


def slopes(found: Mapping[str, numbers.Diagonality]) -> Figure:
    """Draw the slopes of all basins with their intervals."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for value, dashes in ((0, "-"), (1, "--")):
        ax.axvline(value, color="0.6", lw=1, ls=dashes)
    for i, one in enumerate(found.values()):
        for word, slope, lift, colour, marker in (
            ("best", one.slope_best, -0.15, BEST, "o"),
            ("tolerable", one.slope_tolerable, 0.15, TOLERABLE, "s"),
        ):
            if slope is None:
                place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
                ax.text(0.99, i + lift, f"{word}: not told", color=colour, fontsize=8, **place)
                continue
            ends = [[slope.estimate - slope.low], [slope.high - slope.estimate]]
            style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 5, "capsize": 3}
            ax.errorbar([slope.estimate], [i + lift], xerr=ends, **style)
    # Wide intervals, as of two seeds, would leave no room for the others.
    shown = [s for one in found.values() for s in (one.slope_best, one.slope_tolerable) if s]
    low = min([-0.5, *(max(s.low, s.estimate - 3) for s in shown)])
    high = max([1.5, *(min(s.high, s.estimate + 3) for s in shown)])
    ax.set_xlim(low - 0.1, high + 0.1)
    ax.set_yticks(range(len(found)), [VARIANTS[name].title for name in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel(
        "slope of log₂ decay over log₂ rate [powers of two for one]\n"
        "0: the two can be tuned apart; 1: the decay has to be doubled with the rate"
    )
    handles = [
        Line2D([], [], color=BEST, marker="o", ms=5, label="best decay"),
        Line2D([], [], color=TOLERABLE, marker="s", ms=5, label="tolerable decay"),
    ]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    ax.grid(axis="x", lw=0.3)
    return figure
