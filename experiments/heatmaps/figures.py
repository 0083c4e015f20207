"""Figures of the heatmaps, all on one colour scale, and of the slopes."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from experiments.heatmaps.best import best_cell, log_losses
from experiments.heatmaps.config import VARIANTS, Variant
from experiments.heatmaps.numbers import Lengths, Trends
from experiments.lab.figures import COLOURS, DASHES, label, legend, panels, power

MAP = matplotlib.colormaps["viridis"]
LEAST_ERROR = 1e-3
"""Lower end of the scale of errors, since zero has no logarithm."""
WHITE: dict[str, Any] = {"color": "white", "mec": "black"}
STAR: dict[str, Any] = WHITE | {"ls": "", "marker": "*", "ms": 15, "mew": 0.9}
DOTS: dict[str, Any] = WHITE | {"marker": "o", "ms": 5, "lw": 1.2, "mew": 0.8}
CROSS: dict[str, Any] = {"ls": "", "color": "black", "marker": "x", "ms": 8}


def heatmaps(results: Mapping[str, xr.Dataset], found: Trends, metric: str) -> Figure:
    """Draw one metric of all variants, means over seeds: geometric means of losses."""
    norm = _scale(results, metric)
    figure, axes = panels(5, 4, width=16.5, height=3.6)
    axes = axes.ravel()
    for ax, (name, variant) in zip(axes, VARIANTS.items(), strict=False):
        _panel(ax, np.clip(_means(results[name], metric), norm.vmin, norm.vmax), norm)
        _axes(ax, results[name], variant)
        _mark(ax, results[name])
        if name in found:
            decays = found[name]["best"].decays
            clear = np.flatnonzero(np.isfinite(decays))
            ax.plot(decays[clear] - np.log2(results[name].weight_decay.values[0]), clear, **DOTS)
    for ax in axes[len(VARIANTS) :]:
        ax.set_axis_off()
    handles = [
        Line2D([], [], **STAR, label="best cell by validation loss"),
        Line2D([], [], **DOTS, label="best decay of a rate"),
    ]
    if any(bool(dataset.diverged.any()) for dataset in results.values()):
        handles.append(Line2D([], [], **CROSS, label="a seed diverged"))
    # White lines need a darker background than the page's.
    axes[-2].legend(handles=handles, loc="center", facecolor="0.75", fontsize=10, borderpad=0.9)
    place = axes[-1].inset_axes((0.05, 0.1, 0.09, 0.8))
    bar = figure.colorbar(ScalarMappable(norm, MAP), cax=place, extend="both")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    bar.minorticks_off()
    unit = " [nats]" if metric.endswith("loss") else ""
    bar.set_label(f"mean {metric.replace('_', ' ')}{unit}", fontsize=10)
    return figure


def _means(results: xr.Dataset, metric: str) -> np.ndarray:
    if metric.endswith("error"):
        return results[metric].values.mean(2)
    return np.exp(log_losses(results, metric).mean(2))


def _scale(results: Mapping[str, xr.Dataset], metric: str) -> LogNorm:
    """Return the colour scale of all heatmaps of losses, or of errors."""
    guess = max(dataset.attrs["guess"] for dataset in results.values())
    if metric.endswith("error"):
        return LogNorm(LEAST_ERROR, 1 - np.exp(-guess))
    # Training losses share the scale of the validation losses, so that both can be compared.
    least = min(_means(dataset, "validation_loss").min() for dataset in results.values())
    return LogNorm(min(float(least), 0.9 * guess), guess)


def _panel(ax: Axes, values: np.ndarray, norm: LogNorm) -> None:
    edges = [np.arange(n + 1) - 0.5 for n in reversed(values.shape)]
    # Edges in the colour of the face close the hairlines that SVG viewers leave between cells.
    ax.pcolormesh(*edges, values, cmap=MAP, norm=norm, ec="face", lw=0.7)
    ax.grid(visible=False)


def _axes(ax: Axes, results: xr.Dataset, variant: Variant) -> None:
    for axis, name, every in ((ax.xaxis, variant.across, 3), (ax.yaxis, "learning_rate", 2)):
        exponents = np.log2(results[name].values).round().astype(int)
        places = np.flatnonzero(exponents % every == 0)
        axis.set_ticks(places, [power(2, exponents[i]) for i in places])
        axis.set_tick_params(length=2, labelsize=9)
    across = "normalized decay λ√T [per √step]" if variant.normalized else "decay λ [per step]"
    if variant.across == "clip_threshold":
        across = "clip threshold d [RMS of the update]"
    if variant.family == "Adam + L2":
        across = "penalty λ [nats]"
    rate = "learning rate α" if variant.family in ("AdamW", "Adam + L2") else "cap of the step ρ"
    ax.set_xlabel(across, fontsize=9)
    ax.set_ylabel(f"{rate} [per step]", fontsize=9)
    ax.set_title(variant.title.replace(": ", "\n"), fontsize=10)


def _mark(ax: Axes, results: xr.Dataset) -> None:
    """Mark the best cell, and the cells that diverged."""
    rates, diverged = np.nonzero(results.diverged.any("seed").values)
    ax.plot(diverged, rates, **CROSS)
    best = best_cell(results)
    dims = reversed(results.validation_loss.dims[:2])
    ax.plot(*(np.searchsorted(results[dim], best[dim]) for dim in dims), **STAR, zorder=4)


def slopes(found: Trends) -> Figure:
    """Draw the slopes of all heatmaps of weight decay with their intervals."""
    figure, axes = panels(1, width=9.0, height=6.0)
    ax = axes[0, 0]
    for value, dashes in ((0, "-"), (1, "--")):
        ax.axvline(value, color="0.6", lw=1, ls=dashes)
    styles = {"best": (-0.15, COLOURS[0], "o"), "tolerable": (0.15, COLOURS[1], "s")}
    handles, shown = [], []
    for which, (lift, colour, marker) in styles.items():
        style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 5}
        handles.append(Line2D([], [], **style, label=f"{which} decay"))
        for i, one in enumerate(found.values()):
            slope = one[which].slope
            if slope is None:
                place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
                text = f"{which}: too few rates"
                ax.text(0.99, i + lift, text, color=colour, fontsize=8, **place)
                continue
            half = slope.high - slope.estimate
            ax.errorbar([slope.estimate], [i + lift], xerr=half, capsize=3, **style)
            # A wide interval, as of two seeds, would leave no room for the others.
            shown += [slope.estimate - min(half, 3.0), slope.estimate + min(half, 3.0)]
    ax.set_xlim(min([-0.5, *shown]) - 0.1, max([1.5, *shown]) + 0.1)
    ax.set_yticks(range(len(found)), [VARIANTS[name].title for name in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel(
        "slope of log decay against log learning rate\n"
        "0: independent; 1: the decay doubles with the learning rate"
    )
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def lengths(steps: np.ndarray, found: Lengths) -> Figure:
    """Draw the best decay of every length and rate, not normalized and normalized."""
    figure, axes = panels(2, width=9.6, height=3.8)
    for ax, exponent, y in (
        (axes[0, 0], -0.5, "best decay λ [per step]"),
        (axes[0, 1], 0.0, "best normalized decay λ√T [per √step]"),
    ):
        ax.set_yscale("log")  # Before the points, of which there may be none.
        for order, (rate, trend) in enumerate(zip(found.rates, found.trends, strict=True)):
            name = f"α = {power(2, round(np.log2(rate)))}"
            style: dict[str, Any] = {"color": COLOURS[order], "ls": DASHES[order], "marker": "o"}
            ax.plot(steps, 2**trend.decays * steps**exponent, **style, ms=4, label=name)
        label(ax, "length of the run T [steps]", y)
        ax.set_xticks(steps, [f"{n:,}" for n in steps])
        ax.set_xticks([], minor=True)
    # The same factor has the same height in both panels, so that slopes can be compared by eye.
    limits = [np.log(ax.get_ylim()) for ax in axes[0]]
    reach = max(map(np.ptp, limits)) / 2
    for ax, ends in zip(axes[0], limits, strict=True):
        middle = ends.mean()
        ax.set_ylim(np.exp(middle - reach), np.exp(middle + reach))
    legend(figure, axes[0, 0], len(found.rates))
    return figure
