"""The section on Newton's method, which knows the curvature."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments import lab
from experiments.lab.figures import label, legend, panels
from experiments.momentum.figures import NAMES, STYLES
from experiments.momentum.tables import SMALL

BODY = """
Newton's method multiplies the gradient by the inverse of the Hessian. On a quadratic its first step
ends at the minimum, whatever the condition number; the error that is left is rounding. It needs all
curvatures and a linear system per step. The others run at their optimal constants.
"""


def steps_to(errors: np.ndarray, steps: np.ndarray, small: float) -> float:
    """Return the first of `steps` at which the error is at most `small`; inf if none is."""
    reached = errors <= small
    return float(steps[reached.argmax()]) if reached.any() else np.inf


def all_steps(quadratics: xr.Dataset, newton: xr.Dataset) -> dict[str, list[float]]:
    """Return the steps of every method until the error is small, one per condition number."""
    found = {
        NAMES[name]: [
            steps_to(log_errors, quadratics.step.values, np.log(SMALL))
            for log_errors in quadratics.log_error.sel({"algorithm": name}).values
        ]
        for name in quadratics.algorithm.values
    }
    errors = newton.error.transpose("condition", "step").values
    return found | {"Newton": [steps_to(row, newton.step.values, SMALL) for row in errors]}


def section(quadratics: xr.Dataset, newton: xr.Dataset) -> lab.Section:
    """Return the section."""
    counts, conditions = all_steps(quadratics, newton), quadratics.condition.values
    stride = int(quadratics.step[0])
    header = ["condition number", *counts, "Newton, error after one step"]
    left = newton.error.isel(step=0).values
    rows = [
        [f"{condition:.5g}"]
        + [f"{c[i]:.0f}" if np.isfinite(c[i]) else "not reached" for c in counts.values()]
        + [f"{left[i]:.1e}"]
        for i, condition in enumerate(conditions)
    ]
    caption = (
        f"Steps until the error is {SMALL:g} of the initial one (recorded every {stride} steps, "
        "Newton's method every step)"
    )
    return lab.Section(
        "How many steps are left with full knowledge of the curvature?",
        answer(counts, conditions, float(left.max())),
        BODY,
        {"newton": (figure(counts, conditions), f"Steps until the error is {SMALL:g}.")},
        [lab.Table(caption, header, rows)],
    )


def answer(counts: dict[str, list[float]], conditions: np.ndarray, left: float) -> str:
    """Say how many steps Newton's method takes and how many the fastest of the others."""
    others = {name: steps[-1] for name, steps in counts.items() if name != "Newton"}
    name = min(others, key=others.__getitem__)
    most = max(counts["Newton"])
    fastest = f"{name}, the fastest method that uses gradients alone, needs {others[name]:,.0f}"
    if np.isinf(others[name]):
        fastest = "no method that uses gradients alone gets there"
    if np.isinf(most):
        return f"Newton's method leaves an error of {left:.1e} after one step: it fails."
    return (
        f"Newton's method needs {most:.0f} step{'s' if most > 1 else ''} at every condition number "
        f"and leaves a relative error of at most {left:.1e} after one. At a condition "
        f"number of {conditions[-1]:,.0f}, {fastest}."
    )


def figure(counts: dict[str, list[float]], conditions: np.ndarray) -> Figure:
    """Return the steps against the condition number."""
    made, ((ax,),) = panels(1, width=6.4, height=4.4)
    styles = {NAMES[name]: style for name, style in STYLES.items()}
    styles["Newton"] = {"color": "black", "ls": "-", "marker": "*"}
    for name, steps in counts.items():
        ax.loglog(conditions, steps, **styles[name], mfc="none", label=name)
    label(ax, "condition number of the quadratic", "steps")
    legend(made, ax, 3)
    return made
