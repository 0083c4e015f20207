"""The figures of the Adafactor experiment's report."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.adafactor.numbers import best_cap
from experiments.adafactor.runs import BETAS, CAP, CLIPS, STEPS
from experiments.lab.figures import (
    COLOURS,
    PREDICTED,
    geometric_interval,
    label,
    legend,
    line,
    panels,
)

TIME = "step t [steps]"
RMS = "largest RMS(u) of a leaf [1]"
UNCLIPPED, CLIPPED = "without clipping", f"clipped at d = {CLIPS[0]:g}"
MARKS = "osD^vPX"


def by_clipping(runs: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the runs without clipping and those with it, seeds first."""
    clipped, free = (runs.sel(clip=clip).transpose("seed", ...) for clip in CLIPS)
    return free, clipped


def gauges(runs: xr.Dataset, t: Any, time: str) -> Figure:
    """Draw RMS(u) without and with clipping, and the clip factor."""
    figure, ((left, middle, right),) = panels(3)
    free, clipped = by_clipping(runs)
    label(left, time, RMS, UNCLIPPED)
    label(middle, time, RMS, CLIPPED)
    label(right, time, "smallest clip factor [1]", CLIPPED)
    for order, beta2 in enumerate(BETAS):
        line(left, t, free.update_rms.sel(beta2=beta2), order, f"β₂ = {beta2}")
        line(middle, t, clipped.update_rms.sel(beta2=beta2), order, "")
        line(right, t, clipped.clip_factor.sel(beta2=beta2), order, "")
    highest = max(ax.get_ylim()[1] for ax in (left, middle))
    for ax in (left, middle):
        ax.axhline(1, **PREDICTED)
        ax.set_ylim(0.1, highest)
    legend(figure, left, 6)
    return figure


def steps(clipped: xr.Dataset) -> Figure:
    """Draw rate, gauge and loss for the three kinds of steps."""
    figure, ((left, middle, right),) = panels(3)
    label(left, TIME, "ηρ, step of a leaf of RMS 1 [1]", "relative step")
    label(middle, TIME, RMS, CLIPPED, ylog=False)
    label(right, TIME, "loss of the batches [nat]", "loss", xlog=False)
    for order, step in enumerate(STEPS):
        runs = clipped.sel(step=step)
        line(left, runs.t, runs.rate, order, step)
        line(middle, runs.t, runs.update_rms, order, step)
        line(right, runs.window, runs.loss, order, step)
    left.set_ylim(CAP / 1e3, 1.5 * CAP)  # A cosine ends near 0.
    middle.set_ylim(bottom=0)
    legend(figure, left, 3)
    return figure


def caps(runs: xr.Dataset) -> Figure:
    """Draw the last loss against the cap, without and with clipping."""
    figure, ((left, right),) = panels(2)
    both = zip((left, right), by_clipping(runs), (UNCLIPPED, CLIPPED), strict=True)
    for ax, part, title in both:
        label(ax, "cap of the relative step [1]", "last training loss [nat]", title)
        for order, beta2 in enumerate(BETAS):
            style = {"marker": MARKS[order], "ms": 4, "mfc": "none"}
            losses = part.train_loss.sel(beta2=beta2)
            line(ax, part.cap, losses, order, f"β₂ = {beta2}", **style)
            best = best_cap(losses)
            loss = geometric_interval(losses.sel(cap=best))[0]
            ax.plot(best, loss, MARKS[order], color=COLOURS[order], ms=5)
    lows, highs = zip(left.get_ylim(), right.get_ylim(), strict=True)
    for ax in (left, right):
        ax.set_ylim(min(lows), max(highs))
    legend(figure, left, 6)
    return figure


def factored(divergences: xr.DataArray) -> Figure:
    """Draw the divergence of each approximation, by layer."""
    figure, ((ax,),) = panels(1, height=2.8)
    label(ax, "KL divergence / ΣV [1]", "", ylog=False)
    places = np.arange(divergences.sizes["approximation"])
    for order, layer in enumerate(divergences.layer.values):
        mean, low, high = geometric_interval(divergences.sel(layer=layer))
        style = {
            "color": COLOURS[order],
            "mfc": "none",
            "ms": 6,
            "ls": "",
            "label": f"{layer} layer",
        }
        heights, bars = places + 0.16 * (order - 0.5), [mean - low, high - mean]
        ax.errorbar(mean, heights, xerr=bars, marker=MARKS[order], **style)
    ax.set_yticks(places, divergences.approximation.values)
    ax.invert_yaxis()
    legend(figure, ax, 2)
    return figure


def memory(results: xr.Dataset) -> Figure:
    """Draw the state's bytes for each byte of parameters."""
    figure, ((ax,),) = panels(1, height=3.6)
    label(ax, "state / parameters [bytes / byte]", "", ylog=False)
    places = np.arange(results.sizes["optimizer"])
    for order, model in enumerate(results.model.values):
        share = (results.state / results.params).sel(model=model)
        # Points that would cover each other are moved apart.
        heights = places + 0.16 * (order - (results.sizes["model"] - 1) / 2)
        style = {"color": COLOURS[order], "ms": 6, "mfc": "none", "ls": ""}
        ax.plot(share, heights, marker=MARKS[order], label=str(model), **style)
    ax.set_yticks(places, results.optimizer.values)
    ax.invert_yaxis()
    legend(figure, ax, 2)
    return figure
