"""Report of Adam against SGD, all of it from the stored results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments import _adam_vs_sgd_figures as figures
from experiments import _lines, _sections
from experiments._adam_vs_sgd_figures import title
from experiments._adam_vs_sgd_methods import METHODS
from experiments._adam_vs_sgd_online_report import edge, online_section
from experiments._adam_vs_sgd_runs import (
    ACTIVATED,
    BATCHES,
    INITIALISATIONS,
    UNTUNED,
    chosen,
    tuned,
)
from experiments._sections import Section

TITLE = "Adam against SGD, untuned and tuned"
KNOBS = {
    "the rate": ("learning_rate",),
    "+ momentum": ("momentum",),
    "+ initialisation": ("initialisation",),
    "+ batch size": ("batch",),
}


def write(folder: Path) -> None:
    """Write figures and report from the stored results; print what they come to."""
    _sections.report(
        folder,
        TITLE,
        sections,
        experiment="adam-vs-sgd",
        data="Losses are cross-entropies, without penalty.",
        intervals="over seeds, or over folds where it says cross-validated",
    )


def sections(results: Mapping[str, xr.Dataset]) -> list[Section]:
    """Return the sections of the report."""
    return [
        online_section(results["online"]),
        _tuning(results["tuning"], results["final"]),
        _final(results["tuning"], results["final"]),
        _activations(results["tuning"], results["activations"]),
        _timing(results["timing"]),
    ]


def stages(tuning: xr.Dataset, method: str) -> dict[str, dict[str, Any]]:
    """Return the settings of least validation loss as more of them may be chosen."""
    part = tuning.sel(optimizer=method)
    free: list[str] = []
    found = {"untuned": dict(UNTUNED)}
    for stage, names in KNOBS.items():
        free += names
        fixed = {name: [value] for name, value in UNTUNED.items() if name not in free}
        rate = fixed.pop("learning_rate", None)
        some = part.sel(fixed)
        found[stage] = chosen(
            some if rate is None else some.sel(learning_rate=rate, method="nearest")
        )
    return found


def at(results: xr.Dataset, setting: Mapping[str, Any]) -> xr.Dataset:
    """Return the results at a setting."""
    exact = {name: value for name, value in setting.items() if name != "learning_rate"}
    return results.sel(exact).sel(learning_rate=setting["learning_rate"], method="nearest")


def _by_method(tuning, settings, name):
    parts = [at(tuning.sel(optimizer=m), settings[m])[name].drop_vars([*UNTUNED]) for m in settings]
    return xr.DataArray(xr.concat(parts, "optimizer"))


def _tuning(tuning: xr.Dataset, final: xr.Dataset) -> Section:
    methods = tuning.optimizer.values.tolist()
    by_stage = {m: stages(tuning, m) for m in methods}
    names = [*by_stage[methods[0]]]
    errors = {
        stage: _by_method(tuning, {m: by_stage[m][stage] for m in methods}, "error")
        for stage in names
    }
    first, last = errors["untuned"], errors[names[-1]]

    def percent(array, method):
        return _lines.number(100 * array.sel(optimizer=method).values)

    means = [100 * x.mean("fold").values for x in (first, last)]
    spread = [f"{x.min():.1f} to {x.max():.1f}" for x in means]
    finding = (
        f"Untuned, errors of the {len(methods)} methods range from {spread[0]} %, "
        f"tuned from {spread[1]} %. SGD comes from {percent(first, 'sgd')} to "
        f"{percent(last, 'sgd')} %, Adam from {percent(first, 'adam')} to "
        f"{percent(last, 'adam')} %."
    )
    folds, batches = tuning.sizes["fold"], sorted(tuning.batch.values.tolist(), key=int)
    text = (
        "The same examples in mini-batches, the same number whatever the batch size. Untuned: rate "
        f".001, momentum .9, He's initialisation, batches of {BATCHES[0]}. Every method is given "
        f"the same {tuning.sizes['learning_rate']} rates, {tuning.sizes['momentum']} momenta, "
        f"initialisations ({', '.join(INITIALISATIONS)}) and batch sizes ({', '.join(batches)}), "
        f"and the setting of least mean loss over {folds} folds is taken; its error may rise. An "
        "interval over folds is too narrow by some, since folds share training images, and that of "
        "the chosen setting is of the luckiest of many."
    )
    rows = [[title(m), *(percent(errors[stage], m) for stage in names)] for m in methods]
    header = ["method", "untuned", *(f"tuned: {names[1]}", *names[2:])]
    panels, stars = {}, {}
    settings = {m: by_stage[m][names[-1]] for m in methods}
    for batch in batches:
        heading = f"batches of {batch}"
        panels[heading] = _best_of(tuning.sel(batch=batch), ("momentum", "initialisation"))
        stars[heading] = {
            m: settings[m]["learning_rate"] for m in methods if settings[m]["batch"] == batch
        }
    return Section(
        "In mini-batches: what tuning changes",
        text,
        finding,
        {
            "gains": (
                figures.gains(first, last, final.test_error),
                "Error before and after tuning, with 95 % intervals over folds, and of the tuned "
                "on the test images, over seeds.",
            ),
            "rates": (
                figures.rates(panels, stars, "validation loss"),
                "Cross-validated loss against the rate, each at the best momentum and "
                "initialisation there: geometric mean with 95 % bands over folds; crosses above: "
                "rates at which a run of that method diverged; stars: the settings chosen.",
            ),
        },
        [(header, rows, "Cross-validated error [% of images], as more and more is tuned")],
    )


def _best_of(results: xr.Dataset, axes: tuple[str, ...]) -> xr.Dataset:
    """Return the results at the best of some axes, for every optimizer and rate."""
    flat = results.stack(tried=axes)
    loss = flat.loss.where(~flat.diverged).mean("fold", skipna=False).fillna(np.inf)
    return flat.isel(tried=loss.argmin("tried")).drop_vars(["tried", *axes])


def _final(tuning: xr.Dataset, final: xr.Dataset) -> Section:
    settings = tuned(tuning)
    methods = [*settings]

    def percent(method, name):
        return _lines.number(100 * final[name].sel(optimizer=method).values)

    means = 100 * final.test_error.mean("seed")
    order = [methods[i] for i in np.argsort(means.sel(optimizer=methods).values, kind="stable")]
    pair = (final.test_error.sel(optimizer="sgd") - final.test_error.sel(optimizer="adam")).values
    finding = (
        f"On the test images {title(order[0])} errs least, {percent(order[0], 'test_error')} %, "
        f"and {title(order[-1])} most, {percent(order[-1], 'test_error')} %. SGD's error less "
        f"Adam's, tuned, is {_lines.number(100 * pair)} % of the images."
    )
    text = (
        f"Every method trained at its settings on all training images, {final.sizes['seed']} seeds "
        "each, and then, once, shown the test images. Nothing was chosen afterwards. Seeds differ "
        "in weights and order; intervals say nothing about other test images."
    )
    header = ["method", "rate", "momentum", "initialisation", "batch", "cross-validated error",
              "test error", "test loss", "training loss"]  # fmt: skip
    rows = []
    for m in methods:
        setting, momentum = settings[m], METHODS[m].momentum
        rate = setting["learning_rate"]
        validated = 100 * at(tuning.sel(optimizer=m), setting).error.values
        part = final.sel(optimizer=m)
        rows.append(
            [
                title(m),
                f"{rate:.2g}{edge(tuning, rate)}",
                "–" if momentum is None else momentum(setting["momentum"]),
                INITIALISATIONS[setting["initialisation"]],
                setting["batch"],
                _lines.number(validated),
                percent(m, "test_error"),
                _lines.number(part.test_loss.values),
                _lines.number(part.train_loss.values),
            ]
        )
    curve = final.curve.transpose("optimizer", "seed", "span")
    shown = {"tuned": {m: curve.sel(optimizer=m) for m in methods}}
    caption = "Errors [% of images], losses [nats]; * at the end of the range"
    return Section(
        "The test images, once",
        text,
        finding,
        {
            "final": (
                figures.curves(shown, "nats"),
                "Mean loss of the last 1,000 examples at the tuned settings, each before it is "
                "learned: geometric mean over seeds, with 95 % bands.",
            )
        },
        [(header, rows, caption)],
    )


def activated(tuning: xr.Dataset, others: xr.Dataset) -> xr.Dataset:
    """Return the activations' results, relu's from `tuning`, each at its best initialisation."""
    fixed = {"batch": UNTUNED["batch"], "momentum": UNTUNED["momentum"]}
    relu = tuning.sel(optimizer=[*ACTIVATED], **fixed, drop=True)
    parts = [_best_of(relu, ("initialisation",)).expand_dims(activation=["relu"])]
    parts += [
        _best_of(others.sel(activation=word, drop=True), ("initialisation",)).expand_dims(
            activation=[word]
        )
        for word in others.activation.values
    ]
    return xr.concat(parts, "activation")


def _activations(tuning: xr.Dataset, others: xr.Dataset) -> Section:
    found = activated(tuning, others)
    rows, errors = [], {}
    for word in found.activation.values.tolist():
        row = [word]
        for method in ACTIVATED:
            part = found.sel(activation=word, optimizer=method)
            loss = part.loss.where(~part.diverged).mean("fold", skipna=False).fillna(np.inf)
            best = part.isel(learning_rate=int(loss.values.argmin()))
            rate = float(best.learning_rate)
            errors[word, method] = 100 * best.error.values
            row += [f"{rate:.2g}{edge(found, rate)}", _lines.number(errors[word, method])]
        rows.append(row)
    best = {
        m: min(found.activation.values, key=lambda w, m=m: errors[w, m].mean()) for m in ACTIVATED
    }
    worst = {
        m: max(found.activation.values, key=lambda w, m=m: errors[w, m].mean()) for m in ACTIVATED
    }
    finding = "; ".join(
        f"with {title(m)} {best[m]} errs least, {_lines.number(errors[best[m], m])} %, "
        f"and {worst[m]} most, {_lines.number(errors[worst[m], m])} %"
        for m in ACTIVATED
    )
    header = ["activation"]
    for m in ACTIVATED:
        header += [f"{title(m)}: rate", "error"]
    text = (
        f"Batches of {UNTUNED['batch']} and momentum .9, each activation at the best rate and "
        "initialisation for it. The rate that suits relu need not suit the others."
    )
    caption = "Cross-validated error [% of images]; * at the end of the range"
    note = (
        "Cross-validated loss against the rate, each at the best initialisation there: geometric "
        "mean with 95 % bands over folds; crosses above: rates at which a run diverged."
    )
    return Section(
        "Activations",
        text,
        finding[0].upper() + finding[1:] + ".",
        {"activations": (figures.activations(found), note)},
        [(header, rows, caption)],
    )


def _timing(timing: xr.Dataset) -> Section:
    times = 1e6 * timing.seconds.transpose("optimizer", "round")
    least = times.min("round")
    methods = timing.optimizer.values.tolist()
    sgd = float(least.sel(optimizer="sgd"))
    slowest = methods[int(least.values.argmax())]
    finding = (
        f"A step of SGD takes {sgd:.3g} µs, one of Adam {float(least.sel(optimizer='adam')):.3g} "
        f"µs; {title(slowest)} takes longest, {float(least.max()):.3g} µs."
    )
    text = (
        f"One training of {timing.attrs['steps']:,} steps in batches of {timing.attrs['batch']}, "
        "alone on the machine's first device: the compiled program, gradient and all, from call "
        "to result, after one call that does not count. Methods take turns, "
        f"{timing.sizes['round']} rounds, and the least time counts: what else the machine does "
        "only adds."
    )
    rows = []
    for m in methods:
        each = times.sel(optimizer=m).values
        state = f"{float(timing.state.sel(optimizer=m)):.2f}"
        shown = [f"{x:.3g}" for x in (each.min(), np.median(each), each.max())]
        rows.append([title(m), *shown, f"{each.min() / sgd:.2f}", state])
    header = ["method", "least [µs]", "median [µs]", "most [µs]", "least, of SGD's",
              "state [numbers a weight]"]  # fmt: skip
    return Section(
        "Wall time",
        text,
        finding,
        {
            "times": (
                figures.times(timing.seconds),
                "Time of a step, of every round and the least.",
            )
        },
        [(header, rows, "A step, and what the optimizer holds")],
    )
