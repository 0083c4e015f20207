"""Sections on one pass over the images, on schedules, and on other models."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.adam_vs_sgd.config import INITIALISATIONS, SCHEDULES, UNTUNED
from experiments.adam_vs_sgd.figures import title
from experiments.adam_vs_sgd.further import EDGE, rate_cell
from experiments.adam_vs_sgd.methods import METHODS, PAIR
from experiments.adam_vs_sgd.numbers import best_rates, percent, scheduled_stages, spread
from experiments.lab.figures import number

LOSSES = {
    "logistic": "logistic regression [nats]",
    "linear": "linear network [nats]",
    "autoencoder": "autoencoder [10⁻³, squared error a pixel]",
}
SHORT = 10_000
"""A pass over fewer images is called short: half as many as the notes' examples."""
SCALES = {"logistic": 1.0, "linear": 1.0, "autoencoder": 1e3}


def one_pass(results: xr.Dataset) -> lab.Section:
    """Return the section on one pass over the images without replacement."""
    about, tuning = results.attrs, slice(results.attrs["tuning_seeds"])
    reported = results.isel(seed=slice(tuning.stop, None))
    short = ", so one pass is short" if about["training"] < SHORT else ""
    loss, rows = {}, []
    for method in results.optimizer.values.tolist():
        row = [title(method)]
        for replaced in (0, 1):
            tried = results.sel(replaced=replaced, optimizer=[method]).isel(seed=tuning)
            rate = best_rates(tried, "seed")[method]
            at = {"optimizer": method, "learning_rate": rate, "replaced": replaced}
            loss[method, replaced] = reported.loss.sel(at).values
            row += [rate_cell(results, rate), number(loss[method, replaced])]
        row.append(number(loss[method, 1] - loss[method, 0]))
        rows.append(row)
    return lab.Section(
        title="Who is ahead in one pass over the images?",
        answer=f"In one pass, each at its best rate, Adam's mean loss is {number(loss['adam', 0])} "
        f"nats and SGD's {number(loss['sgd', 0])}; SGD's minus Adam's is "
        f"{number(loss['sgd', 0] - loss['adam', 0])}.",
        body=f"""
Every training image comes once, one a step in random order, and its loss is taken before it is
learned, so it is the loss of an image never seen before. The data is *{about["name"]}*:
{about["images"]:,} images of {about["shape"]} pixels, {about["training"]:,} of them for
training{short}. For comparison, as many images are drawn with replacement, from the same initial
weights. Rates are chosen on separate seeds ({about["tuning_seeds"]}).
""",
        tables=[
            lab.Table(
                "Mean loss of one pass [nats]",
                ["method", "rate", "each image once", "rate", "with replacement", "difference"],
                rows,
                [EDGE],
            )
        ],
    )


def schedules(results: xr.Dataset) -> lab.Section:
    """Return the section on schedule, warm-up and initialisation."""
    rows, best = [], {}
    for method in PAIR:
        for stage, setting in scheduled_stages(results, method).items():
            best[method] = 100 * results.error.sel(optimizer=method, **setting).values
            rows.append(
                [
                    f"{title(method)}: {stage}",
                    rate_cell(results, setting["learning_rate"]),
                    SCHEDULES[setting["schedule"]],
                    f"{setting['warmup']:.0%}",
                    INITIALISATIONS[setting["initialisation"]],
                    spread(best[method]),
                ]
            )
    return lab.Section(
        title="Do a schedule, a warm-up and an initialisation close the gap?",
        answer=f"With all of them tuned alike, the cross-validated error is {percent(best['sgd'])} "
        f"for SGD and {percent(best['adam'])} for Adam (median and range of the folds); SGD's "
        f"minus Adam's is {number(best['sgd'] - best['adam'])} percentage points.",
        body=f"Batches of {UNTUNED['batch']} and momentum of {UNTUNED['momentum']}. A warm-up of "
        "10 % raises the learning rate linearly over the first tenth of the steps; cosine ends at "
        "0, and step drop divides the rate by 10 after 30, 60 and 80 % of them. Every combination "
        "is tried at every learning rate, for both methods, and the one of smallest mean loss is "
        "taken. Each row tunes one setting more than the row above.",
        tables=[
            lab.Table(
                "Cross-validated error [% of images]: median and range of the folds",
                ["tuned", "learning rate", "schedule", "warm-up", "initialisation", "error"],
                rows,
                [EDGE],
            )
        ],
    )


def races(results: xr.Dataset) -> lab.Section:
    """Return the section on logistic regression, the linear network and the autoencoder."""
    tried = results.stack(tried=("learning_rate", "momentum")).reset_index("tried")
    mean = tried.loss.where(~tried.diverged).mean("fold", skipna=False).fillna(np.inf)
    best, rows, answers = tried.isel(tried=mean.argmin("tried")), [], []
    methods = results.optimizer.values.tolist()
    for method in methods:
        row, momentum = [title(method)], METHODS[method].momentum
        for name in LOSSES:
            at = best.sel(model=name, optimizer=method)
            setting = rate_cell(results, float(at.learning_rate))
            setting += "" if momentum is None else f", {momentum(float(at.momentum))}"
            row += [setting, number(SCALES[name] * at.loss.values)]
        rows.append(row)
    for name, what in LOSSES.items():
        loss = {m: SCALES[name] * best.loss.sel(model=name, optimizer=m).values for m in PAIR}
        answers.append(
            f"{what.partition(' [')[0]}: {number(loss['sgd'])} for SGD, {number(loss['adam'])} "
            f"for Adam, difference {number(loss['sgd'] - loss['adam'])}"
        )
    settled = best.sel(model="linear")
    apart = float(settled.collapse.where(~settled.diverged).max())
    header = ["method", *(x for what in LOSSES.values() for x in ("rate, momentum", what))]
    return lab.Section(
        title="Is Adam ahead on other models?",
        answer=f"Cross-validated loss of the tuned methods — {'; '.join(answers)}.",
        body=f"""
Three further models, in batches of {UNTUNED["batch"]}, each method at its best learning rate and
momentum for each model. Logistic regression has one layer and a convex loss. The linear network has
the layers of the network above without their activations. The autoencoder reproduces the images
from a few numbers.

Without a non-linearity, a network equals one matrix, the product of its layers' (and one bias), so
more layers represent nothing more: after training, at the settings of the table, the linear
network's outputs differ from those of its one layer by at most {apart:.1e} of the largest output,
which is rounding. The product is not convex in its factors, so it is still learned in another way.
""",
        tables=[
            lab.Table(
                "Cross-validated loss: mean and 95 % interval over folds", header, rows, [EDGE]
            )
        ],
    )
