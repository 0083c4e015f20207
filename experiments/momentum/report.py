"""The report of the momentum experiment."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.momentum import tables
from experiments.momentum.config import Config
from experiments.momentum.figures import NAMES, figures
from experiments.momentum.runs import effort
from experiments.momentum.surfaces import SURFACES

QUADRATICS = """
The number of steps on a quadratic depends on its condition number κ, the largest over the smallest
curvature: about κ for gradient descent, about √κ with momentum. Every method runs at its optimal
constants, and the factor by which the error shrinks per step is fitted to the last half of the run.
"""
SURFACES_INTRO = """
Each surface is badly conditioned in its own way. Every method runs at the best of the learning
rates in the last figure, from the start, from random starts around it, and from a control.

"""
CURVATURE = """
The Hessian is taken along the path of the first run. Where the loss is a squared error of a model,
the table also has the singular values of the Jacobian of the outputs.
"""


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    quadratics, tuning, surfaces = (results[n] for n in ("quadratics", "tuning", "surfaces"))
    drawn = figures(results)

    def section(title, answer, body, names, made, files=None):
        return lab.Section(title, answer, body, {n: drawn[n] for n in names}, made, files or {})

    rates = quadratics[["predicted", "radius", "measured"]].to_dataframe().reset_index()
    reasons = "\n".join(f"- **{surface.title}.** {surface.why}" for surface in SURFACES.values())
    return [
        section(
            "Quadratics",
            f"{_speed(quadratics)} {_ranks(tuning, surfaces)}",
            QUADRATICS,
            ["rates", "errors"],
            [tables.rates_table(quadratics), tables.steps_table(quadratics)],
            {"rates.csv": rates.to_csv(index=False, float_format="%.16e")},
        ),
        section(
            "How fast does momentum move down a slope?",
            _velocity(results["velocities"]),
            "",
            ["velocities"],
            [tables.velocities_table(results["velocities"])],
        ),
        section(
            "What happens to the learning rate when momentum is introduced?",
            _rescaling(results["regression"]),
            "",
            ["rescaling"],
            [tables.rescaling_table(results["regression"])],
        ),
        section(
            "Which method gets along on badly conditioned surfaces?",
            _efforts(tuning, surfaces),
            SURFACES_INTRO + reasons,
            ["contours", "learning_rates"],
            [tables.surfaces_table(tuning, surfaces)],
        ),
        section(
            "How does the curvature change along the way?",
            _curvature(surfaces),
            CURVATURE,
            ["along"],
            [tables.curvature_table(surfaces)],
        ),
    ]


def _speed(quadratics: xr.Dataset) -> str:
    """Say how much faster momentum is on the worst quadratic, and how well theory knows."""
    condition = float(quadratics.condition[-1])
    slow, fast = (
        -np.log(float(quadratics.measured.isel(condition=-1).sel({"algorithm": name})))
        for name in ("gradient_descent", "heavy_ball")
    )
    difference = float(abs(quadratics.measured - quadratics.predicted).max())
    return (
        f"On a quadratic with condition number {condition:.5g}, heavy-ball momentum needs "
        f"{fast / slow:.0f} times fewer steps than gradient descent. The measured rates differ "
        f"from theory by at most {difference:.1e}."
    )


def _ranks(tuning: xr.Dataset, surfaces: xr.Dataset) -> str:
    """Say on which surfaces momentum is faster."""
    efforts = effort(tuning.settled, surfaces.sizes["step"] - 1).min("share")
    plain = efforts.sel({"algorithm": "gradient_descent"})
    faster = (efforts.drop_sel({"algorithm": "gradient_descent"}).min("algorithm") < plain).values
    return (
        f"It also needs fewer steps on {faster.sum()} of {faster.size} badly conditioned surfaces."
    )


def _velocity(velocities: xr.Dataset) -> str:
    error = abs(velocities.speed.isel(step=-1) / velocities.predicted - 1)
    return (
        "Both kinds of momentum reach 1/(1 − decay) times the speed of gradient descent, to "
        f"{float(error.max()):.1e} after {velocities.sizes['step']} steps."
    )


def _rescaling(regression: xr.Dataset) -> str:
    lost, sentences = regression.diverged.any("seed"), []
    for rate in regression.rate.values:
        which = regression.decay.values[lost.sel(rate=rate).values]
        found = f"runs diverge from a decay of {which.min():g} on" if which.size else ""
        fine = f"no run diverges up to a decay of {regression.decay.values[-1]:g}"
        sentences.append(f"With the learning rate {rate}, {found or fine}.")
    return " ".join(sentences)


def _efforts(tuning: xr.Dataset, surfaces: xr.Dataset) -> str:
    """Rank the methods on every surface by their mean steps to the goal."""
    steps = surfaces.sizes["step"] - 1
    efforts = effort(tuning.settled, steps).min("share")
    sentences = []
    for word, surface in SURFACES.items():
        found = efforts.sel(surface=word)
        ranks = [
            f"{NAMES[name]} {found.sel({'algorithm': name}):.0f}"
            if found.sel({"algorithm": name}) < steps
            else f"{NAMES[name]} never"
            for name in found.algorithm.values[np.argsort(found.values, stable=True)]
        ]
        sentences.append(f"{surface.title}: {', '.join(ranks)}.")
    return "Mean steps to the goal at the best learning rate. " + " ".join(sentences)


def _curvature(surfaces: xr.Dataset) -> str:
    """Say where the curvature changes most."""
    change = {}
    for word, surface in SURFACES.items():
        along = surfaces.largest.sel(surface=word, start=0)
        along = along.where(np.isfinite(along) & (along > 0))
        change[surface.title] = float((along.max("step") / along.min("step")).max())
    title = max(change, key=lambda name: change[name])
    return (
        f"Most on “{title}”: the largest eigenvalue varies by a factor of {change[title]:.3g} "
        "along a path."
    )
