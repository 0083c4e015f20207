"""The report of the heatmaps."""

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from experiments import lab
from experiments.heatmaps import answers, figures, numbers
from experiments.heatmaps.best import best_cell
from experiments.heatmaps.config import LENGTHS, VARIANTS, Config
from experiments.heatmaps.numbers import Lengths, Trends
from experiments.heatmaps.slopes import Slope, shifted
from experiments.lab.figures import number

METHOD = f"""
Decoupled weight decay is said to make learning rate and decay independent: the good cells of a
heatmap would lie along its axes, not along its diagonal. Each cell is a training of one network.
For each seed, all cells share the initial weights and the batches.

For each learning rate, the best decay is the weighted mean of log₂ decay, with weights proportional
to the validation loss to the power −{numbers.SHARPNESS:.0f}. It is clear only if the smallest and
the largest decay are both clearly worse. The tolerable decay is the largest one before the loss
exceeds {numbers.TOLERATED:.0f} times that of the row's best cell. Only learning rates with a cell
within a factor of {numbers.BASIN:.0f} of the heatmap's smallest loss count. A least squares line
through log₂ decay against log₂ rate gives the slope: 0 if the two can be tuned independently, 1 if
the decay has to double with the learning rate.

Losses are geometric means over seeds, and diverged networks count as guessing. The 95 % intervals
come from a jackknife over seeds.
"""
NORMALIZED = """
A normalized decay is λ√T, where T is the number of steps of the schedule's cycle. Under a schedule
of one cycle both heatmaps contain the same trainings in other units, so their difference is 0 up to
rounding. Normalization can change the slope only under warm restarts, whose cycles differ in
length.
"""
DECOUPLING = """
Under cosine, three decays are compared. AdamW's paper subtracts λ of the weights at each step. In
optax and torch, the learning rate α multiplies the decay. Both contain the same trainings in other
units: λ in the first is α·λ in the second, so the slope of the second is that of the first less 1.
Adam + L2 adds λ times the weights to the gradient, before Adam divides it by its root mean square.
"""
LENGTH = """
Normalization is meant to keep the best decay when the length of the run changes. AdamW is trained
under one cosine cycle for five lengths T, at several learning rates, over all decays. A least
squares line through log₂ best decay against log₂ T gives the slope of each learning rate. A slope
of 0 means that the best decay of one length is the best of all. Under one cycle, λ and λ√T are the
same trainings in other units, and the slope of λ is that of λ√T less 1/2. Normalization is exactly
right if the best λ has slope −1/2. It helps if this slope is closer to −1/2 than to 0.
"""
READING = """
A star marks the best cell by validation loss. Dots mark the best decay of each learning rate that
has a clear one, and crosses the cells in which a seed diverged. All heatmaps of losses share one
colour scale and all heatmaps of errors another; both end at guessing.
"""
TOO_FEW = f"–: fewer than {numbers.FEWEST} learning rates have a clear decay."
CAPTIONS = {
    "validation_loss": "Cross-entropy of the validation images, mean over seeds.",
    "validation_error": "Share of misclassified validation images, mean over seeds.",
    "train_loss": "Cross-entropy of the training images, mean over seeds.",
    "train_error": "Share of misclassified training images, mean over seeds.",
}


def sections(config: Config, results: Mapping[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    maps = {name: results[name] for name in VARIANTS}
    found, lengths = numbers.all_trends(maps), numbers.by_length(results[LENGTHS])
    drawn = {
        metric: (figures.heatmaps(maps, found, metric), caption)
        for metric, caption in CAPTIONS.items()
    }
    described = json.dumps(numbers.described(found, lengths), indent=2, allow_nan=False)
    of_length = figures.lengths(results[LENGTHS].steps.values, lengths["best"])
    return [
        lab.Section(
            title="How does the best decay depend on the learning rate?",
            answer=" ".join(answers.independence(found)),
            body=METHOD,
            figures={"slopes": (figures.slopes(found), "Slopes with 95 % intervals.")},
            tables=[_slopes(found)],
            files={"diagonality.json": described + "\n"},
        ),
        lab.Section(
            title="Is decoupled decay easier to tune than L2?",
            answer=" ".join(answers.decoupled(found)),
            body=DECOUPLING,
            tables=[_decouplings(found, maps)],
        ),
        lab.Section(
            title="Does a normalized decay suit runs of every length?",
            answer=" ".join(answers.lengths(lengths)),
            body=LENGTH,
            figures={"lengths": (of_length, "Best decays, where they are clear.")},
            tables=[_length_slopes(lengths)],
        ),
        lab.Section(
            title="Does a normalized decay or Adafactor's second moment help?",
            answer=" ".join(answers.remedies(found)),
            body=NORMALIZED,
            tables=[_normalization(found)],
        ),
        lab.Section(
            title="Which cells are best?",
            answer=answers.best(maps),
            body=READING,
            figures=drawn,
            tables=[_best_cells(maps)],
            files={"runs.csv": numbers.csv(maps)},
        ),
    ]


def _decouplings(found: Trends, results: Mapping[str, xr.Dataset]) -> lab.Table:
    cells = {
        numbers.PAPER: number(results["adamw-cosine"].test_loss),
        numbers.SCALED: "same trainings",
        numbers.L2: number(results["l2-cosine"].test_loss),
    }
    rows = [
        [name, *map(_shown, both.values()), cells[name]]
        for name, both in numbers.decoupling(found).items()
    ]
    header = ("decay", "slope of the best", "slope of the tolerable", "test loss of the best cell")
    return lab.Table("Decoupled decay and L2 under cosine", header, rows, [TOO_FEW], screen=True)


def _length_slopes(lengths: Mapping[str, Lengths]) -> lab.Table:
    rows = []
    for which, found in lengths.items():
        for rate, trend in zip(found.rates, found.trends, strict=True):
            clear = str(np.isfinite(trend.decays).sum())
            rows.append(
                [
                    which,
                    _power(rate),
                    _shown(trend.slope),
                    _shown(shifted(trend.slope, -0.5)),
                    clear,
                ]
            )
        rows.append([which, "mean", _shown(found.normalized), _shown(found.plain), ""])
    header = ("decay", "learning rate", "normalized", "not normalized", "clear lengths")
    caption = "Slopes of log decay against log length"
    note = TOO_FEW.replace("learning rates", "lengths")
    return lab.Table(caption, header, rows, [note], screen=True)


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
    metrics = ("test_loss", "test_error", "validation_loss", "train_loss")
    rows = []
    for name, variant in VARIANTS.items():
        cell, diverged = best_cell(results[name]), results[name].diverged
        position = [_power(float(cell[axis])) for axis in ("learning_rate", variant.across)]
        means = [f"{float(cell[x].mean()):.3g} ± {float(cell[x].std(ddof=1)):.1g}" for x in metrics]
        count = f"{int(diverged.sum())} of {diverged.size}"
        rows.append([variant.title, *position, *means, count])
    names = [metric.replace("_", " ") for metric in metrics]
    return lab.Table(
        "Best cells by validation loss: mean ± standard deviation over seeds",
        ("variant", "rate", "decay or threshold", *names, "diverged"),
        rows,
        notes=["The test images were evaluated once for each row, after its cell was chosen."],
        screen=True,
    )


def _power(value: float) -> str:
    raised = str(round(np.log2(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"2{raised}"
