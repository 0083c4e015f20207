"""One example at a time: the part of the report on Adam against SGD that is the notes' own."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from experiments import _adam_vs_sgd_figures as figures
from experiments import _lines
from experiments._adam_vs_sgd_figures import title
from experiments._adam_vs_sgd_runs import UNTUNED
from experiments._sections import Section


def online_rates(online: xr.Dataset, penalised: int = 1) -> dict[str, float]:
    """Return every method's best rate one example at a time, on the seeds kept for tuning."""
    some = online.sel(penalised=penalised).isel(seed=slice(online.attrs["tuning_seeds"]))
    loss = some.loss.where(~some.diverged).mean("seed", skipna=False).fillna(np.inf)
    best = loss.learning_rate.values[loss.argmin("learning_rate").values]
    return dict(zip(loss.optimizer.values.tolist(), best.tolist(), strict=True))


def ahead_from(curves: Mapping[str, xr.DataArray]) -> int | None:
    """Return the examples from which on Adam's mean running loss stays below SGD's."""
    examples, adam = figures.running_mean(curves["adam"].mean("seed"))
    _, sgd = figures.running_mean(curves["sgd"].mean("seed"))
    behind = np.flatnonzero(~(adam < sgd))
    first = behind[-1] + 1 if behind.size else 0
    return int(examples[first]) if first < len(examples) else None


def _last(curve: xr.DataArray) -> np.ndarray:
    return figures.running_mean(curve)[1][..., -1]


def online_section(online: xr.Dataset) -> Section:
    """Return the section on training one example at a time."""
    reported = online.isel(seed=slice(online.attrs["tuning_seeds"], None))
    methods = online.optimizer.values.tolist()
    best = online_rates(online)

    def picked(rates, penalised=1):
        part = reported.curve.sel(penalised=penalised).transpose(
            "optimizer", "learning_rate", "seed", "span"
        )
        return {
            m: part.sel(optimizer=m).sel(learning_rate=rates[m], method="nearest") for m in methods
        }

    customary = dict.fromkeys(methods, UNTUNED["learning_rate"])
    untuned, free, at_best = picked(customary), picked(customary, 0), picked(best)
    last = {
        m: (_lines.number(_last(untuned[m])), _lines.number(_last(at_best[m]))) for m in methods
    }
    since = ahead_from(untuned)
    when = "never for good" if since is None else f"from example {since:,} on"
    examples = figures.running_mean(online.curve)[0][-1]
    gap = _lines.number(_last(at_best["sgd"]) - _last(at_best["adam"]))
    finding = (
        f"At the rate .001 Adam's running loss stays below SGD's {when}; after {examples:,} "
        f"examples it is {last['adam'][0]} against {last['sgd'][0]} nats. With each at its own "
        f"rate ({best['adam']:.2g} and {best['sgd']:.2g}) it is {last['adam'][1]} against "
        f"{last['sgd'][1]}: SGD's less Adam's is {gap}."
    )
    penalty, decay = online.attrs["penalty"], online.attrs["weight_decay"]
    text = (
        "The setting of the notes: one example a step, each example's loss taken before it is "
        f"learned, mean of the last 1,000; L2 penalty of {penalty:g} (AdamW: "
        f"decay of {decay:g} times the rate), which losses shown leave out. "
        "Momentum is .9, initialisation He's. Rates are chosen by the mean loss on "
        f"{online.attrs['tuning_seeds']} seeds and reported on {reported.sizes['seed']} others."
    )
    header = ["method", "loss at .001", "the same without penalty", "own rate", "loss at own rate"]
    rows = [
        [
            title(m),
            last[m][0],
            _lines.number(_last(free[m])),
            f"{best[m]:.2g}{edge(online, best[m])}",
            last[m][1],
        ]
        for m in methods
    ]
    caption = "Running loss at the end [nats]; * at the end of the range"
    panel = {"mean loss": reported.sel(penalised=1)}
    return Section(
        "One example at a time",
        text,
        finding,
        {
            "online": (
                figures.curves({"rate .001": untuned, "own rate": at_best}, "nats"),
                "Mean loss of the last 1,000 examples: geometric mean over seeds, with 95 % bands.",
            ),
            "online_rates": (
                figures.rates(panel, {"mean loss": best}, "mean loss"),
                "Mean loss of all examples against the rate, likewise; crosses above: rates at "
                "which a run of that method ended above the loss it began with; stars: the rates "
                "chosen.",
            ),
        },
        [(header, rows, caption)],
    )


def edge(results: xr.Dataset, rate: float) -> str:
    """Return a mark if a rate is an end of the range that was tried."""
    return " *" if rate in (results.learning_rate.values[[0, -1]]) else ""
