"""What the stored results of the stability experiment say, in words."""

import numpy as np
import xarray as xr

from experiments import _stability_answers as answers
from experiments._stability_figures import LABELS, STEPS


def statements(results: xr.Dataset) -> list[tuple[str, str]]:
    """Return what came out: headings with a paragraph each."""
    return [
        ("Does each level multiply the loss?", _said_of_growth(results)),
        ("Is growth predicted?", _said_of_bounds(results)),
        ("Is the loss predicted?", _said_of_losses(results)),
        ("What helps?", _said_of_remedies(results)),
        ("Is the loss smallest with as many levels as the data?", _said_of_hypothesis(results)),
    ]


def _said_of_growth(results: xr.Dataset) -> str:
    options = answers.config(results)
    mean_square, mean = (
        answers.first_unstable(results, name) for name in ("mean_square_growth", "mean_growth")
    )
    bad = answers.diverged(results).sel(scheme="equal").any(("seed", "data_level"))
    converged = _convergence(results, "equal")
    words = [f"With equal decays at a rate of {options['learning_rate']:g}, {converged}."]
    if mean_square is None:
        return words[0] + " The theory expects no level to grow."
    words.append(
        f"The theory expects the mean square to grow from {mean_square} levels on"
        + (f" and the mean from {mean}." if mean is not None else ".")
    )
    growth = answers.measured_growth(results).mean.sel(fixed="equal").values * options["steps"]
    levels = results.model_level.values
    rising = levels >= mean_square
    top = levels[growth.argmax()]
    if rising.sum() > 2:
        steps = np.diff(growth[rising])
        expected = results.mean_square_growth.sel(fixed="equal").values
        words.append(
            f"The first level beyond adds {steps[0]:.1f} to ln loss over the {options['steps']:,} "
            f"steps, the last one {steps[-1]:.1f}; growth is largest with {top} levels, predicted "
            f"with {levels[expected.argmax()]}."
        )
    slopes = results.slope.sel(scheme="equal", model_level=levels[rising & bad.values])
    if slopes.size and np.isfinite(slopes).all():
        of_data = STEPS * slopes.mean(("seed", "model_level")).values
        words.append(
            f"The data's levels make no difference to it: {of_data.min():.2f} … "
            f"{of_data.max():.2f} per {STEPS:,} steps, on average over the levels that diverged."
        )
    saturates = ", which saturates" if top < levels[-1] else ""
    words.append(
        f"It is the instability of a linear loop with too much delay{saturates}, and nothing "
        "numerical."
    )
    return " ".join(words)


def _said_of_bounds(results: xr.Dataset) -> str:
    first = answers.first_unstable(results)
    if first is None:
        return "No level is expected to grow."
    low, high = (bound.sel(fixed="equal") for bound in answers.growth_bounds(results))
    mean, half = (part.sel(fixed="equal") for part in answers.measured_growth(results))
    levels = results.model_level.values
    inside = ((low <= mean) & (mean <= high)).values
    grown = levels >= first
    words = [
        f"Of the {grown.sum()} numbers of levels that are expected to grow, measured growth lies "
        f"between that of the mean and that of the mean square in {(inside & grown).sum()}, and "
        f"of the {(~grown).sum()} others in {(inside & ~grown).sum()}."
    ]
    outside = [
        f"with {m} it is {STEPS * float(max(low[i] - mean[i], mean[i] - high[i])):.3f} per "
        f"{STEPS:,} steps beyond, the measurement's 95 % interval being ± "
        f"{STEPS * float(half[i]):.3f}"
        for i, m in enumerate(levels)
        if not inside[i]
    ]
    if outside:
        words.append(f"{'; '.join(outside).capitalize()}.")
    deep = levels >= 10
    if deep.any():
        apart = [np.abs(bound.values / mean.values - 1) for bound in (high, low)]
        off = [part[deep].max() for part in apart]
        far = np.flatnonzero(np.maximum(*apart) > 0.05)
        close = levels[far[-1] + 1] if far.size and far[-1] + 1 < levels.size else None
        words.append(
            f"From 10 levels on it differs by at most {off[0]:.1%} from the mean square's, and by "
            f"at most {off[1]:.1%} from the mean's"
            + (f"; from {close} levels on both are within 5 %." if close is not None else ".")
        )
    return " ".join(words)


def _said_of_losses(results: xr.Dataset) -> str:
    z = answers.deviations(results)
    size = np.abs(z.sel(scheme="equal").values)
    n = int(np.isfinite(size).sum())
    if not n:
        return "With equal decays no stationary loss is reached."
    all_n, beyond = int(np.isfinite(z).sum()), int((np.abs(z) > 3).sum())
    return (
        f"With equal decays {int((size <= 3).sum())} of the {n} stationary losses that runs reach "
        f"are within 3 standard errors of what is predicted, the farthest {np.nanmax(size):.1f} "
        f"away; of all schemes at the given rate {all_n - beyond} of {all_n}. (Data levels share "
        "their chance, so deviations come in groups. Where the untrained model's loss is not "
        "forgotten within the warm-up, nothing is compared.)"
    )


def _said_of_remedies(results: xr.Dataset) -> str:
    bad = answers.diverged(results)
    words = []
    ratio = excess_ratio(results, "matched")
    if not bool(bad.sel(scheme="matched").any()) and ratio is not None:
        words.append(
            f"With matched delay all {results.sizes['model_level']} levels converge at the given "
            f"rate; the loss above the noise is at most {float(ratio.max()):.2f} times that of one "
            "average."
        )
    for name, text in [
        ("rescaled", "equal decays at half of the largest stable rate"),
        ("zero_lag", "the combination without lag (DEMA, TEMA, …)"),
        ("mean", "the mean of the levels"),
        ("debiased", "a bias correction"),
    ]:
        words.append(f"With {text}, {_convergence(results, name)}.")
    return " ".join(words)


def _said_of_hypothesis(results: xr.Dataset) -> str:
    words, costs, bests = [], [], []
    for name in tested(results):
        found = answers.hypothesis(results.loss.sel(scheme=name))
        costs.append(found.mean_cost)
        bests.append(found.best)
        hits = int((found.best == found.best.data_level).sum())
        words.append(
            f"{LABELS[name].capitalize()}: best with {_counted(np.unique(found.best))}, the "
            f"data's number in {hits} of {found.best.size} cases; as many levels as the data cost "
            f"{percent(found.mean_cost)}."
        )
    if not words:
        return "It cannot be told: in every scheme some runs diverged."
    if all(float(x.mean - x.half_width) > 0 for x in costs):
        words.insert(0, "No.")
    if all((best == 1).all() for best in bests):
        words.append(
            "The best is no momentum: an average removes noise but delays what the model follows, "
            "and a smaller rate removes noise as well."
        )
    return " ".join(words)


def excess_ratio(results: xr.Dataset, name: str) -> xr.DataArray | None:
    """Return mean losses above the noise, relative to those of two levels; None without these."""
    if results.sizes["model_level"] < 2:
        return None
    noise = answers.config(results)["noise_std"] ** 2
    excess = results.loss.sel(scheme=name).mean("seed") - noise
    return excess / excess.sel(model_level=2)


def ranges(levels: np.ndarray) -> str:
    """Return integers as "1 – 5, 7"."""
    if not levels.size:
        return "none"
    parts = np.split(levels, np.flatnonzero(np.diff(levels) > 1) + 1)
    return ", ".join(f"{p[0]} – {p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def tested(results: xr.Dataset) -> list[str]:
    """Return the schemes in which every run converged."""
    bad = answers.diverged(results)
    names = ["matched", *results.tuned.values]
    return [name for name in names if not bool(bad.sel(scheme=name).any())]


def percent(effect: answers.Estimate) -> str:
    """Return an effect on a logarithm in percent, with its interval."""
    mean, half = float(effect.mean), float(effect.half_width)
    ends = [100 * np.expm1(x) for x in (mean, mean - half, mean + half)]
    return "{:+.1f} % ({:+.1f} … {:+.1f})".format(*ends) if np.isfinite(mean) else "–"


def _convergence(results: xr.Dataset, name: str) -> str:
    """Say which numbers of levels converged."""
    bad = answers.diverged(results).sel(scheme=name).any(("seed", "data_level"))
    levels = results.model_level.values[~bad.values]
    if not levels.size:
        return "some runs of every number of levels diverged"
    every = levels.size == bad.size
    return "all runs converged" if every else f"all runs of {_counted(levels)} converged, no others"


def _counted(levels: np.ndarray) -> str:
    return "1 level" if [*levels] == [1] else f"{ranges(levels)} levels"
