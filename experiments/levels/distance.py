"""The section on how far the losses are from the best possible."""

import math

import numpy as np
import xarray as xr

from experiments import lab
from experiments.levels import figures
from experiments.levels.references import ALL_INPUTS

BODY = """
The drift is linear and Gaussian, so a Kalman filter that knows it is the best possible predictor.
Its mean loss, the *tracking bound*, depends on the inputs alone, and theory computes it without a
run. The loss of always answering 0 has a closed form. A useful result lies between the two.
[The tracking report](../tracking/report.html) (`python -m experiments tracking`) has the optimizers
and filters that come closer.
"""


def over_seeds(found: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, str]:
    """Return the median loss over seeds, whether any seed diverged, and words for it."""
    if "seed" not in found.dims:
        return found.loss, found.diverged, ""
    # For diverged runs, the median is what a typical seed does; the mean is the largest seed.
    loss, diverged = found.loss.median("seed", skipna=False), found.diverged.any("seed")
    return loss, diverged, f", median over {found.sizes['seed']} seeds"


def section(found: xr.Dataset) -> lab.Section:
    """Return the section."""
    loss, diverged, over = over_seeds(found)
    caption = (
        f"Left: loss ÷ best possible loss{over}, of up to {figures.MOST_LEVELS} model levels; red: "
        "worse than always answering 0. Right: levels at which every run converged, one line for "
        "each data level; the line at 1 is the best possible, dots are always answering 0."
    )
    multiples = figures.draw_multiples(loss, diverged, found.tracking_bound, found.zero_loss)
    return lab.Section(
        title="How far from the best possible?",
        answer=answer(loss, diverged, found),
        body=BODY,
        figures={"multiples": (multiples, caption)},
    )


def answer(loss: xr.DataArray, diverged: xr.DataArray, found: xr.Dataset) -> str:
    """Say how far the best runs are from the bound, and how many are worse than answering 0."""
    fine = loss.where(~diverged)
    converged = int(np.isfinite(fine).sum())
    if not converged:
        return "No run converged."
    ratio = (fine / found.tracking_bound).min("model_level").dropna("data_level")
    worse = int((fine > found.zero_loss).sum())
    return (
        f"The best loss is {_range(ratio.values)} times the best possible one, and {worse} of the "
        f"{converged} runs that converged are worse than always answering 0."
    )


def _range(ratios: np.ndarray) -> str:
    low, high = f"{ratios.min():.1f}", f"{ratios.max():.1f}"
    return low if low == high else f"{low} to {high}"


def rows(found: xr.Dataset) -> tuple[list[list[str]], list[str]]:
    """Return the two rows of the references in the table of losses, and a note on them."""
    table = [
        ["always answer 0", *(f"{math.log10(x):.2f}" for x in found.zero_loss.values)],
        ["best possible", *(f"{math.log10(x):.2f}" for x in found.tracking_bound.values)],
    ]
    few = found.bound_steps.values < found.bound_steps.values.max()
    steps = int(found.bound_steps.values.min())
    note = [
        f"The best possible loss is the mean over {steps:,} steps with more than {ALL_INPUTS} data "
        "levels (within 1 %); --bound full takes all."
    ]
    return table, note if few.any() else []
