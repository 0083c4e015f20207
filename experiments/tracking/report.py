"""The report of the tracking experiment."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.lab.figures import interval, number
from experiments.tracking import figures
from experiments.tracking.compared import METHODS
from experiments.tracking.config import Config
from experiments.tracking.numbers import against, alike, chosen, multiples, order, penalties, span
from experiments.tracking.streams import COMPARED, LAGS, SERIES

SETUP = """
A linear model is trained online, one example a step, on true weights that drift at d levels, as in
the [level sweep](../levels/report.html). The drift is linear and Gaussian, so the Kalman filter
that knows the drift has the smallest possible mean loss, the *tracking bound*; theory computes it
without a run. Each method is tuned for each d on some seeds, and its loss on other seeds is given
as a multiple of that bound. All methods have the same number of trials. A method above the dotted
line is worse than a model that always answers 0.
"""
FILTERS = """
A Kalman filter that assumes m levels ran on data of d levels, with the true decay and noise. The
diagonal is the best by construction. The map shows how steep the valley is around it. Levels help
where they model the drift. In an optimizer they only average the gradient, which delays it.
"""
MOMENTUM = """
Each row compares two methods on the same runs. A ratio below 1 means that the first has the smaller
loss. Decay, learning rate and weight decay are tuned in all of them, so momentum may choose a decay
of 0 and become SGD.
"""
DECAY = """
The true weights are pulled toward 0 at each step, so a model that is not pulled keeps what has
passed. With one data level, the Kalman filter multiplies its estimate by the decay a of the drift
before each correction: its pull is 1 − a. This is the Bayesian reading of decoupled weight decay
(Aitchison 2018): the decay is the prior's pull in a filter.
"""
REAL = """
The same methods predict the next change of a series from its last {lags} changes. They are tuned on
the first half and reported on the second, with the losses added up as the values come. The values
are relative to predicting no change. statsmodels ships the series; its notes on them say
{licences}.
"""


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    return [
        _answer(config, results),
        _filters(results),
        _momentum(results),
        _decay(config, results),
        _series(results),
    ]


def _answer(config: Config, results: dict[str, xr.Dataset]) -> lab.Section:
    ranked = order(results)
    blind = [name for name in ranked if not METHODS[name].needs_inputs]
    reading = [name for name in ranked if METHODS[name].needs_inputs]
    worst = blind[-1]
    first = alike(results, blind)
    labels = [METHODS[name].label for name in first]
    subject = " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))
    closest = "comes closest of the optimizers" if len(first) == 1 else "come closest, all alike"
    answer = (
        f"{subject} {closest}: {span(results, first[0])} the best possible loss. "
        f"{METHODS[worst].label} stays farthest away, at {span(results, worst)}. "
        f"{METHODS[reading[0]].label}, which also reads the inputs, reaches "
        f"{span(results, reading[0])}."
    )
    caption = (
        f"Left: mean of {config.seeds} seeds; the line at 1 is the best possible loss, the dotted "
        "line the smallest multiple of always answering 0. Right: filters that assume a number of "
        "levels."
    )
    return lab.Section(
        title="Which optimizer comes closest to the best possible?",
        answer=answer[0].upper() + answer[1:],
        body=SETUP,
        figures={"tracking": (figures.draw_answer(results), caption)},
        tables=[_multiples_table(results)],
    )


def _multiples_table(results: dict[str, xr.Dataset]) -> lab.Table:
    found, references = multiples(results), results["references"]
    levels = found.data_level.values
    rows = [
        [METHODS[name].label, *(_shown(found.sel(optimizer=name, data_level=d)) for d in levels)]
        for name in order(results)
    ]
    zero = [f"{ratio:.2f}" for ratio in (references.zero / references.bound).values]
    bound = [f"{value:.4f}" for value in references.bound.values]
    return lab.Table(
        "Loss as a multiple of the best possible loss",
        ["", *(f"d = {d}" for d in levels)],
        [*rows, ["always answer 0", *zero], ["best possible loss", *bound]],
        notes=["± is half a 95 % interval over seeds. The last row is in squared error."],
        screen=True,
    )


def _shown(runs: xr.DataArray) -> str:
    """Return the mean and its interval, or that a run overflowed."""
    return number(runs) if np.isfinite(runs.values).all() else lab.Diverged("diverged")


def _filters(results: dict[str, xr.Dataset]) -> lab.Section:
    penalty = penalties(results).transpose("assumed_level", "data_level").values
    n = len(penalty)
    right = np.array_equal(penalty.argmin(0), np.arange(n))
    words = (
        "The right number of levels is the best at every data level."
        if right
        else (
            "The right number of levels is the best at "
            f"{int((penalty.argmin(0) == np.arange(n)).sum())} of {n} data levels."
        )
    )
    if n > 1:
        over, under = np.diag(penalty, -1), np.diag(penalty, 1)
        words += f" One level too many costs {_percent(over)}, and one too few {_percent(under)}."
    caption = "Loss of Kalman filters over the smallest of their column; bold: the right number."
    return lab.Section(
        title="Do levels help where they model the drift?",
        answer=words,
        body=FILTERS,
        figures={"levels_assumed": (figures.draw_map(results), caption)},
    )


def _percent(ratios: np.ndarray) -> str:
    low, high = (f"{100 * (x - 1):.0f}" for x in (ratios.min(), ratios.max()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _momentum(results: dict[str, xr.Dataset]) -> lab.Section:
    pairs = [
        ("nested_2", "leaky_sgd"),
        ("matched_3", "leaky_sgd"),
        ("nesterov", "sgd"),
        ("adam", "adam_0"),
    ]
    levels = results["references"].data_level.values
    ratios = {pair: against(results, *pair).transpose("seed", "data_level") for pair in pairs}
    helped = 0
    for ratio in ratios.values():
        mean, half = interval(np.where(np.isfinite(ratio.values), ratio.values, np.nan))
        helped += int((mean + half < 1).sum())
    total = len(pairs) * len(levels)
    rows = [
        [
            f"{METHODS[one].label} ÷ {METHODS[other].label}",
            *(_shown(ratio.sel(data_level=d)) for d in levels),
        ]
        for (one, other), ratio in ratios.items()
    ]
    best = min(float(ratio.mean("seed").min()) for ratio in ratios.values())
    return lab.Section(
        title="Does momentum help to follow drift?",
        answer=(
            f"Momentum has a smaller loss in {helped} of {total} comparisons, beyond its 95 % "
            f"interval, and by at most {100 * max(1 - best, 0):.1f} %."
        ),
        body=MOMENTUM,
        tables=[
            lab.Table("Ratios of losses", ["", *(f"d = {d}" for d in levels)], rows, screen=True)
        ],
    )


def _decay(config: Config, results: dict[str, xr.Dataset]) -> lab.Section:
    leak = chosen(results, "leaky_sgd")["leak"]
    gain = against(results, "leaky_sgd", "sgd")
    levels = results["references"].data_level.values
    rows = [
        ["best pull a step", *(f"{x:.2g}" for x in leak)],
        ["loss ÷ that of SGD alone", *(_shown(gain.sel(data_level=d)) for d in levels)],
    ]
    return lab.Section(
        title="Why does weight decay help?",
        answer=(
            f"With one data level, SGD is best with a pull of {leak[0]:.2g} a step toward 0; the "
            f"Kalman filter's is {1 - config.decay:.2g}. It lowers the loss by "
            f"{100 * (1 - float(gain.sel(data_level=1).mean())):.0f} %."
        ),
        body=DECAY,
        tables=[
            lab.Table("Weight decay of SGD", ["", *(f"d = {d}" for d in levels)], rows),
            _chosen_table(results),
        ],
    )


def _chosen_table(results: dict[str, xr.Dataset]) -> lab.Table:
    rows = [
        [f"{METHODS[name].label}: {hyperparameter.replace('_', ' ')}", *(f"{x:.3g}" for x in found)]
        for name in METHODS
        for hyperparameter, found in chosen(results, name).items()
    ]
    levels = results["references"].data_level.values
    header = ["", *(f"d = {d}" for d in levels)]
    return lab.Table("Hyperparameters after tuning", header, rows)


def _series(results: dict[str, xr.Dataset]) -> lab.Section:
    loss = results["streams"].loss
    first = loss.fillna(np.inf).idxmin("optimizer")
    best = [
        f"{COMPARED[str(first.sel(series=name).item())].label} on {one.label} "
        f"({float(loss.sel(series=name).min()):.2f})"
        for name, one in SERIES.items()
    ]
    rows = [
        [method.label, *(f"{float(loss.sel(optimizer=name, series=one)):.3f}" for one in SERIES)]
        for name, method in COMPARED.items()
    ]
    licences = "; ".join(f"{one.label}: “{_licence(name)}”" for name, one in SERIES.items())
    caption = "Loss on the second half of each series, relative to predicting no change."
    return lab.Section(
        title="Does it carry over to real series?",
        answer=f"Best, relative to predicting no change: {', '.join(best)}.",
        body=REAL.format(lags=LAGS, licences=licences),
        figures={"series": (figures.draw_series(results), caption)},
        tables=[
            lab.Table(
                "Loss on real series ÷ that of no change",
                ["", *(one.label for one in SERIES.values())],
                rows,
            )
        ],
    )


def _licence(name: str) -> str:
    import statsmodels.api

    return str(getattr(statsmodels.api.datasets, name).COPYRIGHT).strip().rstrip(".")
