"""The report of the momentum experiment."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.momentum import tables
from experiments.momentum.config import Config
from experiments.momentum.figures import NAMES, figures
from experiments.momentum.runs import FIRST, RACERS, effort
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
    reasons = "\n".join(
        f"- **{surface.title}.** {surface.why} Goal: a loss below {surface.goal:g}. Control: "
        f"{surface.control_name}."
        for surface in SURFACES.values()
    )
    return [
        section(
            "Quadratics",
            f"{_speed(quadratics)} {_ranks(tuning, surfaces)} {_accuracy(quadratics)}",
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
            "Must the learning rate change when momentum is introduced?",
            _rescaling(results["regression"]),
            "",
            ["rescaling"],
            [tables.rescaling_table(results["regression"])],
        ),
        section(
            "Which method is fastest on badly conditioned surfaces?",
            _efforts(tuning, surfaces),
            SURFACES_INTRO + reasons,
            ["contours", "learning_rates"],
            [tables.surfaces_table(tuning, surfaces)],
        ),
        section(
            "How is each surface badly conditioned?",
            _curvature(surfaces),
            CURVATURE,
            ["along"],
            [tables.curvature_table(surfaces)],
        ),
    ]


def _speed(quadratics: xr.Dataset) -> str:
    """Say how much faster momentum is on the worst quadratic."""
    condition = float(quadratics.condition[-1])
    slow, fast = (
        -np.log(float(quadratics.measured.isel(condition=-1).sel({"algorithm": name})))
        for name in ("gradient_descent", "heavy_ball")
    )
    return (
        f"On a quadratic with condition number {condition:.5g}, heavy-ball momentum needs "
        f"{fast / slow:.0f} times fewer steps than gradient descent."
    )


def _ranks(tuning: xr.Dataset, surfaces: xr.Dataset) -> str:
    """Say on how many surfaces each kind of momentum is faster."""
    efforts = effort(tuning.settled, surfaces.sizes["step"] - 1).min("share")
    faster = (efforts < efforts.sel({"algorithm": "gradient_descent"})).sum("surface")
    heavy_ball, nesterov = (int(faster.sel({"algorithm": name})) for name in RACERS[1:])
    return (
        f"On {len(SURFACES)} badly conditioned surfaces, heavy ball is faster than gradient "
        f"descent on {heavy_ball} and Nesterov's method on {nesterov}."
    )


def _accuracy(quadratics: xr.Dataset) -> str:
    difference = float(abs(quadratics.measured - quadratics.predicted).max())
    return f"The measured factors per step differ from theory by at most {difference:.1e}."


def _velocity(velocities: xr.Dataset) -> str:
    error = abs(velocities.speed.isel(step=-1) / velocities.predicted - 1)
    return (
        f"After {velocities.sizes['step']} steps, both kinds of momentum move at 1/(1 − decay) "
        f"times the speed of gradient descent, to a relative error of {float(error.max()):.1e}."
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
    """Say which method needs the fewest steps on which surface."""
    steps = surfaces.sizes["step"] - 1
    efforts = effort(tuning.settled, steps).min("share")
    titles: dict[str, list[str]] = {}
    for word, surface in SURFACES.items():
        found = efforts.sel(surface=word)
        name = NAMES[found.idxmin("algorithm").item()]
        claim = f"{name} is fastest" if found.min() < steps else "no method reaches the goal"
        titles.setdefault(claim, []).append(f"“{surface.title}”")
    claims = [f"{claim} on {' and '.join(where)}" for claim, where in titles.items()]
    return f"With each method at its best learning rate, {'; '.join(claims)}."


def _curvature(surfaces: xr.Dataset) -> str:
    """Compare the condition numbers at the start, and say where a path has negative curvature."""
    first = surfaces.sel(start=FIRST)
    # All methods share the start.
    condition = first.condition.isel(step=0, algorithm=0)
    negative = (first.smallest < 0).any(["algorithm", "step"])
    (low, least), (high, most) = (
        (float(condition.sel(surface=word)), SURFACES[word.item()].title)
        for word in (condition.idxmin("surface"), condition.idxmax("surface"))
    )
    return (
        f"At the start, the condition number ranges from {low:.3g} on “{least}” to {high:.3g} on "
        f"“{most}”. On {int(negative.sum())} of {negative.size} surfaces, the paths pass through "
        "negative curvature, where the condition number predicts no rate."
    )
