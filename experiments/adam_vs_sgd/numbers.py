"""Numbers from the results: the settings that are chosen, and running losses."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

import nested_jax as nj
from experiments.adam_vs_sgd.config import FAILED, SPAN, UNTUNED, WINDOW
from experiments.lab.figures import interval

if TYPE_CHECKING:
    import xarray as xr

STAGES = ("learning rate", "+ momentum", "+ initialisation", "+ batch size")
"""What is tuned, one after the other, in the order of `UNTUNED`."""
ACTIVATED = ("momentum", "adam")
"""Methods under which activations are compared."""


SCHEDULED: dict[str, Any] = {"schedule": 0, "warmup": 0.0, "initialisation": 0}
"""What is tuned after the learning rate in `schedules`, and its untuned values."""


def spread(errors: Any, unit: str = "") -> str:
    """Return the median of errors in percent, their range, and how many runs failed.

    A mean with an interval would say little of runs of which some learn and some do not.
    """
    errors = np.ravel(np.asarray(errors, float))
    median, failed = np.median(errors), int((~(errors <= 100 * FAILED)).sum())
    text = f"{median:.3g}{unit} [{errors.min():.3g}, {errors.max():.3g}]"
    return text + (f", {failed} of {len(errors)} failed" if failed else "")


def percent(errors: Any) -> str:
    """Return `spread` for a sentence, with its unit."""
    return spread(errors, " %")


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


def scheduled_stages(schedules: "xr.Dataset", method: str) -> dict[str, dict[str, Any]]:
    """Return a method's settings in `schedules` as more and more of them are tuned."""
    part, found = schedules.sel(optimizer=method), {}
    for free in range(1 + len(SCHEDULED)):
        fixed = {name: [value] for name, value in [*SCHEDULED.items()][free:]}
        stage = f"+ {[*SCHEDULED][free - 1]}" if free else "learning rate"
        found[stage] = _chosen(part.sel(fixed), ("learning_rate", *SCHEDULED))
    return found


def _chosen(results: "xr.Dataset", names: Iterable[str] = UNTUNED) -> dict[str, Any]:
    best = nj.best_point(results, by="loss", over="fold")
    return {name: best[name].item() for name in names}


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


def chosen_by_seed(results: "xr.Dataset", *axes: str) -> "xr.Dataset":
    """Return the results at the axes' point of smallest validation loss, for each seed alone."""
    flat = results.stack(point=axes).reset_index("point")
    loss = flat.loss.where(~flat.diverged).fillna(np.inf)
    return flat.isel(point=loss.argmin("point"))


def by_image(wrong: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the mean of `wrong` of every image that was tested at least once.

    Args:
        wrong: What is averaged, of shape (seeds, tested).
        image: Which image each entry is of, likewise.
    """
    tested = np.bincount(image.ravel())
    total = np.bincount(image.ravel(), np.asarray(wrong, float).ravel())
    return total[tested > 0] / tested[tested > 0]


class Paired(NamedTuple):
    """A paired comparison; differences are SGD's errors minus Adam's, in percentage points.

    Attributes:
        mean: The mean difference over seeds.
        by_seed: Two-sided p of Wilcoxon's signed-rank test over seeds; 1 if all are equal.
        worse: Images that SGD misclassifies more often.
        better: Images that Adam misclassifies more often.
        by_image: Two-sided p of the sign test over these images; 1 if there are none.
        low: End of the 95 % interval of the mean difference over images.
        high: Its other end.
    """

    mean: float
    by_seed: float
    worse: int
    better: int
    by_image: float
    low: float
    high: float


def paired(wrong: Mapping[str, np.ndarray], image: np.ndarray) -> Paired:
    """Compare SGD with Adam on the same test images, over seeds and over images.

    Args:
        wrong: Method -> whether an image is misclassified, of shape (seeds, tested).
        image: Which image each entry is of, likewise.
    """
    difference = 100 * (np.asarray(wrong["sgd"], float) - np.asarray(wrong["adam"], float))
    seeds, images = difference.mean(1), by_image(difference, image)
    worse, better = int((images > 0).sum()), int((images < 0).sum())
    sign = stats.binomtest(worse, worse + better).pvalue if worse + better else 1.0
    rank = np.asarray(stats.wilcoxon(seeds))[1] if np.any(seeds) else 1.0
    mean, half = (float(x) for x in interval(images))
    return Paired(
        float(seeds.mean()), float(rank), worse, better, float(sign), mean - half, mean + half
    )


def rank_correlation(results: "xr.Dataset", fitted: float = 0.01) -> np.ndarray:
    """Return Spearman's correlation of the final distance with the test error, for each seed.

    Args:
        results: Those of `generalization`.
        fitted: Only runs with a smaller training error count; NaN where fewer than three are left.
    """
    found = []
    for _, part in results.groupby("seed"):
        at = ~part.diverged & (part.train_error < fitted)
        pair = [x.values[at.values] for x in (part.distance.isel(fifth=-1), part.test_error)]
        ranks = [stats.rankdata(x) for x in pair]
        spreads = [len(x) > 2 and np.ptp(x) > 0 for x in ranks]
        found.append(np.corrcoef(ranks)[0, 1] if all(spreads) else np.nan)
    return np.array(found)


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
