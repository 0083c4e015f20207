"""The report of Adam against SGD."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments import lab
from experiments.adam_vs_sgd import figures, further, generalization_report, races_report
from experiments.adam_vs_sgd.config import INITIALISATIONS, UNTUNED, Config
from experiments.adam_vs_sgd.figures import title
from experiments.adam_vs_sgd.methods import METHODS
from experiments.adam_vs_sgd.numbers import best_of, percent, spread, stages
from experiments.lab.figures import interval, number

ByMethod = Mapping[str, np.ndarray]
"""Errors of each method in percent, over folds or seeds."""
SETUP = """
{methods} optimizers train the same network in mini-batches, on the same number of examples at
every batch size. *Untuned* means a learning rate of 0.001, momentum of 0.9, He initialisation and
batches of {batch}. *Tuned* means the setting with the smallest mean loss in a {folds}-fold
cross-validation. All methods are tuned on the same grid: {rates} learning rates, {momenta} momenta,
the initialisations {initialisations}, and batches of {batches}. Each tuned method is then trained
on all training images with {seeds} seeds, and only then evaluated on the test images.

Losses are cross-entropies without the penalty. Errors are given as the median of the folds or seeds
with their range, and how many failed, which means that they misclassify more than half. Intervals
are 95 % t intervals, over folds for cross-validated values and over seeds for all others. Folds
share training images, so their intervals are somewhat too narrow.
"""


def sections(config: Config, results: Mapping[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    tuning, final = results["tuning"], results["final"]
    by_method = {m: stages(tuning, m) for m in tuning.optimizer.values.tolist()}
    errors = {
        stage: {
            m: 100 * tuning.error.sel(optimizer=m, **settings[stage]).values
            for m, settings in by_method.items()
        }
        for stage in next(iter(by_method.values()))
    }
    test = {m: 100 * final.test_error.sel(optimizer=m).values for m in by_method}
    tuned = {m: [*settings.values()][-1] for m, settings in by_method.items()}
    return [
        _answer(tuning, errors, test),
        _tuning(tuning, errors, tuned),
        _final(tuning, final, tuned, test),
        generalization_report.generalization(results["generalization"]),
        further.online(results["online"]),
        races_report.one_pass(results["one_pass"]),
        races_report.schedules(results["schedules"]),
        races_report.races(results["races"]),
        further.activations(tuning, results["activations"]),
        further.timing(results["timing"]),
    ]


def _answer(tuning: xr.Dataset, errors: Mapping[str, ByMethod], test: ByMethod) -> lab.Section:
    untuned, tuned = errors["untuned"], [*errors.values()][-1]
    difference = test["sgd"] - test["adam"]
    mean, half = interval(difference)
    verdict = "Yes" if mean > half else "No, SGD is better" if mean < -half else "Not measurably"
    body = SETUP.format(
        methods=len(test),
        batch=UNTUNED["batch"],
        folds=tuning.sizes["fold"],
        rates=tuning.sizes["learning_rate"],
        momenta=tuning.sizes["momentum"],
        initialisations=", ".join(f"`{word}`" for word in INITIALISATIONS),
        batches=", ".join(sorted(tuning.batch.values.tolist(), key=int)),
        seeds=len(difference),
    )
    series = {
        "untuned, cross-validated": untuned,
        "tuned, cross-validated": tuned,
        "tuned, test images": test,
    }
    caption = "Errors before and after tuning: medians and ranges of the folds or seeds."
    return lab.Section(
        title="Is Adam still better once both are tuned?",
        answer=f"{verdict}: tuned, SGD misclassifies {percent(test['sgd'])} of the test images "
        f"and Adam {percent(test['adam'])}, a mean difference of {number(difference)} percentage "
        f"points. Untuned, their errors on held-out images are {percent(untuned['sgd'])} and "
        f"{percent(untuned['adam'])}.",
        body=body,
        figures={"gains": (figures.gains(series), caption)},
    )


def _tuning(
    tuning: xr.Dataset, errors: Mapping[str, ByMethod], tuned: Mapping[str, Mapping[str, Any]]
) -> lab.Section:
    untuned, rate, *_, last = (np.median([*found.values()]) for found in errors.values())
    panels = {}
    for batch in sorted(tuning.batch.values.tolist(), key=int):
        best = best_of(tuning.sel(batch=batch), "momentum", "initialisation")
        found = panels[f"batches of {batch}"] = {m: best.sel(optimizer=m) for m in tuned}
        for m, setting in tuned.items():
            if setting["batch"] == batch:
                found[m] = found[m].assign_attrs(chosen=setting["learning_rate"])
    rows = [[title(m), *(spread(found[m]) for found in errors.values())] for m in tuned]
    header = ["method", *errors]
    caption = (
        "Cross-validated loss against the learning rate, each at the best momentum and "
        "initialisation for it: geometric mean with 95 % bands over folds. Crosses above a panel: "
        "a run of that method diverged. Stars: the chosen settings."
    )
    return lab.Section(
        title="What does each setting contribute?",
        answer=f"The median cross-validated error of the {len(tuned)} methods is "
        f"{untuned:.1f} % untuned, {rate:.1f} % with a tuned learning rate and {last:.1f} % with "
        "all settings tuned.",
        body="Settings are chosen by their loss, so an error may rise from one column of the table "
        "to the next. The error of a chosen setting is biased downwards: it is the best of many.",
        figures={"rates": (figures.rates(figures.by_family(panels), "validation loss"), caption)},
        tables=[
            lab.Table(
                "Cross-validated error [% of images] as more and more is tuned",
                header,
                rows,
                screen=True,
            )
        ],
    )


def _final(
    tuning: xr.Dataset,
    final: xr.Dataset,
    tuned: Mapping[str, Mapping[str, Any]],
    test: ByMethod,
) -> lab.Section:
    best, *_, worst = sorted(test, key=lambda m: np.median(test[m]))
    header = ["method", "learning rate", "momentum", "initialisation", "batch",
              "cross-validated error", "test error", "test loss", "training loss"]  # fmt: skip
    rows = []
    for m, setting in tuned.items():
        momentum, part = METHODS[m].momentum, final.sel(optimizer=m)
        rows.append(
            [
                title(m),
                further.rate_cell(tuning, setting["learning_rate"]),
                "–" if momentum is None else momentum(setting["momentum"]),
                INITIALISATIONS[setting["initialisation"]],
                setting["batch"],
                spread(100 * tuning.error.sel(optimizer=m, **setting).values),
                spread(test[m]),
                number(part.test_loss.values),
                number(part.train_loss.values),
            ]
        )
    curves = {"tuned": {m: final.curve.sel(optimizer=m) for m in tuned}}
    caption = (
        "Mean loss of the last 1,000 examples at the tuned settings, each before it is learned: "
        "geometric mean over seeds, with 95 % bands."
    )
    return lab.Section(
        title="How do all methods compare on the test images?",
        answer=f"{title(best)} has the smallest median error, {percent(test[best])}, and "
        f"{title(worst)} the largest, {percent(test[worst])}.",
        body="Nothing was chosen after the test images had been seen. Seeds differ in initial "
        "weights and order of the examples; their intervals do not include the choice of test "
        "images.",
        figures={"final": (figures.curves(figures.by_family(curves)), caption)},
        tables=[
            lab.Table(
                "Errors [% of images] and losses [nats]", header, rows, [further.EDGE], screen=True
            )
        ],
    )
