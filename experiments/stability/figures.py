"""Figures of the stability experiment."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.lab.figures import COLOURS, PREDICTED, label, legend, panels
from experiments.stability.config import Config
from experiments.stability.numbers import (
    Hypothesis,
    crossings,
    diverged,
    estimate,
    growth_bounds,
    measured_growth,
)
from experiments.stability.schemes import FIXED, PROBED, SCHEMES, TUNED

LEVELS = "momentum levels in the model"
LOSS = "mean loss [squared error]"
STEPS = 1000
"""Growth is given for this many steps."""
MARKERS = "osDvxP*"


def draw_answer(config: Config, results: dict[str, xr.Dataset]) -> Figure:
    """Draw the largest stable rate, and the loss with as many levels as the data or not."""
    figure, axes = panels(2, height=4.2)
    left, right = axes[0]
    growth = results["growth"]
    levels = growth.model_level.values
    crossing = estimate(crossings(results["thresholds"].growth))
    for i, name in enumerate(PROBED):
        limit = growth.mean_square_limit.sel(scheme=name)
        left.plot(levels, limit, color=COLOURS[i], lw=1.2)
        mean, half = (part.sel(scheme=name) for part in crossing)
        _points(left, levels, mean, half, i, SCHEMES[name].label)
    left.axhline(config.learning_rate, **PREDICTED | {"ls": "--"}, label="given learning rate")
    label(left, LEVELS, "largest stable learning rate", "why levels diverge", xlog=False)
    draw_ratios(right, config, results["losses"], "tuned_equal")
    right.set_title("does matching help? equal decays, tuned rate", fontsize=10.5, loc="left")
    right.legend(frameon=False, fontsize=8)
    _whole(left)
    legend(figure, left, 3)
    return figure


def draw_ratios(ax: Axes, config: Config, losses: xr.Dataset, name: str) -> None:
    """Draw the loss of each model level over the smallest of its data level; square: as many."""
    loss = losses.loss.where(~diverged(config, losses)).sel(scheme=name)
    loss = np.exp(np.log(loss).mean("seed", skipna=False))
    ratio = loss / loss.min("model_level")
    models = ratio.model_level.values
    for i, d in enumerate(shown_levels(ratio)):
        ratios = ratio.sel(data_level=d)
        text = f"{d} data level{'s' * (d > 1)}"
        ax.plot(models, ratios, ".-", color=COLOURS[i], lw=1.2, ms=4, label=text)
        if d in models:
            ax.plot(d, ratios.sel(model_level=d), "s", ms=10, mfc="none", color=COLOURS[i])
    text = "loss / smallest of its data level"
    label(ax, LEVELS, text, SCHEMES[name].label, xlog=False, ylog=False)
    _whole(ax)


def draw_growth(growth: xr.Dataset) -> Figure:
    """Draw predicted and measured growth, and how far the predictions are off."""
    figure, axes = panels(2, height=4.2)
    left, right = axes[0]
    low, high = (STEPS * bound for bound in growth_bounds(growth))
    mean, half = (STEPS * part for part in measured_growth(growth))
    levels = growth.model_level.values
    for i, name in enumerate(PROBED):
        at = {"scheme": name}
        bounds = low.sel(at).values, high.sel(at).values
        left.fill_between(levels, *bounds, color=COLOURS[i], alpha=0.18, lw=0)
        _points(left, levels, mean.sel(at), half.sel(at), i, SCHEMES[name].label)
    # With matched delays the mean alone shrinks far faster than runs do.
    left.set_ylim(1.35 * float((mean - half).min()), None)
    text = f"growth of ln loss [per {STEPS:,} steps]"
    label(left, LEVELS, text, xlog=False, ylog=False)
    low, high, mean, half = (part.sel(scheme="equal").values for part in (low, high, mean, half))
    rising = mean - half > 0
    at, reference = levels[rising], mean[rising]
    for bound, name, dashes in ((low, "mean", ":"), (high, "mean square", "-")):
        off = 100 * (bound[rising] / reference - 1)
        right.plot(at, off, dashes, marker=".", color=COLOURS[0], label=f"predicted, {name}")
    share = 100 * half[rising] / reference
    right.fill_between(at, -share, share, color="0.6", alpha=0.5, lw=0, label="measured, 95 %")
    right.set_ylim(-25, 25)
    right.legend(frameon=False, fontsize=8)
    label(
        right, LEVELS, "predicted above measured [%]", "equal decays, where growing", False, False
    )
    for ax in (left, right):
        ax.axhline(0, color="0.3", lw=0.8)
        _whole(ax)
    legend(figure, left, 4)
    return figure


def draw_stationary(config: Config, losses: xr.Dataset) -> Figure:
    """Draw mean losses at the given rate and their predictions."""
    names = "equal", "matched", "zero_lag"
    figure, axes = panels(len(names), height=4.2)
    levels = losses.model_level.values
    fine = ~diverged(config, losses).any("seed")
    mean, half = (part.where(fine) for part in estimate(losses.loss))
    predicted = losses.predicted_loss.where(np.isfinite(losses.predicted_loss))
    for ax, name in zip(axes[0], names, strict=True):
        for i, d in enumerate(shown_levels(losses)):
            at = {"scheme": name, "data_level": d}
            ax.plot(levels, predicted.sel(at), color=COLOURS[i], lw=1.2)
            text = f"{d} data level{'s' * (d > 1)}"
            _points(ax, levels, mean.sel(at), half.sel(at), i, text)
        label(ax, LEVELS, LOSS if ax is axes[0, 0] else "", SCHEMES[name].label, xlog=False)
        ax.sharey(axes[0, 0])
        ax.set_xlim(0.5, levels[-1] + 0.5)
        _whole(ax)
    top = float(mean.sel(scheme=[*names]).max())
    if np.isfinite(top):  # Predictions near the edge of stability are far above.
        axes[0, 0].set_ylim(0.8 * float(mean.min()), 2 * top)
    legend(figure, axes[0, 0], 5)
    return figure


def draw_remedies(config: Config, losses: xr.Dataset) -> Figure:
    """Draw what becomes of the loss under every scheme that is not tuned."""
    figure, axes = panels(1, height=4.8)
    ax = axes[0, 0]
    loss = losses.loss.mean("seed").median("data_level")
    loss = loss.where(~diverged(config, losses).any(("seed", "data_level")))
    for i, name in enumerate((*FIXED, "rescaled")):
        style = {"color": COLOURS[i], "marker": MARKERS[i], "label": SCHEMES[name].label}
        ax.plot(losses.model_level, loss.sel(scheme=name), lw=1.2, ms=5, **style)
    label(ax, LEVELS, LOSS, xlog=False)
    _whole(ax)
    legend(figure, ax, 3)
    return figure


def draw_hypothesis(config: Config, losses: xr.Dataset) -> Figure:
    """Draw the loss relative to the smallest of its data level, for every tested scheme."""
    figure, axes = panels(2, 2)
    for ax, name in zip(axes.flat, ("matched", *TUNED), strict=True):
        draw_ratios(ax, config, losses, name)
    legend(figure, axes[0, 0], 5)
    return figure


def draw_offsets(found: dict[str, Hypothesis]) -> Figure:
    """Draw the loss by how many levels the model has more than the data."""
    figure, axes = panels(1, height=4.2)
    ax = axes[0, 0]
    for i, (name, one) in enumerate(found.items()):
        mean, half = one.by_offset
        ax.plot(mean.offset, mean, color=COLOURS[i], label=SCHEMES[name].label, lw=1.4)
        ax.fill_between(mean.offset, mean - half, mean + half, color=COLOURS[i], alpha=0.2, lw=0)
    ax.axvline(0, color="0.3", lw=0.8)
    text = "ln(loss / mean of its data level)"
    label(ax, "model levels − data levels", text, xlog=False, ylog=False)
    _whole(ax)
    legend(figure, ax, 2)
    return figure


def shown_levels(found: xr.Dataset | xr.DataArray) -> list[int]:
    """Return the data levels that figures show: too many lines hide each other."""
    last = int(found.data_level.max())
    return [d for d in dict.fromkeys((1, 2, 4, 8, last)) if d <= last]


def _points(
    ax: Axes, x: Any, mean: xr.DataArray, half: xr.DataArray, order: int, name: str
) -> None:
    """Draw measured means with their intervals."""
    style = {"color": COLOURS[order], "marker": MARKERS[order], "ls": "", "ms": 4, "lw": 1}
    ax.errorbar(x, mean.values, half.values, capsize=2.5, label=name, **style)


def _whole(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
