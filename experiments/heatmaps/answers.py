"""The answers of the report, in words."""

from collections.abc import Iterable, Mapping

import xarray as xr

from experiments.heatmaps import numbers
from experiments.heatmaps.best import best_cell
from experiments.heatmaps.config import VARIANTS
from experiments.heatmaps.numbers import Lengths, Trends
from experiments.heatmaps.slopes import Slope, farther_from_zero
from experiments.heatmaps.variants import SCHEDULES

ADAMW = tuple(f"adamw-{schedule}" for schedule in SCHEDULES)


def independence(found: Trends) -> Iterable[str]:
    """Say whether learning rate and weight decay can be tuned independently."""
    slopes = [slope for name in ADAMW if (slope := found[name]["best"].slope)]
    moving = [slope for slope in slopes if not slope.includes_zero]
    which = "all" if len(moving) == len(slopes) else f"{len(moving)} of the"
    schedules = f"{which} {len(slopes)} schedules with a clear best decay"
    if not slopes:
        yield "Too few learning rates have a clear best decay to fit a slope."
    elif not moving:
        yield (
            "Perhaps: these trainings do not show that AdamW's best weight decay depends on the "
            "learning rate, because every interval of the slope includes 0."
        )
    elif all(slope.low > 0 for slope in moving):
        yield f"No: AdamW's best weight decay grows with the learning rate under {schedules}."
    else:
        yield f"No: AdamW's best weight decay changes with the learning rate under {schedules}."
    yield f"The slope of log decay against log learning rate is {_ranges(found, ADAMW)}."


def decoupled(found: Trends) -> Iterable[str]:
    """Say whether L2 is less separable than the better units of AdamW's decay, and the slopes."""
    slopes, says = numbers.decoupling(found), {}
    for which in ("best", "tolerable"):
        paper, scaled, l2 = (slopes[x][which] for x in (numbers.PAPER, numbers.SCALED, numbers.L2))
        if paper is None or scaled is None or l2 is None:
            continue
        closest = min(paper, scaled, key=lambda slope: abs(slope.estimate))
        change = farther_from_zero(closest, l2)
        assert change is not None
        word = "less" if change.low > 0 else "more" if change.high < 0 else "not clearly less"
        says[which] = (word, _compared(which, word, paper, scaled, l2))
    words = {word for word, _ in says.values()}
    if not words:
        yield "Too few learning rates have a clear decay to compare the slopes."
        return
    yield "Yes." if words == {"less"} else "In part." if "less" in words else "No."
    yield from (sentence for _, sentence in says.values())
    yield "The parametrisation decides the slope: that of α·λ is 1 less, with the same trainings."


def _compared(which: str, word: str, paper: Slope, scaled: Slope, l2: Slope) -> str:
    return (
        f"By the {which} decay, L2 is {word} separable from the learning rate on these images: the "
        f"slope is {paper} for the paper's λ, {scaled} for α·λ, as in optax and torch, and {l2} "
        "for L2."
    )


def lengths(found: Mapping[str, Lengths]) -> Iterable[str]:
    """Say whether the best normalized decay is the same for all lengths."""
    normalized, plain = found["best"].normalized, found["best"].plain
    if normalized is None or plain is None:
        yield "Too few lengths have a clear best decay to fit a slope."
        return
    if normalized.includes_zero and not plain.includes_zero:
        yield "Yes: the best normalized decay stays, and the best plain decay moves with length."
    elif plain.includes_zero and not normalized.includes_zero:
        yield "No: the best plain decay stays, and the best normalized decay moves with length."
    elif normalized.includes_zero:
        yield "Perhaps: these trainings do not show that either best decay moves with length."
    elif abs(normalized.estimate) < abs(plain.estimate):
        yield "In part: the best normalized decay moves with length, but less than the plain one."
    else:
        yield "No: the best normalized decay moves with length, and more than the plain one."
    yield (
        "The slope of log best decay against log length, mean of the learning rates, is "
        f"{normalized} for the normalized and {plain} for the plain decay."
    )
    if found["tolerable"].normalized is not None:
        yield (
            f"That of the tolerable decay is {found['tolerable'].normalized} and "
            f"{found['tolerable'].plain}."
        )


def remedies(found: Trends) -> Iterable[str]:
    """Say what normalization changes, and compare Adafactor's second moment with AdamW's."""
    for which, change in numbers.normalization(found)["warm_restarts"].items():
        if change is None:
            yield f"Too few learning rates have a clear {which} decay to compare slopes."
        else:
            includes = "includes" if change.includes_zero else "excludes"
            yield (
                f"Under warm restarts, normalization changes the slope of the {which} decay by "
                f"{change}; the interval {includes} 0."
            )
    factored = [name for name in found if name.startswith("factored")]
    plain = [f"adamw-{schedule}-normalized" for schedule in ("cosine", "warm_restarts")]
    yield (
        f"Under cosine and warm restarts, the slope is {_ranges(found, factored)} with Adafactor's "
        f"second moment, and {_ranges(found, plain)} with AdamW's."
    )


def _ranges(found: Trends, names: Iterable[str]) -> str:
    """Return the smallest and largest slope of the best and of the tolerable decay."""
    words = []
    for which in ("best", "tolerable"):
        slopes = [slope.estimate for name in names if (slope := found[name][which].slope)]
        if slopes:
            low, high = (f"{end:.2f}".replace("-", "−") for end in (min(slopes), max(slopes)))
            ends = low if low == high else f"{low} to {high}"
            words.append(f"{ends} for the {which} decay")
    return " and ".join(words) or "unknown"


def best(results: Mapping[str, xr.Dataset]) -> str:
    """Say which optimizer is chosen by the validation loss, and its test loss."""
    losses = {name: float(best_cell(x).validation_loss.mean()) for name, x in results.items()}
    best = min(losses, key=losses.__getitem__)
    tests = [float(dataset.test_loss.mean()) for dataset in results.values()]
    return (
        f"{VARIANTS[best].title} has the smallest mean validation loss of all best cells, "
        f"{losses[best]:.3g}; its mean test loss is {float(results[best].test_loss.mean()):.3g}. "
        f"The test losses of all best cells lie between {min(tests):.3g} and {max(tests):.3g}."
    )
