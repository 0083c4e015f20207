"""Numbers from the results: the settings that are chosen, and running losses."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import nested_jax as nj
from experiments.adam_vs_sgd.config import SPAN, UNTUNED, WINDOW

if TYPE_CHECKING:
    import xarray as xr

STAGES = ("learning rate", "+ momentum", "+ initialisation", "+ batch size")
"""What is tuned, one after the other, in the order of `UNTUNED`."""
ACTIVATED = ("momentum", "adam")
"""Methods under which activations are compared."""


def tuned(tuning: "xr.Dataset") -> dict[str, dict[str, Any]]:
    """Return each method's settings with the smallest mean validation loss."""
    return {str(name): _chosen(tuning.sel(optimizer=name)) for name in tuning.optimizer.values}


def stages(tuning: "xr.Dataset", method: str) -> dict[str, dict[str, Any]]:
    """Return a method's settings as more and more of them are tuned."""
    part, found = tuning.sel(optimizer=method), {"untuned": UNTUNED}
    for tuned, stage in enumerate(STAGES, start=1):
        fixed = {name: [value] for name, value in [*UNTUNED.items()][tuned:]}
        found[stage] = _chosen(part.sel(fixed))
    return found


def _chosen(results: "xr.Dataset") -> dict[str, Any]:
    best = nj.best_point(results, by="loss", over="fold")
    return {name: best[name].item() for name in UNTUNED}


def mean_loss(results: "xr.Dataset", over: str) -> "xr.DataArray":
    """Return the mean loss, infinite where a run diverged."""
    loss = results.loss.where(~results.diverged)
    return loss.mean(over, skipna=False).fillna(np.inf)


def best_of(results: "xr.Dataset", *axes: str) -> "xr.Dataset":
    """Return the results at the best of some axes, for every optimizer and rate."""
    flat = results.stack(tried=axes)
    best = mean_loss(flat, "fold").argmin("tried")
    return flat.isel(tried=best).drop_vars(["tried", *axes])


def best_rates(results: "xr.Dataset", over: str) -> dict[str, float]:
    """Return every method's learning rate with the smallest mean loss."""
    loss = mean_loss(results, over)
    best = loss.learning_rate.values[loss.argmin("learning_rate").values]
    return dict(zip(loss.optimizer.values.tolist(), best.tolist(), strict=True))


def online_rates(online: "xr.Dataset", penalised: int = 1) -> dict[str, float]:
    """Return every method's best rate one example at a time, on the seeds kept for tuning."""
    seeds = slice(online.attrs["tuning_seeds"])
    return best_rates(online.sel(penalised=penalised).isel(seed=seeds), "seed")


def activated(tuning: "xr.Dataset", others: "xr.Dataset") -> dict[str, "xr.Dataset"]:
    """Return the results of each activation at its best initialisation; `tuning` has relu's."""
    fixed = {"batch": UNTUNED["batch"], "momentum": UNTUNED["momentum"]}
    found = {"relu": tuning.sel(optimizer=[*ACTIVATED], **fixed, drop=True)}
    for word in others.activation.values.tolist():
        found[word] = others.sel(activation=word, drop=True)
    return {word: best_of(part, "initialisation") for word, part in found.items()}


def running_mean(curve: "xr.DataArray | np.ndarray") -> tuple[np.ndarray, np.ndarray]:
    """Return examples seen and the mean loss of the last 1,000, along the last axis."""
    points = WINDOW // SPAN
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(curve, float), points, axis=-1)
    means = windows.mean(-1)
    return SPAN * np.arange(points, points + means.shape[-1]), means


def ahead_from(curves: "Mapping[str, xr.DataArray]") -> int | None:
    """Return the examples from which on Adam's mean running loss stays below SGD's."""
    examples, adam = running_mean(curves["adam"].mean("seed"))
    _, sgd = running_mean(curves["sgd"].mean("seed"))
    behind = np.flatnonzero(~(adam < sgd))
    first = behind[-1] + 1 if behind.size else 0
    return int(examples[first]) if first < len(examples) else None
