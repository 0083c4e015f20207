"""The report of the heatmaps."""

import json
from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from experiments import lab
from experiments.heatmaps import figures, numbers
from experiments.heatmaps.config import VARIANTS, Config
from experiments.heatmaps.numbers import Slope, Trends
from experiments.heatmaps.variants import SCHEDULES

ADAMW = tuple(f"adamw-{schedule}" for schedule in SCHEDULES)
METHOD = f"""
Decoupled weight decay is said to make learning rate and decay independent: the good cells of a
heatmap would lie along its axes, not along its diagonal. Each cell is a training of one network.
For each seed, all cells share the initial weights and the batches.

For each learning rate, the best decay is the weighted mean of log₂ decay, with weights proportional
to the test loss to the power −{numbers.SHARPNESS:.0f}. It is clear only if the smallest and the
largest decay are both clearly worse. The tolerable decay is the largest one before the loss exceeds
{numbers.TOLERATED:.0f} times that of the row's best cell. Only learning rates with a cell within a
factor of {numbers.BASIN:.0f} of the heatmap's smallest loss count. A least squares line through
log₂ decay against log₂ rate gives the slope: 0 if the two can be tuned independently, 1 if the
decay has to double with the learning rate.

Losses are geometric means over seeds, and diverged networks count as guessing. The 95 % intervals
come from a jackknife over seeds.
"""
NORMALIZED = """
A normalized decay is λ√T, where T is the number of steps of the schedule's cycle. Under a schedule
of one cycle both heatmaps contain the same trainings in other units, so their difference is 0 up to
rounding. Normalization can change the slope only under warm restarts, whose cycles differ in
length. Its purpose is to keep the best decay when the length of the training changes. These
heatmaps do not test this, because all trainings have the same length.
"""
READING = """
A star marks the best cell by test loss. Dots mark the best decay of each learning rate that has a
clear one, and crosses the cells in which a seed diverged. All heatmaps of losses share one colour
scale and all heatmaps of errors another; both end at guessing.
"""
TOO_FEW = f"–: fewer than {numbers.FEWEST} learning rates have a clear decay."
CAPTIONS = {
    "test_loss": "Cross-entropy of the test images, mean over seeds.",
    "test_error": "Share of misclassified test images, mean over seeds.",
    "train_loss": "Cross-entropy of the training images, mean over seeds.",
    "train_error": "Share of misclassified training images, mean over seeds.",
}


def sections(config: Config, results: Mapping[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    found = numbers.all_trends(results)
    drawn = {
        metric: (figures.heatmaps(results, found, metric), caption)
        for metric, caption in CAPTIONS.items()
    }
    described = json.dumps(numbers.described(found), indent=2, allow_nan=False)
    return [
        lab.Section(
            title="How does the best decay depend on the learning rate?",
            answer=" ".join(_independence(found)),
            body=METHOD,
            figures={"slopes": (figures.slopes(found), "Slopes with 95 % intervals.")},
            tables=[_slopes(found)],
            files={"diagonality.json": described + "\n"},
        ),
        lab.Section(
            title="Does a normalized decay or Adafactor's second moment help?",
            answer=" ".join(_remedies(found)),
            body=NORMALIZED,
            tables=[_normalization(found)],
        ),
        lab.Section(
            title="Which cells are best?",
            answer=_best(results),
            body=READING,
            figures=drawn,
            tables=[_best_cells(results)],
            files={"runs.csv": numbers.csv(results)},
        ),
    ]


def _independence(found: Trends) -> Iterable[str]:
    """Say whether learning rate and weight decay can be tuned independently."""
    slopes = [slope for name in ADAMW if (slope := found[name]["best"].slope)]
    moving = [slope for slope in slopes if not slope.includes_zero]
    schedules = f"{len(moving)} of the {len(slopes)} schedules with a clear best decay"
    if not slopes:
        yield "Too few learning rates have a clear best decay to fit a slope."
    elif not moving:
        yield (
            "Perhaps: these trainings do not show that AdamW's best weight decay depends on the "
            "learning rate, because every interval of the slope includes 0."
        )
    elif all(slope.low > 0 for slope in moving):
        yield f"No: AdamW's best weight decay grows with the learning rate under {schedules}."
    else:
        yield f"No: AdamW's best weight decay changes with the learning rate under {schedules}."
    yield f"The slope of log decay against log learning rate is {_ranges(found, ADAMW)}."


def _remedies(found: Trends) -> Iterable[str]:
    """Say what normalization changes, and compare Adafactor's second moment with AdamW's."""
    for which, change in numbers.normalization(found)["warm_restarts"].items():
        if change is None:
            yield f"Too few learning rates have a clear {which} decay to compare slopes."
        else:
            includes = "includes" if change.includes_zero else "excludes"
            yield (
                f"Under warm restarts, normalization changes the slope of the {which} decay by "
                f"{change}; the interval {includes} 0."
            )
    factored = [name for name in found if name.startswith("factored")]
    plain = [f"adamw-{schedule}-normalized" for schedule in ("cosine", "warm_restarts")]
    yield (
        f"Under cosine and warm restarts, the slope is {_ranges(found, factored)} with Adafactor's "
        f"second moment, and {_ranges(found, plain)} with AdamW's."
    )


def _ranges(found: Trends, names: Iterable[str]) -> str:
    """Return the smallest and largest slope of the best and of the tolerable decay."""
    words = []
    for which in ("best", "tolerable"):
        slopes = [slope.estimate for name in names if (slope := found[name][which].slope)]
        if slopes:
            low, high = (f"{end:.2f}".replace("-", "−") for end in (min(slopes), max(slopes)))
            ends = low if low == high else f"{low} to {high}"
            words.append(f"{ends} for the {which} decay")
    return " and ".join(words) or "unknown"


def _best(results: Mapping[str, xr.Dataset]) -> str:
    """Say which optimizer reaches the smallest test loss."""
    cells = {name: numbers.best_cell(dataset) for name, dataset in results.items()}
    losses = {name: float(cell.test_loss.mean()) for name, cell in cells.items()}
    best, worst = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
    return (
        f"The smallest mean test loss of all best cells is {losses[best]:.3g} "
        f"({VARIANTS[best].title}), the largest is {losses[worst]:.3g} ({VARIANTS[worst].title})."
    )


def _shown(slope: Slope | None) -> str:
    return "–" if slope is None else str(slope)


def _slopes(found: Trends) -> lab.Table:
    rows = []
    for name, one in found.items():
        cells = [(_shown(x.slope), str(np.isfinite(x.decays).sum())) for x in one.values()]
        rows.append([VARIANTS[name].title, *cells[0], *cells[1]])
    header = ("variant", "best decay", "clear rates", "tolerable decay", "clear rates")
    caption = "Slopes of log decay against log learning rate"
    return lab.Table(caption, header, rows, [TOO_FEW], screen=True)


def _normalization(found: Trends) -> lab.Table:
    rows = [
        [f"AdamW: {schedule.replace('_', ' ')}", *map(_shown, changes.values())]
        for schedule, changes in numbers.normalization(found).items()
    ]
    header = ("schedule", "best decay", "tolerable decay")
    return lab.Table("Change of the slopes by normalization", header, rows, [TOO_FEW], screen=True)


def _best_cells(results: Mapping[str, xr.Dataset]) -> lab.Table:
    metrics = ("test_loss", "test_error", "train_loss", "train_error")
    rows = []
    for name, variant in VARIANTS.items():
        cell, diverged = numbers.best_cell(results[name]), results[name].diverged
        position = [_power(float(cell[axis])) for axis in ("learning_rate", variant.across)]
        means = [f"{float(cell[x].mean()):.3g} ± {float(cell[x].std(ddof=1)):.1g}" for x in metrics]
        count = f"{int(diverged.sum())} of {diverged.size}"
        rows.append([variant.title, *position, *means, count])
    names = [metric.replace("_", " ") for metric in metrics]
    return lab.Table(
        "Best cells by test loss: mean ± standard deviation over seeds",
        ("variant", "rate", "decay or threshold", *names, "diverged"),
        rows,
        notes=["Cells were chosen by the test loss that is reported, so it is optimistic."],
        screen=True,
    )


def _power(value: float) -> str:
    raised = str(round(np.log2(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"2{raised}"
