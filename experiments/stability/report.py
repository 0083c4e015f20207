"""The report of the stability experiment."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.stability import figures, numbers, tables
from experiments.stability.config import Config
from experiments.stability.numbers import Hypothesis
from experiments.stability.schemes import SCHEMES
from experiments.stability.tables import ranges
from experiments.stability.windows import Window, windows

SETUP = """
A linear model is trained online, one example a step, on true weights that drift. Each level of the
drift, and each level of the model's momentum, is an exponential average of the next. The
[level sweep](../levels/report.html) (`python -m experiments levels`) started from the hypothesis
that the loss is smallest where model and data have the same number of levels, and found that each
further model level multiplies the loss. This report explains the second with linear theory, which
knows the transform, the learning rate and the number of inputs, and no run. It tests the first
where every level is stable.
"""
GROWTH = """
Growth is measured without drift and noise, where the error moves linearly. At each step, parameters
and momenta are divided by the parameters' norm, and the logarithms of the divisors add up. No
number becomes large, so rounding and overflow play no part.

What is measured is a typical run, which differs from both predictions. In the mean error,
directions of opposite sign cancel. The mean square is dominated by rare large runs; by Jensen's
inequality, a typical run grows at most as fast as its root. No theorem says that a typical run
grows at least as fast as the mean error.
"""
TESTED = """
Learning rates are tuned for every combination of levels on separate seeds. The best level count is
chosen on half of the reported seeds and compared on the other half. *Cost* is how much larger the
loss is with as many levels as the data than with the best level count. *Dip* is the loss with as
many levels as the data relative to the geometric mean of the losses with one level fewer and one
more: if the hypothesis held, it would be well below 0.
"""
THRESHOLDS = """
Theory gives the learning rate at which the *mean square* of the error begins to grow. A single run
grows more slowly: the mean of a logarithm is at most the logarithm of the mean (Jensen's
inequality), and rare large runs dominate the mean square. So single runs of finite length become
unstable at a somewhat larger learning rate. In the table, the predicted limit is that of the mean
square. The measured one, in parentheses, is that of single runs, with its 95 % interval over seeds.
"""
ALL = "all runs converge"
CAPTIONS = {
    "answer": "Left: above the largest stable learning rate, training diverges. Lines: predicted. "
    "Points: where the measured growth of single runs turns positive, mean over seeds with its "
    "95 % interval. Right: mean loss relative to the "
    "smallest at the same data level. Squares: as many levels in the model as in the data, where "
    "the hypothesis has the smallest loss.",
    "growth": "Growth of ln loss at the given learning rate. Shaded: from the predicted growth of "
    "the mean error to that of the mean square. Points: measured, mean over seeds with its 95 % "
    "interval. Right: how far the predictions are from the measured growth.",
    "stationary": "Mean loss at the given learning rate. Lines: the predicted stationary loss. "
    "Points: measured, mean over seeds with its 95 % interval. Diverged runs are left out.",
    "remedies": "Mean loss, averaged over seeds, median over data levels. Lines end where runs "
    "diverge.",
    "hypothesis": "Mean loss relative to the smallest at the same data level. Squares: as many "
    "levels in the model as in the data.",
    "offset": "Loss by how many levels the model has more than the data, relative to the geometric "
    "mean over all model levels. If the hypothesis held, the smallest would be at 0. Bands: 95 % "
    "interval over seeds.",
}


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    growth, losses = results["growth"], results["losses"]
    tested = numbers.tested(config, losses)
    deviations = numbers.deviations(config, growth, losses)
    drawn = {
        "answer": figures.draw_answer(config, results),
        "growth": figures.draw_growth(growth),
        "stationary": figures.draw_stationary(config, losses),
        "remedies": figures.draw_remedies(config, losses),
        "hypothesis": figures.draw_hypothesis(config, losses),
        "offset": figures.draw_offsets(tested),
    }

    def section(title, answer, table, *names, body=""):
        shown = {name: (drawn[name], CAPTIONS[name]) for name in names}
        return lab.Section(title, answer, body, shown, [table] if table else [])

    return [
        section("Answer", _answer(config, growth, tested), None, "answer", body=SETUP),
        section(
            "Does the loss fall when the model has as many momentum levels as the data?",
            _of_hypothesis(tested),
            tables.hypothesis_table(tested),
            "hypothesis",
            "offset",
            body=TESTED,
        ),
        section(
            "Does theory predict which levels diverge?",
            _of_growth(config, growth, losses),
            tables.growth_table(config, growth, losses),
            "growth",
            body=GROWTH,
        ),
        section(
            "Which learning rates are stable?",
            _of_thresholds(config, growth, results["thresholds"]),
            tables.threshold_table(growth, results["thresholds"]),
            body=THRESHOLDS,
        ),
        section(
            "Does theory predict the loss?",
            _of_losses(deviations),
            tables.deviation_table(deviations),
            "stationary",
        ),
        section(
            "What helps?",
            _of_remedies(config, losses),
            tables.remedy_table(config, losses),
            "remedies",
        ),
    ]


def _answer(config: Config, growth: xr.Dataset, tested: dict[str, Hypothesis]) -> str:
    """Say in one sentence why levels diverge and whether matching helps."""
    first = numbers.first_unstable(growth)
    where = f"with equal decays at a learning rate of {config.learning_rate:g}"
    why = (
        f"until the feedback loop is unstable, {where} from {_levels(first)} on"
        if first is not None
        else f"but {where}, {_levels(config.model_levels)} do not make the feedback loop unstable"
    )
    return f"Each level delays the gradient {why}; {_of_matching(tested)}"


def _of_matching(tested: dict[str, Hypothesis]) -> str:
    if not tested:
        return (
            "whether matching the data's levels helps is open: in every tested scheme, some runs "
            "diverged."
        )
    worse = [float(x.mean_cost.mean - x.mean_cost.half_width) > 0 for x in tested.values()]
    costs = [100 * np.expm1(float(one.mean_cost.mean)) for one in tested.values()]
    low, high = min(costs), max(costs)
    span = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
    if not any(worse):
        return (
            f"matching the data's levels is best: no other level count wins by over {high:.0f} %."
        )
    if not all(worse):
        return (
            f"matching the data's levels costs {span} % in loss: in some schemes, too little to be "
            "certain."
        )
    best = np.unique([one.best for one in tested.values()])
    where = f" {_levels(int(best[0]))} is best at every data level, and" if best.size == 1 else ""
    by_scheme = ", depending on the scheme" if "to" in span else ""
    return (
        f"matching the data's levels does not help:{where} matching costs {span} % in loss on "
        f"average{by_scheme}."
    )


def _of_hypothesis(tested: dict[str, Hypothesis]) -> str:
    """Say in how many cases the data's number of levels is best."""
    if not tested:
        return "This run cannot tell: in every tested scheme, some runs diverged."
    best = np.concatenate([one.best.values for one in tested.values()])
    data = np.concatenate([one.best.data_level.values for one in tested.values()])
    hits = int((best == data).sum())
    if (best == 1).all() and best.size > len(tested):
        return (
            "No. One level is best at every data level, in every tested scheme. Momentum "
            "averages noise away but delays what the model follows, and a smaller learning rate "
            "reduces noise as well."
        )
    return (
        f"In {hits} of {best.size} cases. The best level counts are {ranges(np.unique(best))}; "
        "the table has the cost of the data's."
    )


def _of_growth(config: Config, growth: xr.Dataset, losses: xr.Dataset) -> str:
    """Say which level counts diverge, and whether predictions enclose the measured growth."""
    words = f"With equal decays, {_converged(config, losses, 'equal')}."
    first = numbers.first_unstable(growth)
    if first is None:
        return f"{words} Theory expects no level count to grow."
    low, high = (bound.sel(scheme="equal") for bound in numbers.growth_bounds(growth))
    mean, half = (part.sel(scheme="equal") for part in numbers.measured_growth(growth))
    grown = growth.model_level >= first
    inside = int(((low <= mean) & (mean <= high) & grown).sum())
    near = int(((low <= mean + half) & (mean - half <= high) & grown).sum()) - inside
    return (
        f"{words} For {inside} of the {int(grown.sum())} level counts that theory expects to grow "
        f"({first} and more), the measured growth lies between the two predictions"
        + (f"; for {near} more, part of its 95 % interval does." if near else ".")
    )


def _of_thresholds(config: Config, growth: xr.Dataset, thresholds: xr.Dataset) -> str:
    """Say how the largest stable rate falls, and how well it is predicted."""
    limits = growth.mean_square_limit.sel(scheme="equal").values
    mean = numbers.estimate(numbers.crossings(thresholds.growth)).mean
    above = (mean / growth.mean_square_limit.sel(scheme=mean.scheme) - 1).values
    words = (
        f"With equal decays, the largest stable learning rate is {limits[0]:.2g} with one level "
        f"and {limits[-1]:.2g} with {_levels(limits.size)}."
    )
    if not np.isfinite(above).any():
        return words
    median = 100 * np.nanmedian(above)
    words += f" Measured limits are {abs(median):.0f} % {'above' if median > 0 else 'below'} the "
    words += "predicted ones (median)."
    found = windows(config, growth.mean_square_limit, mean)
    return " ".join([words, *(_of_window(*at, window) for at, window in found.items())])


def _of_window(scheme: str, level: int, window: Window) -> str:
    """Say why runs do not show a predicted limit."""
    again = f", and again above {window.next_limit:.2g}" if np.isfinite(window.next_limit) else ""
    return (
        f"An exception is “{SCHEMES[scheme].label}” with {_levels(level)}. Its mean square grows "
        f"at learning rates between {window.low:.3g} and {window.high:.3g}{again}. Between the "
        f"first two, its logarithm grows by at most {1000 * window.growth:.2g} in 1,000 steps. "
        "This is too slow for single runs to show, so some of them become unstable only at a much "
        "larger rate."
    )


def _of_losses(z: xr.DataArray) -> str:
    size = abs(z.sel(scheme="equal"))
    n = int(size.notnull().sum())
    if not n:
        return "With equal decays, no run reaches its stationary loss."
    return (
        f"With equal decays, {int((size <= 3).sum())} of the {n} stationary losses that runs reach "
        f"are within 3 standard errors of the prediction; in all schemes at the given learning "
        f"rate, {int((abs(z) <= 3).sum())} of {int(z.notnull().sum())} are."
    )


def _of_remedies(config: Config, losses: xr.Dataset) -> str:
    """Say with which remedies all runs converge."""
    texts = {
        "matched": "matched delays",
        "rescaled": "half of the largest stable learning rate",
        "zero_lag": "the combination without lag (DEMA, TEMA, …)",
        "mean": "the mean of the levels",
        "debiased": "a bias correction",
    }
    found = {text: _converged(config, losses, name) for name, text in texts.items()}
    good = [text for text, words in found.items() if words == ALL]
    said = [f"All runs converge with each of: {', '.join(good)}."] if good else []
    said += [f"With {text}, {words}." for text, words in found.items() if words != ALL]
    return " ".join(said)


def _converged(config: Config, losses: xr.Dataset, name: str) -> str:
    """Say with which level counts all runs converge."""
    bad = numbers.diverged(config, losses).sel(scheme=name).any(("seed", "data_level"))
    levels = losses.model_level.values[~bad.values]
    if levels.size == bad.size:
        return ALL
    return (
        f"all runs with {ranges(levels)} levels converge, no others"
        if levels.size
        else ("some runs diverge with every level count")
    )


def _levels(count: int) -> str:
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return f"{words[count - 1] if count <= len(words) else count} level{'s' * (count > 1)}"
