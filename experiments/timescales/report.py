"""The report of the experiment on time scales."""

import xarray as xr

from experiments import lab
from experiments.lab.figures import number
from experiments.lab.tuning import values
from experiments.timescales import figures
from experiments.timescales.config import STRIDE, Config
from experiments.timescales.gauge import BEFORE, FACTORS, GAUGED, RISE, Counts, counted
from experiments.timescales.methods import METHODS, compared
from experiments.timescales.numbers import (
    TASKS,
    Comparison,
    best_of,
    comparisons,
    counts,
    shown_loss,
)

PAYS = """
Each method with a second time scale is compared with the method that it extends, which has one:
delta gradient descent with SGD, AdEMAMix with Adam, M3 with Muon, and the others with momentum. All
of them are tuned alike: {trials} points of their hyperparameters, then {trials} around the best, on
seeds that are not reported. A ratio of losses below 1 means that the second time scale helps. It
*pays* where the whole 95 % interval is below 1 / 1.01, because tuning is not finer than 1 %. It
*costs* where the whole interval is above 1.01.

*Drift* is online regression on true weights that drift at d levels, one example a step.
*Quadratics* have 16 curvatures at equal ratios with condition number κ, with and without noise in
the gradient. *The language model* predicts the next character from the {context} before it; it is
an embedding and a hidden layer of {width} units, and learns from {origin}. Delta gradient descent
reads the inputs of a linear model and therefore runs on drift only. Muon, M3 and delta momentum
take the weights on drift for a matrix of one row, and those of a quadratic for a 4 × 4 matrix.
"""
LOSSES = """
On drift, 1 is the tracking bound, the loss of the Kalman filter that knows the drift. On
quadratics the loss is the mean of the last quarter of {steps:,} steps, over the initial loss. A
method that is not drawn has reached 0 or has diverged. The language model is measured on the last
tenth of the text, which nothing was tuned on. Methods with one time scale are at the top of the
figure.
"""
GAUGE = """
The gauge is `theory.edge_of_stability`: learning rate times largest curvature over the largest
value that is stable. It is read every {stride} steps on a fixed batch of training windows, along
runs at the tuned learning rate and at {factor:g} times that rate.

A *spike* begins where the loss of that batch is more than {rise:.0f} % above its smallest value of
the {before} readings before, or is not finite. The gauge *passed 1 before* a spike if it was above
1 in one of these {before} readings. It rose *without a spike* if it went above 1 while the loss was
calm and no spike began in the next {before} readings. The last column shows how often it is above 1
between spikes: near 100 %, having passed 1 says little. Triangles in the figure mark spikes.
"""


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    return [_pays(config, results), _losses(config, results), _gauge(results)]


def _pays(config: Config, results: dict[str, xr.Dataset]) -> lab.Section:
    found = counts(results)
    share = sum(pays for pays, _, _ in found.values()) / sum(total for *_, total in found.values())
    often = "rarely" if share < 1 / 4 else "sometimes" if share < 1 / 2 else "often"
    parts = [
        f"{pays} of {total} comparisons on {TASKS[task]}"
        for task, (pays, _, total) in found.items()
    ]
    answer = (
        f"A second time scale {often} pays: the loss is smaller in {', '.join(parts[:-1])} and "
        f"{parts[-1]}."
    )
    spikes = _total(results)
    origin = results["language"].attrs["origin"]
    words = {"trials": config.trials, "context": config.context, "width": config.width}
    caption = (
        "Loss over that of the method with one time scale, geometric mean and 95 % interval over "
        "seeds; below 1, the second time scale helps."
    )
    return lab.Section(
        title="Where does a second time scale pay?",
        answer=f"{answer} {_foreseen(spikes)}",
        body=PAYS.format(origin=_source(origin), **words),
        figures={"timescales": (figures.draw_ratios(results), caption)},
        tables=[*(_ratio_table(results, task) for task in TASKS), _count_table(results)],
    )


def _source(origin: str) -> str:
    return "the help topics of Python" if origin == "pydoc_data.topics" else f"`{origin}`"


def _ratio_table(results: dict[str, xr.Dataset], task: str) -> lab.Table:
    found = comparisons(results, task)
    cases = [str(case) for case in results[task].case.values]
    rows = []
    for name in dict.fromkeys(one.method for one in found):
        of_method = [one for one in found if one.method == name]
        against = f"{METHODS[name].label} ÷ {METHODS[of_method[0].base].label}"
        rows.append([against, *map(_ratio, of_method)])
    title = f"Ratios of losses: {TASKS[task].removeprefix('the ')}"
    return lab.Table(title, ["", *cases], rows, screen=True)


def _ratio(one: Comparison) -> str:
    shown = f"{one.mean:.3g} [{one.low:.3g}, {one.high:.3g}]"
    return shown if one.high < float("inf") else lab.Diverged("diverged")


def _count_table(results: dict[str, xr.Dataset]) -> lab.Table:
    rows = [
        [figures.task_title(task), str(pays), str(costs), str(total - pays - costs)]
        for task, (pays, costs, total) in counts(results).items()
    ]
    header = ["", "pays", "costs", "neither"]
    return lab.Table("Comparisons", header, rows, screen=True)


def _losses(config: Config, results: dict[str, xr.Dataset]) -> lab.Section:
    best = {task: best_of(results, task) for task in TASKS}
    parts = []
    for task, name in best.items():
        loss = shown_loss(results, task).sel(optimizer=name)
        shown = number(loss.mean("case")) if task != "quadratics" else ""
        parts.append(f"{METHODS[name].label} on {TASKS[task]}" + f" ({shown})" * bool(shown))
    return lab.Section(
        title="Which method is the best on each task?",
        answer=(
            f"The smallest losses are those of {', '.join(parts[:-1])} and {parts[-1]}. "
            "Drift is in multiples of the best possible loss, the language model in nats a "
            "character."
        ),
        body=LOSSES.format(steps=config.quadratic_steps),
        figures={"losses": (figures.draw_losses(results), "Loss by method, task and case.")},
        tables=[
            *(_loss_table(results, task) for task in TASKS),
            *(_chosen_table(results, task) for task in TASKS),
        ],
    )


def _loss_table(results: dict[str, xr.Dataset], task: str) -> lab.Table:
    loss = shown_loss(results, task)
    rows = [
        [METHODS[name].label, *(_shown(runs) for runs in loss.sel(optimizer=name).values)]
        for name in compared(task)
    ]
    title = f"{figures.task_title(task)}: {figures.LOSSES[task]}"
    note = "± is half a 95 % interval over seeds."
    return lab.Table(title, ["", *map(str, loss.case.values)], rows, notes=[note])


def _shown(runs: object) -> str:
    text = number(runs)
    return lab.Diverged("diverged") if "nan" in text or "inf" in text else text


def _chosen_table(results: dict[str, xr.Dataset], task: str) -> lab.Table:
    rows = []
    for name, method in compared(task).items():
        at = results[task]["at"].sel(optimizer=name).transpose("case", "hyperparameter").values
        found = values(method, at[:, : len(method.tuned)])
        rows += [
            [f"{method.label}: {one.replace('_', ' ')}", *(f"{x:.3g}" for x in found[one])]
            for one in method.tuned
        ]
    title = f"Hyperparameters after tuning: {TASKS[task].removeprefix('the ')}"
    return lab.Table(title, ["", *map(str, results[task].case.values)], rows)


def _counts(results: dict[str, xr.Dataset], name: str, factor: float) -> Counts:
    runs = results["gauge"].sel(optimizer=name, factor=factor).transpose("seed", "step")
    return counted(runs.loss.values, runs.gauge.values)


def _total(results: dict[str, xr.Dataset]) -> Counts:
    """Return the sums over methods and rates; of the shares, their mean."""
    found = [_counts(results, name, factor) for name in GAUGED for factor in FACTORS]
    *sums, above = map(sum, zip(*found, strict=True))
    return Counts(*map(int, sums), above=float(above) / len(found))


def _foreseen(counts: Counts) -> str:
    if not counts.spikes:
        return "The loss of the language model never spiked."
    return (
        f"The gauge had passed 1 before {counts.foreseen} of the {counts.spikes} spikes of the "
        f"language model's loss. No spike followed {counts.alone} of the {counts.passed} times "
        "that it rose above 1."
    )


def _gauge(results: dict[str, xr.Dataset]) -> lab.Section:
    rows = []
    for name in GAUGED:
        for factor in FACTORS:
            one = _counts(results, name, factor)
            words = "tuned rate" if factor == 1 else f"{factor:g} × tuned rate"
            rows.append(
                [
                    f"{METHODS[name].label}, {words}",
                    f"{one.spikes}",
                    f"{one.foreseen}",
                    f"{one.passed}",
                    f"{one.alone}",
                    f"{100 * one.above:.0f} %",
                ]
            )
    header = ["", "spikes", "passed 1 before", "rose above 1", "without a spike", "above 1 anyway"]
    total = _total(results)
    words = {"stride": STRIDE, "factor": FACTORS[-1], "rise": 100 * (RISE - 1), "before": BEFORE}
    return lab.Section(
        title="Does the edge of stability foresee spikes?",
        answer=(
            f"{_foreseen(total)} Between spikes, {100 * total.above:.0f} % of its readings were "
            "above 1."
        ),
        body=GAUGE.format(**words),
        figures={"gauge": (figures.draw_gauge(results), "Loss and gauge of the first run.")},
        tables=[lab.Table("Spikes of the loss and the gauge", header, rows, screen=True)],
    )
