"""Tables of the momentum report."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.lab.figures import number
from experiments.momentum.figures import NAMES
from experiments.momentum.numbers import Estimate, margins
from experiments.momentum.runs import CONTROL, FIRST, RACERS, effort
from experiments.momentum.surfaces import SURFACES

SMALL = 1e-6
"""Error, relative to the initial one, that counts as solved."""


def rates_table(quadratics: xr.Dataset) -> lab.Table:
    """Return predicted and measured factors, one condition number per row."""
    names = quadratics.algorithm.values
    header = ["condition number"]
    header += [f"{NAMES[name]}, {kind}" for name in names for kind in ("theory", "measured")]
    rows = [
        [f"{condition:.5g}"]
        + [
            f"{float(quadratics[kind].sel({'algorithm': name, 'condition': condition})):.6f}"
            for name in names
            for kind in ("predicted", "measured")
        ]
        for condition in quadratics.condition.values
    ]
    return lab.Table("Asymptotic factor of the error per step", header, rows)


def velocities_table(velocities: xr.Dataset) -> lab.Table:
    """Return terminal velocities, one decay per row."""
    names = velocities.algorithm.values
    header = ["decay", "theory"]
    for name in names:
        header += [f"{NAMES[name]}, measured", f"{NAMES[name]}, steps to 95 %"]
    rows = []
    for decay in velocities.decay.values:
        at = velocities.sel(decay=decay)
        row = [f"{decay:g}", f"{float(at.predicted[0]):.6g}"]
        for name in names:
            found = at.sel({"algorithm": name})
            fast = (found.speed >= 0.95 * found.predicted).values
            row.append(f"{float(found.speed[-1]):.6g}")
            row.append(str(1 + int(fast.argmax())) if fast.any() else "not reached")
        rows.append(row)
    caption = (
        f"Velocity down a slope after {velocities.sizes['step']} steps, in units of learning rate "
        "× gradient"
    )
    return lab.Table(caption, header, rows)


def terminal_table(terminal: xr.Dataset) -> lab.Table:
    """Return speed and formula, one decay per row."""
    points = [
        (rate, slope) for rate in terminal.learning_rate.values for slope in terminal.slope.values
    ]
    header = ["decay ρ"]
    header += [f"α {r:g}, ‖g‖ {g:g}: {kind}" for r, g in points for kind in ("formula", "measured")]
    rows = []
    for decay in terminal.decay.values:
        row = [f"{decay:g}"]
        for rate, slope in points:
            found = terminal.sel(learning_rate=rate, slope=slope, decay=decay)
            row += [f"{float(found[kind]):.6g}" for kind in ("predicted", "speed")]
        rows.append(row)
    return lab.Table("Speed of heavy ball against α‖g‖/(1 − ρ)", header, rows)


def rescaling_table(regression: xr.Dataset) -> lab.Table:
    """Return losses with the learning rate kept and rescaled, one decay per row."""
    header = ["decay"]
    for rate in regression.rate.values:
        header += [f"rate {rate}, theory", "measured", "diverged"]
    rows = []
    for decay in regression.decay.values:
        row = [f"{decay:g}"]
        for rate in regression.rate.values:
            found = regression.sel(rate=rate, decay=decay)
            lost, seeds = int(found.diverged.sum()), found.sizes["seed"]
            predicted = float(found.predicted)
            count = f"{lost} of {seeds}"
            row += [
                f"{predicted:.4f}" if np.isfinite(predicted) else lab.Diverged("diverges"),
                "–" if lost else number(found.loss),
                lab.Diverged(count) if lost else count,
            ]
        rows.append(row)
    caption = "Mean loss of online regression, with 95 % intervals"
    return lab.Table(caption, header, rows)


def surfaces_table(tuning: xr.Dataset, surfaces: xr.Dataset) -> lab.Table:
    """Return how runs on the surfaces end, one surface and method per row."""
    steps = surfaces.sizes["step"] - 1
    header = ["surface", "method", "learning rate", "mean steps", "arrived"]
    header += ["median final loss", "fewest steps from the control"]
    rows = []
    for word, surface in SURFACES.items():
        for name in tuning.algorithm.values:
            point = {"surface": word, "algorithm": name}
            rate = surfaces.learning_rate.sel(point)
            share = surfaces.share.sel(point)
            found = tuning.sel({**point, "share": share})
            others = found.drop_sel(start=CONTROL)
            # At the best learning rate for the control.
            control = tuning.settled.sel({**point, "start": CONTROL})
            arrived = control.values[control.values >= 0]
            rows.append(
                [
                    surface.title,
                    NAMES[str(name)],
                    f"{float(rate):.3g}",
                    f"{float(effort(found.settled, steps)):.0f}",
                    f"{int((others.settled >= 0).sum())} of {others.sizes['start']}",
                    f"{float(others.loss.median()):.1e}",
                    str(arrived.min()) if arrived.size else "not reached",
                ]
            )
    caption = (
        f"Each method at the best of {tuning.sizes['share']} learning rates: steps until the loss "
        f"stays below the goal (runs that do not arrive count as {steps})"
    )
    return lab.Table(caption, header, rows, screen=True)


def ratio(found: Estimate) -> str:
    """Return a ratio of steps with its interval."""
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def margins_table(tuning: xr.Dataset, steps: int) -> lab.Table:
    """Return how many times fewer steps one method takes than another, one surface per row."""
    pairs = [(slow, fast) for i, slow in enumerate(RACERS) for fast in RACERS[i + 1 :]]
    found = {pair: margins(tuning, steps, *pair) for pair in pairs}
    header = ["surface", *(f"{NAMES[slow]} / {NAMES[fast]}" for slow, fast in pairs)]
    rows = [
        [surface.title, *(ratio(found[pair][word]) for pair in pairs)]
        for word, surface in SURFACES.items()
    ]
    caption = "Ratios of the mean steps, with 95 % intervals (bootstrap over starts and rates)"
    notes = [
        "An interval that includes 1 shows no difference.",
        f"Runs that do not arrive count as {steps} steps.",
    ]
    return lab.Table(caption, header, rows, notes)


def curvature_table(surfaces: xr.Dataset) -> lab.Table:
    """Return the curvature at the ends of the first runs."""
    header = ["surface", "where", "loss", "largest eigenvalue", "smallest"]
    header += ["condition number", "largest singular value", "smallest"]
    rows = []
    for word, surface in SURFACES.items():
        for name in surfaces.algorithm.values:
            found = surfaces.sel({"surface": word, "algorithm": name, "start": FIRST})
            ends = [("start", 0), (f"{NAMES[str(name)]}, end", -1)]
            # All methods share the start.
            for place, i in ends if name == surfaces.algorithm.values[0] else ends[1:]:
                singular = found.jacobian.isel(end=i).values
                rows.append(
                    [surface.title, place, f"{float(found.height[i]):.1e}"]
                    + [f"{float(found[key][i]):.3g}" for key in ("largest", "smallest")]
                    + [f"{float(found.condition[i]):.3g}"]
                    + [f"{x:.3g}" if np.isfinite(x) else "–" for x in singular]
                )
    return lab.Table("Curvature where the first run starts and ends", header, rows)
