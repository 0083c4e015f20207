"""The section on generalization: paired tests, and a measurement for each of three reasons."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments import lab
from experiments.adam_vs_sgd import figures
from experiments.adam_vs_sgd.config import FIFTHS
from experiments.adam_vs_sgd.figures import title
from experiments.adam_vs_sgd.methods import PAIR
from experiments.adam_vs_sgd.numbers import (
    Paired,
    chosen_by_seed,
    paired,
    percent,
    rank_correlation,
    spread,
)
from experiments.lab import figures as lines

LEVEL = 0.05
"""Both paired tests must have a p below this, for a verdict."""
BODY = """
In each of {splits} random splits of all {images:,} images, half are for training, a quarter for
validation and a quarter for testing. Each method is trained at every learning rate{batches}, and
the setting with the smallest validation loss in that split is tested. That gives {tested:,} test
predictions of a method. SGD and Adam start from the same weights and learn the same examples, so
their errors are compared in pairs: over splits, by Wilcoxon's signed-rank test, which asks whether
other training runs would agree, and over images, by a sign test on which method misclassifies an
image more often, which asks whether other images would. Both must agree for a verdict, as splits
share images and images share runs. The 95 % interval over images is ± {half:.2f} percentage points:
a smaller difference cannot be seen.

The notes give three reasons why SGD may generalize better. Each has a measurement here.

1. *SGD stays near its initial weights, which regularizes.* The distance to them, relative to their
   norm. Among the runs that misclassify less than 1 % of the training images, its rank correlation
   with the test error within a split is {correlation} (1 if the nearer runs always generalize
   better).
2. *Gradient noise finds flatter minima.* The test error by batch size, each at its best rate. Small
   batches have noisier gradients, and take more steps as all learn the same number of examples.
3. *Rates of adaptive methods collapse.* What multiplies the gradient of the median weight, at the
   end of the run divided by what did after its first fifth. It is 1 for SGD.
"""


def generalization(results: xr.Dataset) -> lab.Section:
    """Return the section."""
    best = chosen_by_seed(results, "batch", "learning_rate").transpose(..., "seed", "tested")
    methods = results.optimizer.values.tolist()
    wrong = {m: best.wrong.sel(optimizer=m).values for m in PAIR}
    found = paired(wrong, results.image.transpose("seed", "tested").values)
    batches = sorted(results.batch.values.tolist(), key=int)
    rows = {m: [title(m), *_reasons(results, best.sel(optimizer=m), m, batches)] for m in methods}
    errors = {m: 100 * best.test_error.sel(optimizer=m).values for m in PAIR}
    header = ["method", "test error [%]", "test − training loss [nats]", "distance"]
    header += [f"error, batches of {size} [%]" for size in batches] + ["rate, end / first fifth"]
    body = BODY.format(
        splits=results.sizes["seed"],
        images=results.attrs["images"],
        tested=wrong["sgd"].size,
        batches=" and batch size" if len(batches) > 1 else "",
        half=(found.high - found.low) / 2,
        correlation=_median(rank_correlation(results)),
    )
    caption = (
        "Median over splits at the chosen settings: distance to the initial weights, effective "
        "rate of the median weight, and test error by batch size, each at its best rate."
    )
    return lab.Section(
        title="Does SGD generalize better?",
        answer=f"{verdict(found, errors)} {_summary(results, best, batches)}",
        body=body,
        figures={"generalization": (_figure(results, best, batches), caption)},
        tables=[
            lab.Table(
                "Generalization: medians over splits, errors with their range",
                header,
                [*rows.values()],
                screen=True,
            )
        ],
    )


def verdict(found: Paired, errors: dict[str, np.ndarray]) -> str:
    """Return the answer: a difference counts only if both paired tests show it."""
    told = max(found.by_seed, found.by_image) < LEVEL
    alike = (found.mean > 0) == (found.worse > found.better)
    which = "No, Adam does" if found.mean > 0 else "Yes"
    mean, low, high = (f"{x:.2f}".replace("-", "−") for x in (found.mean, found.low, found.high))
    return (
        f"{which if told and alike else 'Not measurably'}: SGD misclassifies "
        f"{percent(errors['sgd'])} of the test images and Adam {percent(errors['adam'])} (median "
        f"and range of the splits). SGD's error minus Adam's is {mean} percentage points "
        f"(p = {found.by_seed:.2g} over splits; 95 % interval over images {low} to {high}). SGD is "
        f"wrong more often on {found.worse} images and Adam on {found.better} "
        f"(p = {found.by_image:.2g})."
    )


def _summary(results: xr.Dataset, best: xr.Dataset, batches: list[str]) -> str:
    """Return the measurements of the notes' three reasons, for SGD and Adam."""
    found = {m: _reasons(results, best.sel(optimizer=m), m, batches) for m in PAIR}
    distance, change = ({m: found[m][i] for m in PAIR} for i in (2, -1))
    error = {m: [_median(x) for x in _by_batch(results, m, batches)] for m in PAIR}
    noise = (
        f"from batches of {batches[0]} to {batches[-1]}, the median error goes from "
        f"{error['sgd'][0]} to {error['sgd'][-1]} % for SGD and from {error['adam'][0]} to "
        f"{error['adam'][-1]} % for Adam; "
        if len(batches) > 1
        else ""
    )
    return (
        f"The notes' three reasons: SGD ends {distance['sgd']} of the initial norm from its "
        f"initial weights and Adam {distance['adam']}; {noise}the effective rate of Adam's median "
        f"weight changes by a factor of {change['adam']} after the first fifth of the run."
    )


def _reasons(results: xr.Dataset, best: xr.Dataset, method: str, batches: list[str]) -> list[str]:
    """Return the cells of a method: errors, gap, distance, errors by batch size, rates."""
    rate = best.rate.transpose("seed", "fifth").values
    by_batch = _by_batch(results, method, batches)
    return [
        spread(100 * best.test_error.values),
        _median(best.test_loss - best.train_loss),
        _median(best.distance.isel(fifth=-1)),
        *(spread(found) for found in by_batch),
        _median(rate[:, -1] / rate[:, 0]),
    ]


def _by_batch(results: xr.Dataset, method: str, batches: list[str]) -> list[np.ndarray]:
    """Return test errors in percent at each batch size, at the best rate for it in each split."""
    part = results.sel(optimizer=method)
    return [
        100 * chosen_by_seed(part.sel(batch=size), "learning_rate").test_error.values
        for size in batches
    ]


def _median(values: xr.DataArray | np.ndarray) -> str:
    values = np.ravel(np.asarray(values, float))
    values = values[np.isfinite(values)]
    return f"{np.median(values):.3g}".replace("-", "−") if values.size else "–"


def _figure(results: xr.Dataset, best: xr.Dataset, batches: list[str]) -> Figure:
    figure, axes = lines.panels(3)
    share, sizes = np.arange(1, FIFTHS + 1) / FIFTHS, [int(size) for size in batches]
    for i, method in enumerate(best.optimizer.values.tolist()):
        found, style = best.sel(optimizer=method), {"marker": ".", "color": lines.COLOURS[i]}
        for ax, name in zip(axes[0], ("distance", "rate"), strict=False):
            ax.plot(
                share, found[name].median("seed"), label=title(method), ls=lines.DASHES[i], **style
            )
        error = [np.median(x) for x in _by_batch(results, method, batches)]
        axes[0, 2].plot(sizes, error, ls=lines.DASHES[i], **style)
    lines.label(axes[0, 0], "share of the run", "distance / initial norm", xlog=False, ylog=False)
    lines.label(axes[0, 1], "share of the run", "effective rate", xlog=False)
    figures.ticks(axes[0, 1].yaxis)
    lines.label(axes[0, 2], "batch size", "test error [% of images]", ylog=False)
    axes[0, 2].set_xticks(sizes, batches)
    axes[0, 2].minorticks_off()
    lines.legend(figure, axes[0, 0], len(best.optimizer))
    return figure
