"""The report of the level sweep."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from experiments import lab
from experiments.levels import conjectures, distance, figures
from experiments.levels.config import Config
from experiments.levels.regression import Regression, regress
from nested_jax import plots

REFERENCE = Path(__file__).with_name("published_losses.csv")
FORMULAS = {
    "loss": "loss ~ model_level + data_level",
    "log_loss": "np.log(loss) ~ model_level + data_level",
}
TITLES = {
    "loss": "Regression of the loss on the levels",
    "log_loss": "Regression of the log loss on the levels",
}
SETUP = """
A linear model is trained online, one example a step, on true weights that drift. Each level of
the drift, and each level of the model's momentum, is an exponential average of the next. With m
levels the gradient passes through m − 1 averages, so the update is a gradient of about
(m − 1) a / (1 − a) steps ago, where a is the decay. The published experiment asked whether the loss
is smallest where model and data have the same number of levels.

The heatmap shows the mean loss after warm-up. Diverged runs, whose loss ends above that of the
untrained model, have a separate colour scale.
"""
THEORY = """
The predictions use the transfer function of the cascade, the learning rate and the number of
inputs, and no run. Where the mean square of the error settles, the prediction is the stationary
loss; elsewhere it follows from the growth of the mean square. The
[stability report](../stability/report.html) (`python -m experiments stability`) explains why the
levels diverge, how accurate the predictions are, and what helps.
"""


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    found = results["results"]
    fitted = regressions(found)
    predicted = predicted_regression(found)
    loss, diverged, over = distance.over_seeds(found)
    heatmap = plots.heatmap(loss, diverged=diverged, label=f"mean loss{over}")
    cascades = conjectures.cascades(config, found.predicted_growth.values)
    # The hypothesis and the two conjectures of the published experiment, by name.
    answers = [
        f"Hypothesis: {_hypothesis(found)}",
        _divergence(found),
        conjectures.answer(config, cascades),
        *_published(config, found),
    ]
    files = {
        "losses.csv": losses_csv(found),
        "regression.json": _json(fitted | {"predicted_log_loss": predicted}),
    }
    return [
        lab.Section(
            title="Losses",
            answer=" ".join(answers),
            body=SETUP,
            figures={"losses": (heatmap, f"Mean loss after warm-up{over}.")},
            tables=[_losses_table(loss, diverged, found)],
            files=files,
        ),
        distance.section(found),
        conjectures.section(config, cascades),
        lab.Section(
            title="How much does each level change the loss?",
            answer=_effect(fitted["log_loss"]),
            body=THEORY,
            figures={
                "loss_by_model_level": (
                    figures.loss_by_level(found.loss, predicted=found.predicted_loss),
                    "Loss against model levels, one line for each data level, and the prediction.",
                ),
                "loss_by_data_level": (
                    figures.loss_by_level(found.loss, level="data_level", over="model_level"),
                    "Loss against data levels, one line for each model level.",
                ),
            },
            tables=[
                *(x.table(TITLES[name]) for name, x in fitted.items() if isinstance(x, Regression)),
                *_slopes(fitted["log_loss"], predicted),
            ],
        ),
    ]


def _hypothesis(found: xr.Dataset) -> str:
    """Say where the loss is smallest."""
    loss, _, _ = distance.over_seeds(found)
    loss = loss.transpose("data_level", "model_level").fillna(np.inf)
    if not np.isfinite(loss).any():
        return "no run has a finite loss."
    best = loss.model_level.values[loss.argmin("model_level").values]
    equal = int((best == found.data_level.values).sum())
    if (best == best[0]).all() and best.size > 1:
        return f"no, at every data level the loss is smallest with {_levels(best[0])}."
    return (
        f"the loss is smallest with as many model levels as data levels at {equal} of "
        f"{_levels(best.size, 'data')}."
    )


def _levels(count: int, whose: str = "model") -> str:
    return f"{count} {whose} level{'' if count == 1 else 's'}"


def _divergence(found: xr.Dataset) -> str:
    """Say which runs diverged."""
    diverged, total = int(found.diverged.sum()), found.loss.size
    infinite = int((~np.isfinite(found.loss)).sum())
    words = f"{diverged} of {total} runs diverged"
    words += f", {infinite} of them beyond the range of numbers" if infinite else ""
    bad = found.diverged.any([dim for dim in found.dims if dim != "model_level"])
    stable = found.model_level.values[~bad.values]
    if diverged and stable.size:
        words += f"; with {stable.min()} to {stable.max()} model levels, none did"
    return f"{words}."


def _published(config: Config, found: xr.Dataset) -> list[str]:
    difference = published_difference(config, found)
    if difference is None:
        return []
    return [
        f"The {found.loss.size} published losses are reproduced to a relative difference of at "
        f"most {difference:.1e}."
    ]


def published_difference(config: Config, found: xr.Dataset) -> float | None:
    """Return the largest relative difference to the published losses, None for other options."""
    defaults = lab.describe(Config())
    computed = {name: defaults[name] for name in ("device", "implementation")}
    if lab.describe(config) | computed != defaults:
        return None
    reference = pd.read_csv(REFERENCE).set_index(["model_level", "data_level"]).to_xarray().loss
    return float(abs(found.loss / reference - 1).max())


def _effect(fitted: Regression | str) -> str:
    """Say what the regression of the log loss found."""
    if isinstance(fitted, str):
        return fitted
    return " ".join(
        f"Each {term.name.replace('_', ' ')} multiplies the loss by {math.exp(term.estimate):.3g} "
        f"(95 % interval {math.exp(term.low):.3g} … {math.exp(term.high):.3g}"
        f"{', which includes 1' if term.low <= 0 <= term.high else ''})."
        for term in fitted.terms
        if term.name != "Intercept"
    )


def regressions(found: xr.Dataset) -> dict[str, Regression | str]:
    """Return the two regressions on the levels, or why there is none."""
    return {name: _regress(found.loss, formula) for name, formula in FORMULAS.items()}


def predicted_regression(found: xr.Dataset) -> Regression | str:
    """Return the regression of the predicted log loss on the levels, or why there is none."""
    return _regress(found.predicted_loss.rename("loss"), FORMULAS["log_loss"])


def _regress(loss: xr.DataArray, formula: str) -> Regression | str:
    try:
        return regress(loss.to_dataframe().reset_index(), formula)
    except ValueError as error:
        return f"The regression could not be fitted. {error}"


def _json(fitted):
    described = {
        name: {"error": one} if isinstance(one, str) else one.to_dict()
        for name, one in fitted.items()
    }
    return json.dumps(described, indent=2, allow_nan=False) + "\n"


def _slopes(fitted: Regression | str, predicted: Regression | str) -> list[lab.Table]:
    """Return the fitted and predicted slopes of the log loss, unless one is missing."""
    if isinstance(fitted, str) or isinstance(predicted, str):
        return []
    rows = [
        [
            term.name.replace("_", " "),
            f"{term.estimate:.4f} ({term.low:.4f} … {term.high:.4f})",
            f"{other.estimate:.4f}",
        ]
        for term, other in zip(fitted.terms, predicted.terms, strict=True)
        if term.name != "Intercept"
    ]
    return [lab.Table("Slopes of the log loss", ("", "fitted", "predicted"), rows, screen=True)]


def losses_csv(found: xr.Dataset) -> str:
    """Return one row for each run with all 17 digits; the model's level runs fastest."""
    names = ["model_level", "data_level"] + (["seed"] if "seed" in found.dims else [])
    order = ["data_level", "model_level", *names[2:]]
    frame = found.loss.to_dataframe().reset_index().sort_values(order)
    return frame[[*names, "loss"]].to_csv(index=False, float_format="%.16e", na_rep="nan")


def _losses_table(loss: xr.DataArray, diverged: xr.DataArray, found: xr.Dataset) -> lab.Table:
    dims = ("model_level", "data_level")
    rows = [
        [str(level), *map(_log10, row, marks)]
        for level, row, marks in zip(
            loss.model_level.values,
            loss.transpose(*dims).values,
            diverged.transpose(*dims).values,
            strict=True,
        )
    ]
    references, notes = distance.rows(found)
    return lab.Table(
        "log10 of the mean loss: model levels down, data levels across",
        ["m \\ d", *map(str, loss.data_level.values)],
        [*rows, *references],
        notes=["Marked: diverged, the loss ends above that of the untrained model.", *notes],
        screen=True,
    )


def _log10(loss: float, diverged: bool) -> str:
    finite = 0 < loss < math.inf
    text = f"{math.log10(loss):.{1 if diverged else 2}f}" if finite else str(float(loss))
    return lab.Diverged(text) if diverged else text
