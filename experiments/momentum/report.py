"""The report of the momentum experiment."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.momentum import matrix, newton, noise, tables
from experiments.momentum.config import Config
from experiments.momentum.figures import NAMES, figures
from experiments.momentum.numbers import Estimate, margins
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
VELOCITY = """
With a constant gradient g, heavy ball tends to the speed α‖g‖/(1 − ρ), where α is the learning rate
and ρ the decay. It is larger for ρ near 1, that is for small 1 − ρ, not for small ρ. Nesterov's
method has the same limit.
"""
CURVATURE = """
The Hessian is taken along the path of the first run. Where the loss is a squared error of a model,
the table also has the singular values of the Jacobian of the outputs.
"""


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    quadratics, tuning, surfaces = (results[n] for n in ("quadratics", "tuning", "surfaces"))
    drawn, steps = figures(results), config.surface_steps

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
            [tables.rates_table(quadratics)],
            {"rates.csv": rates.to_csv(index=False, float_format="%.16e")},
        ),
        newton.section(quadratics, results["newton"]),
        section(
            "How fast does momentum move down a slope?",
            _velocity(results["terminal"]),
            VELOCITY,
            ["velocities"],
            [
                tables.terminal_table(results["terminal"]),
                tables.velocities_table(results["velocities"]),
            ],
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
            [tables.surfaces_table(tuning, surfaces), tables.margins_table(tuning, steps)],
        ),
        matrix.section(results["mitigations"], config.decay),
        noise.section(results["escapes"], config.escape_steps),
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
        f"On a quadratic with condition number {condition:,.0f}, heavy-ball momentum needs "
        f"{fast / slow:.0f} times fewer steps than gradient descent."
    )


def _ranks(tuning: xr.Dataset, surfaces: xr.Dataset) -> str:
    """Say on how many surfaces each kind of momentum is faster; a table has by how much."""
    steps = surfaces.sizes["step"] - 1
    parts = [
        f"{NAMES[name]} {_counted(margins(tuning, steps, 'gradient_descent', name))}"
        for name in RACERS[1:]
    ]
    return f"On {len(SURFACES)} badly conditioned surfaces, {'; '.join(parts)}."


def _counted(found: dict[str, Estimate]) -> str:
    """Say on how many surfaces the ratio of gradient descent's steps is above 1, below or open."""
    kinds = {
        "is faster than gradient descent on": [x.low > 1 for x in found.values()],
        "is slower on": [x.high < 1 for x in found.values()],
        "shows no difference on": [x.low <= 1 <= x.high for x in found.values()],
    }
    return ", ".join(f"{kind} {sum(holds)}" for kind, holds in kinds.items() if any(holds))


def _accuracy(quadratics: xr.Dataset) -> str:
    difference = float(abs(quadratics.measured - quadratics.predicted).max())
    return f"The measured factors per step differ from theory by at most {difference:.1e}."


def _velocity(terminal: xr.Dataset) -> str:
    """Compare the speeds with the formula, and say in which direction they change."""
    error = float(abs(terminal.speed / terminal.predicted - 1).max())
    speeds = terminal.speed.transpose("decay", ...)
    changes = speeds.diff("decay").values
    grows = "rises" if (changes > 0).all() else "falls" if (changes < 0).all() else "varies"
    low, high = (float(x) for x in terminal.decay.values[[0, -1]])
    factor = float((speeds.isel(decay=-1) / speeds.isel(decay=0)).mean())
    return (
        f"At α‖g‖/(1 − ρ), to a relative error of {error:.1e}. The speed {grows} with the decay ρ: "
        f"from {low:g} to {high:g} it changes by a factor of {factor:.4g}."
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
    """Say which method needs the fewest steps on which surface, or which do not differ."""
    steps = surfaces.sizes["step"] - 1
    efforts = effort(tuning.settled, steps).min("share")
    titles: dict[str, list[str]] = {}
    for word, surface in SURFACES.items():
        found = efforts.sel(surface=word)
        best = str(found.idxmin("algorithm").item())
        here = tuning.sel(surface=[word])
        ties = [
            NAMES[name]
            for name in RACERS
            if name != best and margins(here, steps, name, best)[word].low <= 1
        ]
        claim = f"{NAMES[best]} is fastest"
        if ties:
            claim = f"there is no difference between {' and '.join([NAMES[best], *ties])}"
        claim = claim if found.min() < steps else "no method reaches the goal"
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
