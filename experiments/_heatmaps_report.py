"""Tables, files and report of the heatmaps."""

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

from experiments import _artifacts
from experiments import _heatmaps_figures as figures
from experiments import _heatmaps_numbers as numbers
from experiments._heatmaps_variants import SCHEDULES, VARIANTS
from nested_jax import plots
from nested_jax.sweeps import load, save

TITLE = "Learning rate against weight decay: 14 heatmaps"
QUESTION = """Decoupled weight decay is said to let learning rate and decay be tuned apart: the
basin of good cells would lie along the axes of a heatmap, and not along its diagonal. Is that so,
and does it help to normalize the decay by the length of the schedule's cycle? Each cell is a
training of one network from the same initial weights and on the same batches, for each seed."""
METHOD = f"""For each rate the best decay is the mean of log&#8322;&thinsp;decay, weighted by the
test loss to the power &minus;{numbers.SHARPNESS:.0f}; it is told only where both the smallest and
the largest decay are clearly worse than the best, and the rate's best cell is within a factor of
{numbers.BASIN:.0f} of the heatmap's. The tolerable decay is the larger one at which the loss is
{numbers.TOLERATED:.0f} times that of the best. Slopes are those of least squares lines of these
against log&#8322;&thinsp;rate: 0 if the two numbers can be tuned apart, 1 if the decay has to be
doubled with the rate. Losses are geometric means over seeds, those of diverged networks counted
as guessing; intervals are 95 % jackknife ones over seeds, paired in differences."""
SAME = """A normalized decay is &lambda;&thinsp;&radic;T, with T the steps of the cycle. Under a
schedule of one cycle both heatmaps hold the same trainings in other units, so that their
difference is a check, up to rounding; only under warm restarts, whose cycles differ, can
normalization change the shape of a basin. Here all trainings are of one length; what
normalization is to do, to keep the best decay when that changes, is not tested by these
heatmaps."""
METRICS = {
    "test_loss": "mean cross-entropy of the test images [nats]",
    "test_error": "share of test images that are classified wrongly",
    "train_loss": "mean cross-entropy of the training images [nats]",
    "train_error": "share of training images that are classified wrongly",
}
CELLS = ("rate", "decay or threshold", "test loss", "test error", "train loss", "train error")
SLOPES = ("variant", "best decay", "from rates", "tolerable decay", "from rates")


def read(folder: Path) -> dict[str, xr.Dataset]:
    """Return the results that `write` left in a folder."""
    return {name: load(folder / "results" / f"{name}.nc") for name in VARIANTS}


def show(results: Mapping[str, xr.Dataset]) -> None:
    """Print best cells, slopes and the answer."""
    console = rich.console.Console()
    console = rich.console.Console(width=max(console.width, 120), highlight=False)
    found = numbers.basins(results)
    for header, rows in (
        (("best cell of", *CELLS, "diverged"), best_rows(results)),
        (SLOPES, slope_rows(found)),
    ):
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False)
        for i, name in enumerate(header):
            table.add_column(name, justify="right" if i else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for sentence in answer(found):
        console.print(sentence)


def write(folder: Path, made: Mapping[str, Any], results: Mapping[str, xr.Dataset]) -> None:
    """Write every file of the experiment; `made` says how its numbers were made."""
    found = numbers.basins(results)
    for below in ("results", "figures"):
        (folder / below).mkdir(exist_ok=True)
    for name, dataset in results.items():
        save(dataset, folder / "results" / f"{name}.nc")
    _artifacts.write(folder / "runs.csv", "\n".join(numbers.rows(results)) + "\n")
    described = json.dumps(numbers.described(found), indent=2, allow_nan=False)
    _artifacts.write(folder / "diagonality.json", described + "\n")
    drawn = {
        metric: figures.heatmaps(results, found, metric, label) for metric, label in METRICS.items()
    }
    drawn["slopes"] = figures.slopes(found)
    for name, figure in drawn.items():
        plots.save(figure, folder / "figures" / f"{name}.png")
    svgs = {name: plots.to_svg(figure) for name, figure in drawn.items()}
    _artifacts.write(folder / "report.html", page(made, results, found, svgs))
    seconds = {
        name: {key: dataset.attrs[key] for key in ("compile_seconds", "run_seconds")}
        for name, dataset in results.items()
    }
    # Last, so that a folder whose config.json tells of a run holds all of it.
    made = {**made, "seconds": seconds}
    _artifacts.write(folder / "config.json", json.dumps(made, indent=2) + "\n")


def best_rows(results: Mapping[str, xr.Dataset]) -> list[list[str]]:
    """Return the table of best cells."""
    rows = []
    for name, variant in VARIANTS.items():
        cell = numbers.best_cell(results[name], variant.across)
        means = [
            f"{float(cell[metric].mean()):.3g} ± {float(cell[metric].std(ddof=1)):.1g}"
            for metric in ("test_loss", "test_error", "train_loss", "train_error")
        ]
        position = [_power(float(cell[axis])) for axis in ("learning_rate", variant.across)]
        diverged = results[name].diverged
        count = f"{int(diverged.sum())} of {diverged.size}"
        rows.append([variant.title, *position, *means, count])
    return rows


def slope_rows(found: Mapping[str, numbers.Diagonality]) -> list[list[str]]:
    """Return the table of slopes, and of what normalization changes."""

    def shown(slope: numbers.Slope | None) -> str:
        return "not told" if slope is None else str(slope)

    rows = []
    for name, one in found.items():
        cells = [VARIANTS[name].title]
        for slope, places in ((one.slope_best, one.best), (one.slope_tolerable, one.tolerable)):
            cells += [shown(slope), str(int(np.isfinite(places).sum()))]
        rows.append(cells)
    for schedule, (best, tolerable) in numbers.pairs(found).items():
        title = f"AdamW: {schedule.replace('_', ' ')}, normalized less not"
        rows.append([title, shown(best), "", shown(tolerable), ""])
    return rows


def answer(found: Mapping[str, numbers.Diagonality]) -> list[str]:
    """Return what the numbers say, a sentence each."""
    plain = [found[f"adamw-{schedule}"] for schedule in SCHEDULES]
    sentences = [
        _moves("best", [one.slope_best for one in plain]),
        _moves("tolerable", [one.slope_tolerable for one in plain]),
    ]
    best, tolerable = numbers.pairs(found)["warm_restarts"]
    for word, change in (("best", best), ("tolerable", tolerable)):
        what = f"the slope of the {word} decay"
        if change is None:
            sentences.append(f"What normalization changes in {what} cannot be told.")
        else:
            held = "holds 0" if change.low <= 0 <= change.high else "does not hold 0"
            sentences.append(
                f"Under warm restarts, where it can, normalization changes {what} by {change}, "
                f"which {held}."
            )
    return sentences


def _moves(word: str, told: Sequence[numbers.Slope | None]) -> str:
    slopes = [slope for slope in told if slope is not None]
    if not slopes:
        return f"How the {word} decay of AdamW moves cannot be told at enough rates."
    estimates = [slope.estimate for slope in slopes]
    ends = f"{min(estimates):.2f} to {max(estimates):.2f}".replace("-", "−")
    rising = sum(slope.low > 0 for slope in slopes)
    apart = sum(slope.low <= 0 <= slope.high for slope in slopes)
    return (
        f"The {word} decay of AdamW, not normalized, moves by {ends} powers of two for one of the "
        f"rate, told under {len(slopes)} of {len(told)} schedules: it rises with the rate under "
        f"{rising}, and may not move at all under {apart}."
    )


def _power(value: float) -> str:
    raised = str(round(np.log2(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"2{raised}"


def page(
    made: Mapping[str, Any],
    results: Mapping[str, xr.Dataset],
    found: Mapping[str, numbers.Diagonality],
    svgs: Mapping[str, str],
) -> str:
    """Return the report: the same page from the same results, whenever they were computed."""
    runs = sum(dataset.attrs["runs"] for dataset in results.values())
    outcome = html.escape(" ".join(answer(found)))
    marks = (
        "A star marks the best cell by test loss, dots the best decay of each rate where it can "
        "be told, crosses (if any) cells of which a seed diverged. All heatmaps share one colour "
        "scale, which ends at guessing: one for both losses, one for both errors."
    )
    body = [f"<p>{QUESTION}</p>", f"<p>{html.escape(made['data'])}</p>"]
    body += [f"<p><strong>{outcome}</strong></p>"]
    body += ["<h2>How diagonal the basins are</h2>", f"<p>{METHOD}</p>"]
    body += [_artifacts.table(SLOPES, slope_rows(found), "Powers of two for one of the rate")]
    body += [_artifacts.figure(svgs["slopes"], "The same slopes, with their intervals.")]
    body += [f"<p>{SAME}</p>", "<h2>Best cells</h2>"]
    body += [
        '<div class="wide">'
        + _artifacts.table(
            ("best cell of", *CELLS, "diverged"),
            best_rows(results),
            "By test loss; mean ± standard deviation over seeds",
        )
        + "</div>",
        "<p>A best cell is chosen by the test images it is reported on, of 132: its own numbers "
        "flatter it.</p>",
        "<h2>Heatmaps</h2>",
    ]
    for metric, label in METRICS.items():
        name = (label[0].upper() + label[1:]).removesuffix(" [nats]")
        body.append(_artifacts.figure(svgs[metric], f"{name}, mean over seeds. {marks}"))
    body += _made(made, runs)
    return _artifacts.page(TITLE, body)


def _made(made: Mapping[str, Any], runs: int) -> Sequence[str]:
    # Not when, nor how long it took: a run that was stopped and went on gives the same page.
    names = ("config", "data", "python", "commit", "device", "machine", "versions")
    told = {"trainings": f"{runs:,}"} | {name: made[name] for name in names}
    links = ("runs.csv", "diagonality.json", "config.json", "results/", "figures/")
    listed = ", ".join(f'<a href="{link}">{link}</a>' for link in links)
    return [
        *_artifacts.how("heatmaps", told),
        f"<p>Files beside this page: {listed}; times are in config.json.</p>",
    ]
