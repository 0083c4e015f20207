"""Tables, files and report of the momentum experiment."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table
import xarray as xr

from experiments import _artifacts, _sections
from experiments._momentum_figures import NAMES, figures
from experiments._momentum_runs import CONTROL, FIRST, effort
from experiments._surfaces import SURFACES

TITLE = "Momentum, Nesterov and gradient descent"
CLAIM = """How many steps a quadratic takes is decided by its condition number &kappa;, the largest
over the smallest curvature: about &kappa; for gradient descent, about its square root with
momentum. Four things are measured: the factor by which the error shrinks a step, against theory;
the speed that momentum reaches down a slope; what becomes of the learning rate when momentum is
introduced; and which methods get along on four surfaces that are badly conditioned, each in a way
of its own."""
SMALL = 1e-6
"""Error that counts as solved, of that at the start."""


class Table(NamedTuple):
    """Text, for the terminal and the page.

    Attributes:
        caption: What it shows.
        header: One name a column.
        rows: Cells, the first of each row being its name.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]


def tables(results: Mapping[str, xr.Dataset]) -> dict[str, Table]:
    """Return all tables by name."""
    return {
        "rates": _rates(results["quadratics"]),
        "steps": _steps(results["quadratics"]),
        "velocities": _velocities(results["velocities"]),
        "rescaling": _rescaling(results["regression"]),
        "surfaces": _surfaces(results["tuning"], results["surfaces"]),
        "curvature": _curvature(results["surfaces"]),
    }


def show(results: Mapping[str, xr.Dataset]) -> None:
    """Print the outcome and the tables."""
    console = rich.console.Console()
    # A narrow terminal would cut the numbers; lines that it wraps can still be read.
    console = rich.console.Console(width=max(console.width, 150), highlight=False)
    for made in tables(results).values():
        table = rich.table.Table(
            box=rich.box.SIMPLE_HEAD, show_edge=False, title=made.caption, title_justify="left"
        )
        words = {"surface", "method", "where", "control"}
        for i, name in enumerate(made.header):
            table.add_column(name, justify="right" if i and name not in words else "left")
        for row in made.rows:
            table.add_row(*row)
        console.print(table)
        console.print()
    for sentence in outcome(results):
        console.print(sentence)


def write(folder: Path, made: Mapping[str, Any], results: Mapping[str, xr.Dataset]) -> None:
    """Write every file of the experiment; `made` says how its numbers were made."""
    for name, dataset in results.items():
        _artifacts.write_dataset(folder / f"{name}.nc", dataset)
    quadratics = results["quadratics"][["predicted", "radius", "measured"]]
    rates = quadratics.to_dataframe().reset_index()
    _artifacts.write(folder / "rates.csv", rates.to_csv(index=False, float_format="%.16e"))
    drawn = figures(results)
    _sections.save(folder, drawn)
    made = dict(made) | _sections.seconds(results)
    _artifacts.write(folder / "report.html", _page(made, results, drawn))
    # Last, so that a folder whose config.json tells of a run holds all of it.
    _artifacts.write(folder / "config.json", json.dumps(made, indent=2) + "\n")


def outcome(results: Mapping[str, xr.Dataset]) -> list[str]:
    """Return what came out, in sentences."""
    quadratics, regression = results["quadratics"], results["regression"]
    difference = float(abs(quadratics.measured - quadratics.predicted).max())
    low, high = quadratics.condition.values[[0, -1]]
    sentences = [
        f"On quadratics of condition number {low:.5g} to {high:.5g} the measured factors a step "
        f"differ from theory by at most {difference:.1e}."
    ]
    velocities = results["velocities"]
    error = abs(velocities.speed.isel(step=-1) / velocities.predicted - 1)
    sentences.append(
        f"Down a slope both kinds of momentum reach 1/(1 − decay) times the speed of gradient "
        f"descent, to {float(error.max()):.1e} after {velocities.sizes['step']} steps."
    )
    lost = regression.diverged.any("seed")
    for rate in regression.rate.values:
        which = regression.decay.values[lost.sel(rate=rate).values]
        fine = f"no run of up to decay {regression.decay.values[-1]:g} diverged"
        text = f"runs diverged from decay {which.min():g} on" if which.size else fine
        sentences.append(f"With the learning rate {rate}, {text}.")
    steps = results["surfaces"].sizes["step"] - 1
    efforts = effort(results["tuning"].settled, steps).min("share")
    for word, surface in SURFACES.items():
        found = efforts.sel(surface=word)
        ranks = [
            f"{NAMES[name]} {found.sel({'algorithm': name}):.0f}"
            if found.sel({"algorithm": name}) < steps
            else f"{NAMES[name]} none in {steps}"
            for name in found.algorithm.values[np.argsort(found.values, stable=True)]
        ]
        text = "mean steps to the goal at the best rate"
        sentences.append(f"{surface.title}, {text}: {', '.join(ranks)}.")
    return sentences


def _rates(quadratics):
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
    return Table("Factor by which the error shrinks a step, in the end", header, rows)


def _steps(quadratics):
    """Return the steps until the error is small: the last record above, and what is left."""
    names = quadratics.algorithm.values
    rows = []
    for condition in quadratics.condition.values:
        row = [f"{condition:.5g}"]
        for name in names:
            found = quadratics.sel({"algorithm": name, "condition": condition})
            small = found.log_error.values <= np.log(SMALL)
            # -inf once the error is 0.
            row.append(f"{found.step.values[small.argmax()]}" if small.any() else "not reached")
        rows.append(row)
    stride = int(quadratics.step[0])
    caption = f"Steps until the error is {SMALL:g} of that at the start, in units of {stride}"
    return Table(caption, ["condition number", *(NAMES[name] for name in names)], rows)


def _velocities(velocities):
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
        f"Terminal velocity down a slope, after {velocities.sizes['step']} steps, in learning "
        "rates times gradient"
    )
    return Table(caption, header, rows)


def _rescaling(regression):
    header = ["decay"]
    for rate in regression.rate.values:
        header += [f"rate {rate}, theory", "measured", "± 2 std. err.", "diverged"]
    rows = []
    for decay in regression.decay.values:
        row = [f"{decay:g}"]
        for rate in regression.rate.values:
            found = regression.sel(rate=rate, decay=decay)
            lost, seeds = int(found.diverged.sum()), found.sizes["seed"]
            predicted = float(found.predicted)
            row.append(f"{predicted:.4f}" if np.isfinite(predicted) else "diverges")
            if lost:
                row += ["–", "–"]
            else:
                error = float(2 * found.loss.std("seed", ddof=1) / np.sqrt(seeds))
                row += [f"{float(found.loss.mean()):.4f}", f"{error:.4f}"]
            row.append(f"{lost} of {seeds}")
        rows.append(row)
    caption = "Mean loss of online regression when momentum is introduced"
    return Table(caption, header, rows)


def _surfaces(tuning, surfaces):
    steps = surfaces.sizes["step"] - 1
    header = ["surface", "method", "goal", "learning rate", "mean steps", "arrived"]
    header += ["median last loss", "control", "its fewest steps"]
    rows = []
    for word, surface in SURFACES.items():
        for name in tuning.algorithm.values:
            point = {"surface": word, "algorithm": name}
            rate = surfaces.learning_rate.sel(point)
            share = surfaces.share.sel(point)
            found = tuning.sel({**point, "share": share})
            others = found.drop_sel(start=CONTROL)
            # At the rate that is best for it.
            control = tuning.settled.sel({**point, "start": CONTROL})
            arrived = control.values[control.values >= 0]
            rows.append(
                [
                    surface.title,
                    NAMES[str(name)],
                    f"{surface.goal:g}",
                    f"{float(rate):.3g}",
                    f"{float(effort(found.settled, steps)):.0f}",
                    f"{int((others.settled >= 0).sum())} of {others.sizes['start']}",
                    f"{float(others.loss.median()):.1e}",
                    surface.control_name,
                    str(arrived.min()) if arrived.size else "not reached",
                ]
            )
    caption = (
        f"Four surfaces, each method at the best of {tuning.sizes['share']} learning rates: steps "
        f"until the loss stays below the goal (runs that do not arrive count as {steps})"
    )
    return Table(caption, header, rows)


def _curvature(surfaces):
    header = ["surface", "where", "loss", "largest eigenvalue", "smallest"]
    header += ["condition number", "Jacobian's largest", "and smallest singular value"]
    rows = []
    for word, surface in SURFACES.items():
        for name in surfaces.algorithm.values:
            found = surfaces.sel({"surface": word, "algorithm": name, "start": FIRST})
            ends = [("start", 0), (f"{NAMES[str(name)]}, end", -1)]
            # The start is that of all methods.
            for place, i in ends if name == surfaces.algorithm.values[0] else ends[1:]:
                singular = found.jacobian.isel(end=i).values
                rows.append(
                    [surface.title, place, f"{float(found.height[i]):.1e}"]
                    + [f"{float(found[key][i]):.3g}" for key in ("largest", "smallest")]
                    + [f"{float(found.condition[i]):.3g}"]
                    + [f"{x:.3g}" if np.isfinite(x) else "–" for x in singular]
                )
    return Table("Curvature where the first run starts and ends", header, rows)


def _page(made, results, drawn) -> str:
    made_tables = {
        name: _artifacts.table(t.header, t.rows, t.caption) for name, t in tables(results).items()
    }
    wide = {name: f'<div class="wide">{table}</div>' for name, table in made_tables.items()}
    svgs = _sections.drawn(drawn)
    sentences = "".join(f"<li>{html.escape(sentence)}</li>\n" for sentence in outcome(results))
    reasons = "".join(
        f"<li><strong>{html.escape(surface.title)}.</strong> {html.escape(surface.why)}</li>\n"
        for surface in SURFACES.values()
    )
    files = [f"{name}.nc" for name in results]
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in ("rates.csv", *files))
    body = [
        f"<p>{CLAIM}</p>",
        f"<ul>\n{sentences}</ul>",
        "<h2>Quadratics</h2>",
        svgs["rates"],
        wide["rates"],
        svgs["errors"],
        wide["steps"],
        "<h2>Terminal velocity</h2>",
        svgs["velocities"],
        wide["velocities"],
        "<h2>The learning rate when momentum is introduced</h2>",
        svgs["rescaling"],
        wide["rescaling"],
        "<h2>Four ill-conditioned surfaces</h2>",
        f"<ul>\n{reasons}</ul>",
        svgs["contours"],
        wide["surfaces"],
        svgs["learning_rates"],
        "<h2>Curvature along the way</h2>",
        svgs["along"],
        wide["curvature"],
        *_artifacts.how("momentum", made),
        f'<p>Files beside this page: {links}, <a href="config.json">config.json</a>.</p>',
    ]
    return _artifacts.page(TITLE, body)
