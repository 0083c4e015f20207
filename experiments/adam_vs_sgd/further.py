"""Sections on the further questions: one example at a time, activations, wall time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments import lab
from experiments.adam_vs_sgd import figures
from experiments.adam_vs_sgd.config import UNTUNED
from experiments.adam_vs_sgd.figures import title
from experiments.adam_vs_sgd.numbers import (
    ACTIVATED,
    activated,
    ahead_from,
    best_rates,
    online_rates,
    running_mean,
)
from experiments.lab.figures import number

NOTES, BEST = "at 0.001", "at best rate"
EDGE = "* marks the smallest or the largest learning rate of the grid."


def rate_cell(results: xr.Dataset, rate: float) -> str:
    """Return a learning rate, marked if it is an end of the range that was tried."""
    return f"{rate:.2g}" + (" *" if rate in results.learning_rate.values[[0, -1]] else "")


def online(results: xr.Dataset) -> lab.Section:
    """Return the section on training one example at a time, the setting of the notes."""
    methods, best = results.optimizer.values.tolist(), online_rates(results)
    reported = results.isel(seed=slice(results.attrs["tuning_seeds"], None))

    def picked(rates: Mapping[str, Any], penalised: int = 1) -> dict[str, xr.DataArray]:
        curve = reported.curve.sel(penalised=penalised).transpose(..., "seed", "span")
        return {m: curve.sel(optimizer=m, learning_rate=rates[m]) for m in methods}

    notes = dict.fromkeys(methods, UNTUNED["learning_rate"])
    runs = {NOTES: picked(notes), f"{NOTES}, no penalty": picked(notes, 0), BEST: picked(best)}
    end = {
        name: {m: running_mean(curve)[1][..., -1] for m, curve in found.items()}
        for name, found in runs.items()
    }
    rows = [
        [title(m), *(number(losses[m]) for losses in end.values()), rate_cell(results, best[m])]
        for m in methods
    ]
    chosen = {
        m: reported.sel(penalised=1, optimizer=m).assign_attrs(chosen=best[m]) for m in methods
    }
    curves = figures.by_family({name: runs[name] for name in (NOTES, BEST)})
    rates = figures.by_family({"all examples": chosen})
    return lab.Section(
        title="Is Adam ahead when it learns one example at a time?",
        answer=_online_answer(ahead_from(runs[NOTES]), end[NOTES], end[BEST], best),
        body=f"""
This is the setting of the notes: one example a step, momentum of 0.9, He initialisation and an L2
penalty of {results.attrs["penalty"]:g}, in place of which AdamW decays its weights by
{results.attrs["weight_decay"]:g} times the learning rate. The running loss is the mean over the
last 1,000 examples, each before it is learned; the table has its last value.
The best rates have the smallest mean loss on separate seeds
({results.attrs["tuning_seeds"]}), not on the reported ones ({reported.sizes["seed"]}).
""",
        figures={
            "online": (
                figures.curves(curves),
                "Running loss: geometric mean over seeds, with 95 % bands.",
            ),
            "online_rates": (
                figures.rates(rates, "mean loss"),
                "Mean loss of all examples against the learning rate: geometric mean over seeds, "
                "with 95 % bands. Crosses above a panel: a run of that method ended above its "
                "initial loss. Stars: the chosen rates.",
            ),
        },
        tables=[
            lab.Table(
                "Running loss at the end [nats]",
                ["method", *end, "best rate"],
                rows,
                [EDGE],
                screen=True,
            )
        ],
    )


def _online_answer(
    since: int | None,
    notes: Mapping[str, np.ndarray],
    tuned: Mapping[str, np.ndarray],
    rates: Mapping[str, float],
) -> str:
    """Return the answer from the final losses at the notes' learning rate and at the best ones."""
    when = "never for good" if since is None else f"from example {since:,} on"
    return (
        f"At a learning rate of 0.001, Adam's running loss is below SGD's {when} and ends at "
        f"{number(notes['adam'])} against {number(notes['sgd'])} nats. With each at its best rate "
        f"({rates['adam']:.2g} for Adam, {rates['sgd']:.2g} for SGD), it ends at "
        f"{number(tuned['adam'])} against {number(tuned['sgd'])}; SGD's loss minus Adam's is "
        f"{number(tuned['sgd'] - tuned['adam'])}."
    )


def activations(tuning: xr.Dataset, others: xr.Dataset) -> lab.Section:
    """Return the section on activations."""
    found = activated(tuning, others)
    rates = {word: best_rates(part, "fold") for word, part in found.items()}
    errors = {
        m: {
            word: 100 * part.error.sel(optimizer=m, learning_rate=rates[word][m]).values
            for word, part in found.items()
        }
        for m in ACTIVATED
    }
    answers, header, rows = [], ["activation"], {word: [word] for word in found}
    for m in ACTIVATED:
        best, *_, worst = sorted(found, key=lambda word, m=m: errors[m][word].mean())
        answers.append(
            f"With {title(m)}, {best} has the smallest error ({number(errors[m][best])} %) and "
            f"{worst} the largest ({number(errors[m][worst])} %)."
        )
        header += [f"{title(m)}: rate", "error"]
        for word, row in rows.items():
            row += [rate_cell(found[word], rates[word][m]), number(errors[m][word])]
    panels = {title(m): {word: x.sel(optimizer=m) for word, x in found.items()} for m in ACTIVATED}
    caption = (
        "Cross-validated loss against the learning rate, each at the best initialisation for it: "
        "geometric mean with 95 % bands over folds. Crosses above a panel: a run diverged."
    )
    return lab.Section(
        title="Which activation is best?",
        answer=" ".join(answers),
        body=f"Batches of {UNTUNED['batch']} and momentum of 0.9, each activation at its own best "
        "learning rate and initialisation.",
        figures={"activations": (figures.rates(panels, "validation loss"), caption)},
        tables=[lab.Table("Cross-validated error [% of images]", header, [*rows.values()], [EDGE])],
    )


def timing(results: xr.Dataset) -> lab.Section:
    """Return the section on wall time."""
    rows, times = [], 1e6 * results.seconds.transpose("optimizer", "round")
    least = dict(zip(times.optimizer.values.tolist(), times.min("round").values, strict=True))
    for m in least:
        each = times.sel(optimizer=m).values
        shown = [f"{x:.3g}" for x in (each.min(), np.median(each), each.max())]
        state = f"{float(results.state.sel(optimizer=m)):.2f}"
        rows.append([title(m), *shown, f"{each.min() / least['sgd']:.2f}", state])
    slowest = max(least, key=least.__getitem__)
    header = ["method", "shortest [µs]", "median [µs]", "longest [µs]", "shortest / SGD's",
              "state [numbers per weight]"]  # fmt: skip
    return lab.Section(
        title="How long does a step take?",
        answer=f"A step of SGD takes {least['sgd']:.3g} µs and one of Adam {least['adam']:.3g} µs; "
        f"{title(slowest)} takes longest, {least[slowest]:.3g} µs.",
        body=f"""
One training run of {results.attrs["steps"]:,} steps in batches of {results.attrs["batch"]}, alone
on the first device, gradients included; the compiled program has run once before. Methods take
turns for {times.sizes["round"]} rounds. The shortest time counts, because other work of the machine
only adds to it.
""",
        tables=[lab.Table("Time of a step, and size of the optimizer's state", header, rows)],
    )
