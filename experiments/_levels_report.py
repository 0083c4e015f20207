"""Tables, files and report of the level sweep."""

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
import xarray as xr

from experiments import _artifacts, _sections
from nested_jax import plots, stats

TITLE = "Levels of momentum against levels of drift"
FORMULAS = {
    "loss": "loss ~ model_level + data_level",
    "log_loss": "np.log(loss) ~ model_level + data_level",
}
HEADINGS = {
    "loss": "Regression of the loss on the levels",
    "log_loss": "Regression of the log loss on the levels",
}
CLAIM = """A linear model is trained online, one example a step, on true weights that drift. Each
level of the drift and each level of the model's momentum is an exponential average of the next:
m levels of momentum are m &minus; 1 averages in a row, so the update is a gradient of about
(m &minus; 1)&thinsp;a&thinsp;/&thinsp;(1 &minus; a) steps ago. The question of the published
experiment was whether the loss is smallest where model and data have the same number of
levels."""
THEORY = """What is predicted comes from the transfer function of the cascade, the rate and the
number of inputs alone: the stationary loss where the mean square of the error settles, and where it
does not, its growth. Why that is so, how far it holds, and what helps, is the
<a href="../stability/report.html">stability report</a>
(<code>python -m experiments stability</code>)."""


def regressions(results: xr.Dataset) -> dict[str, stats.Regression | str]:
    """Return the two regressions on the levels, or why there is none."""
    return {name: _regression(results.loss, formula) for name, formula in FORMULAS.items()}


def predicted_regression(results: xr.Dataset) -> stats.Regression | str:
    """Return the regression of the predicted log loss on the levels, or why there is none."""
    return _regression(results.predicted_loss.rename("loss"), FORMULAS["log_loss"])


def _regression(loss: xr.DataArray, formula: str) -> stats.Regression | str:
    try:
        return stats.regress(loss.to_dataset(), formula)
    except ValueError as error:
        return f"There is none: {error}"


def _slopes(results: xr.Dataset, fitted: stats.Regression | str) -> list[list[str]]:
    """Return fitted and predicted slopes of the log loss, a level a row; none if one is missing."""
    predicted = predicted_regression(results)
    if isinstance(fitted, str) or isinstance(predicted, str):
        return []
    return [
        [
            term.name.replace("_", " "),
            f"{term.estimate:.4f} ({term.low:.4f} … {term.high:.4f})",
            f"{other.estimate:.4f}",
        ]
        for term, other in zip(fitted.terms, predicted.terms, strict=True)
        if term.name != "Intercept"
    ]


def show(
    results: xr.Dataset,
    regressions: Mapping[str, stats.Regression | str],
    difference: float | None,
) -> None:
    """Print the table of losses and the regressions."""
    rows = _losses_table(results)
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
    )
    table.add_column("m \\ d", justify="right")
    for level in results.data_level.values:
        table.add_column(str(level), justify="right", no_wrap=True)
    for level, cells in rows:
        texts = (f"[red]{text}*[/]" if diverged else text for text, diverged in cells)
        table.add_row(str(level), *texts)
    # A narrow terminal would cut the numbers; lines that it wraps can still be read.
    widest = max(len(text) + diverged for _, cells in rows for text, diverged in cells)
    needed = max(100, 8 + (widest + 2) * results.sizes["data_level"])
    console = rich.console.Console()
    console = rich.console.Console(width=max(console.width, needed), highlight=False)
    console.print("log10 of the mean loss after warm-up: model levels down, data levels across")
    console.print(table)
    console.print("* diverged: the loss ends above that of the untrained model.")
    console.print(_outcome(results, difference))
    for name, regression in regressions.items():
        console.print(f"\n[bold]{HEADINGS[name]}[/]")
        console.print(regression if isinstance(regression, str) else regression.to_rich())
    for name, fitted, predicted in _slopes(results, regressions["log_loss"]):
        console.print(f"Slope of the log loss by {name}: {fitted}, predicted {predicted}")


def write(
    folder: Path,
    made: Mapping[str, Any],
    results: xr.Dataset,
    regressions: Mapping[str, stats.Regression | str],
    difference: float | None,
) -> None:
    """Write every file of the experiment; `made` says how its numbers were made."""
    _artifacts.write(folder / "losses.csv", losses_csv(results))
    described = {
        name: {"error": regression} if isinstance(regression, str) else regression.to_dict()
        for name, regression in [
            *regressions.items(),
            ("predicted_log_loss", predicted_regression(results)),
        ]
    }
    _artifacts.write(
        folder / "regression.json", json.dumps(described, indent=2, allow_nan=False) + "\n"
    )
    _artifacts.write_dataset(folder / "results.nc", results)
    figures = _figures(results)
    _sections.save(folder, figures)
    made = dict(made) | _sections.seconds({"results": results})
    _artifacts.write(folder / "report.html", _page(made, results, regressions, difference, figures))
    # Last, so that a folder whose config.json tells of a run holds all of it.
    _artifacts.write(folder / "config.json", json.dumps(made, indent=2) + "\n")


def losses_csv(results: xr.Dataset) -> str:
    """Return one row a run with all 17 digits, the model's level running fastest."""
    names = ["model_level", "data_level"] + (["seed"] if "seed" in results.dims else [])
    order = ["data_level", "model_level", *names[2:]]
    frame = results.loss.to_dataframe().reset_index().sort_values(order)
    return frame[[*names, "loss"]].to_csv(index=False, float_format="%.16e", na_rep="nan")


def _losses_table(results):
    """Return (model level, [(text, whether diverged), ...]) a row, the median over seeds."""
    loss, diverged = results.loss, results.diverged
    if "seed" in results.dims:
        loss, diverged = loss.median("seed", skipna=False), diverged.any("seed")
    loss = loss.transpose("model_level", "data_level")
    diverged = diverged.transpose("model_level", "data_level")
    return [
        (level, [(_log10(x, bad), bool(bad)) for x, bad in zip(row, marks, strict=True)])
        for level, row, marks in zip(
            loss.model_level.values, loss.values, diverged.values, strict=True
        )
    ]


def _log10(loss: float, diverged: bool) -> str:
    if not 0 < loss < math.inf:
        return str(float(loss))
    return f"{math.log10(loss):.{1 if diverged else 2}f}"


def _outcome(results: xr.Dataset, difference: float | None) -> str:
    runs = results.loss.size
    diverged, infinite = int(results.diverged.sum()), int((~np.isfinite(results.loss)).sum())
    words = [f"{runs} runs, {diverged} of them diverged"]
    words.append(f", {infinite} beyond the range of numbers." if infinite else ".")
    converged = ~results.diverged.any([dim for dim in results.dims if dim != "model_level"])
    stable = results.model_level.values[converged.values]
    if diverged and stable.size:
        words.append(f" All runs of {stable.min()} to {stable.max()} model levels converged.")
    if difference is not None:
        words.append(
            f" The {runs} published losses are reproduced to a relative difference of at most "
            f"{difference:.1e}."
        )
    return "".join(words)


def _figures(results):
    """Return name -> (figure, caption)."""
    loss, diverged = results.loss, results.diverged
    over = ""
    if "seed" in results.dims:
        # Of diverged runs the median of the logarithm is what a typical seed does.
        loss, diverged = loss.median("seed", skipna=False), diverged.any("seed")
        over = f", median over {results.sizes['seed']} seeds"
    return {
        "losses": (
            plots.heatmap(loss, diverged=diverged, label=f"mean loss{over}"),
            f"Mean loss after warm-up of every combination of levels{over}. Diverged runs have a "
            "colour scale of their own.",
        ),
        "loss_by_model_level": (
            plots.loss_by_level(results.loss, predicted=results.predicted_loss),
            "Loss against levels of momentum in the model, one line per level of the data. "
            "Predicted: by the theory of the cascade, before any run.",
        ),
        "loss_by_data_level": (
            plots.loss_by_level(results.loss, level="data_level", over="model_level"),
            "Loss against levels of the drift, one line per level of the model.",
        ),
    }


def _page(made, results, regressions, difference, figures) -> str:
    outcome = html.escape(_outcome(results, difference))
    body = [f"<p>{CLAIM}</p>", f"<p><strong>{outcome}</strong></p>"]
    svgs = _sections.drawn(figures)
    body += ["<h2>Losses</h2>", svgs["losses"], _html_losses(results)]
    body += ["<h2>Effect of the levels</h2>"]
    for name, regression in regressions.items():
        body.append(f"<h3>{HEADINGS[name]}</h3>")
        missing = isinstance(regression, str)
        body.append(f"<p>{html.escape(regression)}</p>" if missing else regression.to_html())
    slopes = _slopes(results, regressions["log_loss"])
    if slopes:
        header = ("", "fitted", "predicted")
        body.append(_artifacts.table(header, slopes, "Slopes of the log loss"))
    body += [f"<p>{THEORY}</p>", svgs["loss_by_model_level"], svgs["loss_by_data_level"]]
    body += [
        *_artifacts.how("levels", made),
        '<p>Files beside this page: <a href="losses.csv">losses.csv</a>, '
        '<a href="regression.json">regression.json</a>, <a href="results.nc">results.nc</a>, '
        '<a href="config.json">config.json</a>.</p>',
    ]
    return _artifacts.page(TITLE, body)


def _html_losses(results) -> str:
    head = "".join(f'<th scope="col">{level}</th>' for level in results.data_level.values)
    rows = "".join(
        f'<tr><th scope="row">{level}</th>'
        + "".join(
            f"<td{' class=diverged' if diverged else ''}>{text}</td>" for text, diverged in cells
        )
        + "</tr>\n"
        for level, cells in _losses_table(results)
    )
    return (
        '<div class="wide"><table><caption>log10 of the mean loss: model levels down, data levels '
        'across; diverged runs <span class="diverged">marked</span></caption>'
        f'<thead><tr><th scope="col">m \\ d</th>{head}</tr></thead><tbody>\n{rows}</tbody></table>'
        "</div>"
    )
