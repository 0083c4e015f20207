"""Tables, files and report of the stability experiment, all made from its stored results."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
import xarray as xr

from experiments import _artifacts, _sections, _stability_figures
from experiments import _stability_answers as answers
from experiments import _stability_words as words
from experiments._stability_figures import LABELS, STEPS

TITLE = "Why levels of momentum diverge, and whether matching the data's levels would pay"
CLAIM = """A linear model is trained online, one example a step, on true weights that drift through
levels of exponential averages; so is its gradient before each step. The published level sweep left
two conjectures. The one it set out with: the loss is smallest where model and data have the same
number of levels. The one it ended with: each further level of the model multiplies the loss, and
the levels of the data do not matter. Here the first is tested where every level is stable, and the
second is held against the linear theory of the cascade, which knows the transform, the rate and
the number of inputs, and no run."""
HOW = """Growth is measured on the problem without drift and noise, where the error moves linearly:
parameters and momenta are divided by the parameters' norm at each step, and the logarithms of the
divisors add up. No number becomes large, so nothing here is an effect of rounding or overflow.
The typical run, whose logarithm this is, is neither the mean error, in which directions of opposite
sign cancel, nor the mean square, which rare large runs dominate: by Jensen's inequality it grows at
most as fast as the mean square's root. That it does not grow slower than the mean error is no
theorem, but what is measured."""
TESTED = """Rates are tuned for every combination of levels on seeds apart from those reported, and
the best number of levels is chosen on half of the reported seeds and compared on the other half.
The cost is how much larger the loss is with as many levels as the data than with that best number.
The dip is the loss with as many levels as the data against the (geometric) mean of the losses with
one level fewer and one more: if the hypothesis held, it would be well below 0."""


def write(folder: Path, made: Mapping[str, Any], results: xr.Dataset) -> None:
    """Write every file of the experiment; `made` says how its numbers were made."""
    results = results.assign_attrs(made=json.dumps(made))
    _artifacts.write_dataset(folder / "results.nc", results)
    _sections.save(folder, _stability_figures.figures(results))
    _artifacts.write(folder / "report.html", page(results))
    # Last, so that a folder whose config.json tells of a run holds all of it.
    _artifacts.write(folder / "config.json", json.dumps(made, indent=2) + "\n")


def show(results: xr.Dataset) -> None:
    """Print the table of growth and the answers."""
    console = rich.console.Console()
    header, rows = growth_table(results)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1))
    for name in header:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console = rich.console.Console(width=max(console.width, 100), highlight=False)
    console.print(f"Growth of ln loss per {STEPS:,} steps, equal decays")
    console.print(table)
    for heading, text in words.statements(results):
        console.print(f"\n[bold]{heading}[/]\n{text}")


def page(results: xr.Dataset) -> str:
    """Return the report."""
    figures = _sections.drawn(_stability_figures.figures(results))
    said = "".join(
        f"<p><strong>{html.escape(heading)}</strong> {html.escape(text)}</p>"
        for heading, text in words.statements(results)
    )
    body = [
        f"<p>{CLAIM}</p>",
        said,
        "<h2>Growth</h2>",
        f"<p>{HOW}</p>",
        figures["growth"],
        _table(*growth_table(results), f"Growth of ln loss per {STEPS:,} steps, equal decays"),
        "<h2>The largest stable rate</h2>",
        figures["thresholds"],
        _table(*threshold_table(results), "The largest stable rate, measured in single runs"),
        "<h2>The stationary loss</h2>",
        figures["stationary"],
        _table(*deviation_table(results), "Measured against predicted stationary losses"),
        "<h2>What helps</h2>",
        figures["remedies"],
        _table(*remedy_table(results), "Every way of averaging the levels, over all combinations"),
        "<h2>As many levels as the data?</h2>",
        f"<p>{TESTED}</p>",
        figures["hypothesis"],
        _table(*hypothesis_table(results), "The hypothesis, where every level is stable"),
        figures["offset"],
        *_artifacts.how("stability", json.loads(results.attrs["made"])),
        '<p>Files beside this page: <a href="results.nc">results.nc</a>, from which it was made, '
        'and <a href="config.json">config.json</a>. The sweep that raised the questions: '
        "<code>python -m experiments levels</code>.</p>",
    ]
    return _artifacts.page(TITLE, body)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    return f'<div class="wide">{_artifacts.table(header, rows, caption)}</div>'


Table = tuple[list[str], list[list[str]]]


def growth_table(results: xr.Dataset) -> Table:
    """Return predicted and measured growth of equal decays, a level a row."""
    low, high = (STEPS * bound.sel(fixed="equal") for bound in answers.growth_bounds(results))
    mean, half = (STEPS * part.sel(fixed="equal") for part in answers.measured_growth(results))
    bad = answers.diverged(results).sel(scheme="equal").all("seed")
    slopes = STEPS * results.slope.sel(scheme="equal").mean("seed").where(bad)
    rows = []
    for m in results.model_level.values:
        at = {"model_level": m}
        a, x, b = (float(part.sel(at)) for part in (low, mean, high))
        between = "yes" if a <= x <= b else f"{min(abs(x - a), abs(x - b)):.2f} beyond"
        of_runs = slopes.sel(at).values
        seen = of_runs[np.isfinite(of_runs)]
        span = f"{seen.min():.2f} … {seen.max():.2f}" if seen.size else "–"
        half_width = float(half.sel(at))
        rows.append([str(m), f"{a:.2f}", _with_error(x, half_width, 2), f"{b:.2f}", between, span])
    header = [
        "m",
        "predicted, mean",
        "measured",
        "predicted, mean square",
        "between",
        "diverged runs",
    ]
    return header, rows


def _with_error(mean: float, half_width: float, digits: int) -> str:
    """Return "mean ± half width" in one piece."""
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{half_width:.{digits}f}"


def threshold_table(results: xr.Dataset) -> Table:
    """Return the largest stable rates, a level a row."""
    mean, half = answers.estimate(answers.thresholds(results), "probe_seed")
    header, rows = ["m"], [[str(m)] for m in results.model_level.values]
    for name in results.probed.values:
        header += [f"{LABELS[name]}: predicted", "measured"]
        for row, m in zip(rows, results.model_level.values, strict=True):
            at = {"model_level": m}
            predicted = float(results.mean_square_limit.sel(fixed=name, **at))
            x, error = float(mean.sel(probed=name, **at)), float(half.sel(probed=name, **at))
            row += [f"{predicted:.4f}", _with_error(x, error, 4)]
    return header, rows


def deviation_table(results: xr.Dataset) -> Table:
    """Return how far stationary losses are from their predictions, a scheme a row."""
    header = ["", "combinations", "within 2 standard errors", "within 3", "largest", "at (m, d)"]
    rows = []
    for name, z in answers.deviations(results).groupby("scheme"):
        z = z.isel(scheme=0) if "scheme" in z.dims else z
        size = np.abs(z.transpose("model_level", "data_level").values)
        n = int(np.isfinite(size).sum())
        if not n:
            continue
        shares = [f"{(size <= bound).sum() / n:.1%}" for bound in (2, 3)]
        m, d = np.unravel_index(np.nanargmax(size), size.shape)
        rows.append(
            [
                LABELS[str(name)],
                str(n),
                *shares,
                f"{np.nanmax(size):.2f}",
                f"({z.model_level.values[m]}, {z.data_level.values[d]})",
            ]
        )
    return header, rows


def remedy_table(results: xr.Dataset) -> Table:
    """Return what becomes of the levels under every scheme."""
    header = ["", "runs that diverged", "levels that all converge", "last / first level", "rates"]
    rows = []
    bad = answers.diverged(results)
    for name in results.scheme.values:
        mine = bad.sel(scheme=name)
        fine = ~mine.any(("seed", "data_level")).values
        levels = results.model_level.values[fine]
        loss = results.loss.sel(scheme=name).mean("seed").median("data_level")
        ratio = float(loss.isel(model_level=-1) / loss.isel(model_level=0))
        rates = results.rate.sel(scheme=name).values
        span = f"{rates.min():.2g}" + (f" … {rates.max():.2g}" if np.ptp(rates) else "")
        rows.append(
            [
                LABELS[name],
                f"{int(mine.sum())} of {mine.size}",
                words.ranges(levels),
                f"{ratio:.2f}" if fine[-1] else "diverged",
                span,
            ]
        )
    return header, rows


def hypothesis_table(results: xr.Dataset) -> Table:
    """Return the tests of the hypothesis, a scheme a row."""
    header = ["", "best number of levels", "equal to the data's", "cost of equality", "dip"]
    rows = []
    for name in words.tested(results):
        found = answers.hypothesis(results.loss.sel(scheme=name))
        best = found.best
        rows.append(
            [
                LABELS[name],
                words.ranges(np.unique(best)),
                f"{int((best == best.data_level).sum())} of {best.size} data levels",
                words.percent(found.mean_cost),
                words.percent(found.dip),
            ]
        )
    return header, rows
