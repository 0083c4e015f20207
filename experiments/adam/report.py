"""The report of the Adam experiment."""

import itertools

import numpy as np
import xarray as xr

from experiments import lab
from experiments.adam import figures, further, numbers
from experiments.adam.config import Config
from experiments.adam.games import METHODS, RARE
from experiments.adam.runs import B1, B2, CURVATURES, GAME_RATE
from experiments.lab.figures import number

SHOWN_RATE = 1.0  # The losses at the learning rate nearest to it are drawn over time.
GAMES = f"""
All games are played in [−1, 1] with a learning rate of {GAME_RATE:g}/√t and without bias
correction. A few large gradients favour −1, many small ones favour 1, and −1 is best in total.
Adam divides a large gradient by its own size and has forgotten that size when the small ones come.
Its decays are (0.9, 0.99), and (0, 1/17) in the game of period 3. The third game draws the large
loss with probability {RARE:g}: with the paper's 0.01, chance decides for a million steps which side
is best. The learning rates of SGD and Nesterov are divided by the largest gradient.

A method that stays at 1 loses twice the mean slope at every step: 0.198, 1.333 and 4.48.
"""
BOUNDS = """
The paper's bound on the step / learning rate is (1 − β₁) / √(1 − β₂), the step of a lone gradient
after zeros. Gradients that grow as (β₂ / β₁)ᵗ make the larger step
(1 − β₁) / √((1 − β₂)(1 − β₁² / β₂)), and no gradients make a larger one. Bias correction shortens
both while the run is young.
"""
SIGNAL = """
The paper calls m̂ / √v̂ a signal-to-noise ratio: the step should shrink where gradients disagree.
A constant gradient gives 1, whatever its size. Gradients that alternate give (1 − β₁) / (1 + β₁),
which is near 0 only if β₁ is near 1. Independent gradients of mean μ and standard deviation 1 give
the mean absolute value of a normal variable of mean μ and variance (1 − β₁) / (1 + β₁), divided by
√(μ² + 1).
"""
EARLY = f"""
Without bias correction, the first step is (1 − β₁) / √(1 − β₂) times the learning rate. Steps grow
while m approaches the gradient, and shrink only as v follows, within 1 / (1 − β₂) steps. The
quadratic has curvatures from {CURVATURES[0]:g} to {CURVATURES[-1]:g}, gradient noise of standard
deviation 1, and starts at standard normals. At small learning rates the larger first steps help; at
large ones they do harm.
"""
REGRET = """
R(T) is the loss in excess of the best fixed decision in hindsight. That decision is exact: losses
are linear or quadratic in every coordinate, and so is their sum. Learning rates fall as 1/√t
(AdaGrad's steps fall without that), without bias correction, and decisions are clipped to [−1, 1].
Each method has the learning rate of least regret among {} on {} seeds; the results are
those of {} others.
"""


def sections(config: Config, results: dict[str, xr.Dataset]) -> list[lab.Section]:
    """Return the sections of the report."""
    return [
        _promises(results),
        _bounds(results["silence"], results["bounds"]),
        _signal(results["signal"]),
        _early(results["early"], results["training"]),
        further.epsilon(results["epsilon"], results["restart"]),
        further.stopped(results["stopped"]),
        further.ladder(results["ladder"]),
        _regret(results["regret"]),
    ]


def _promises(results: dict[str, xr.Dataset]) -> lab.Section:
    games = results["counterexamples"]
    largest = float(results["silence"].step.isel(last=-1).max())
    paper, ends = numbers.bound(B1, B2, growing=False), games["last"].sel(game="period 3")
    adam, amsgrad = (number(ends.sel(optimizer=method)) for method in ("Adam", "AMSGrad"))
    verdict = "No. " if largest > paper or ends.sel(optimizer="Adam").mean() > 0 else ""
    rows = []
    for name, method in itertools.product(map(str, games.game.values), METHODS):
        runs = games.sel(game=name, optimizer=method).transpose("seed", ...)
        lost, t = runs.regret.values, numbers.game_times(runs)
        cells = runs["last"], lost[:, -1], numbers.lately(t, lost)
        rows.append([f"{name}: {method}", f"{t[-1]:,}", *map(number, cells)])
    return lab.Section(
        title="Promises",
        answer=f"{verdict}Its largest step is {largest:.2f} times the learning rate, where the "
        f"paper's bound is {paper:.2f}, and its regret need not vanish: in the game of period 3, "
        f"where θ = −1 is best, Adam ends at {adam} and AMSGrad at {amsgrad}.",
        body=GAMES,
        figures={
            "counterexamples": (
                figures.counterexamples(games),
                "Three games on which Adam does not converge. Above: the decision θ (−1 is best). "
                "Below: the mean regret per step against the best fixed decision so far. Bands are "
                "95 % intervals over seeds.",
            )
        },
        tables=[
            lab.Table(
                "The games at the end, with 95 % intervals over seeds where there is chance",
                ["game and method", "steps", "last θ", "R(T)/T [loss]", "recent [loss]"],
                rows,
                ["Recent: the mean regret per step over the last nine tenths of the run."],
                screen=True,
            )
        ],
    )


def _bounds(silence: xr.Dataset, bounds: xr.Dataset) -> lab.Section:
    expected = numbers.bound(bounds.b1, bounds.b2)
    off = float(abs(bounds.step.sel(stream="growing") / expected - 1).max())
    last = silence.step.isel(last=-1)
    lone, growing = (float(last.sel(stream=name)) for name in ("lone", "growing"))
    return lab.Section(
        title="How large can a step be?",
        answer=f"After {int(silence['last'][-1]):,} steps, a lone gradient makes a step of "
        f"{lone:.4f} times the learning rate and growing gradients make one of {growing:.4f} "
        f"times. At all decays the tight bound is attained to a relative difference of {off:.0e}.",
        body=BOUNDS,
        figures={
            "bounds": (
                figures.steps(silence, bounds),
                "Largest step / learning rate. Left: against the step at which it happens. Right: "
                "against the memory of the second moment, for several β₁. Points are measured, "
                "dotted lines are the closed form.",
            )
        },
    )


def _signal(signal: xr.Dataset) -> lab.Section:
    late = numbers.late_ratio(signal)
    swing, noise = (number(late.sel(stream=name, b1=B1)) for name in ("alternating", "noise"))
    return lab.Section(
        title="Does the step vanish when gradients are only noise?",
        answer=f"It shrinks but does not vanish: with β₁ = {B1:g}, alternating gradients still "
        f"move a parameter by {swing} of the learning rate per step, and pure noise by {noise}.",
        body=SIGNAL,
        figures={
            "signal": (
                figures.signal(signal, late),
                "Mean of |m̂| / √v̂ over all coordinates, by stream of gradients (those named after "
                "their mean have noise of standard deviation 1). Left: over time, with 95 % "
                "intervals over seeds as bands. Right: late in the run against β₁; points are "
                "measured, dotted lines are theory.",
            )
        },
    )


def _early(early: xr.Dataset, training: xr.Dataset) -> lab.Section:
    rates = training.learning_rate.values
    rate = rates[np.argmin(abs(np.log(rates / SHOWN_RATE)))]
    peaks = training.peak.sel(learning_rate=rate, b2=B2)
    plain, corrected = (number(peaks.sel(debias=debias)) for debias in (False, True))
    largest = float(early.step.sel(debias=False, b2=B2).max())
    return lab.Section(
        title="What does bias correction prevent?",
        answer=f"Large first steps: without it, and with β₂ = {B2}, steps on a constant gradient "
        f"grow to {largest:.2f} times the learning rate. On a quadratic at a learning rate of "
        f"{rate:.2g}, the loss rises to {plain} times the first one, and with it to {corrected}.",
        body=EARLY,
        figures={
            "early": (
                figures.early(early, training, rate),
                "Left: the step on a constant gradient. Middle: the largest loss after the first "
                "step. Right: the loss over time. Both are excess losses divided by the first one, "
                "with 95 % intervals over seeds as bands. Corrected runs are shown for β₂ = "
                f"{B2} only, as other β₂ give the same line.",
            )
        },
    )


def _regret(results: xr.Dataset) -> lab.Section:
    best, found = numbers.chosen(results), numbers.reported(results)
    tuned = found.sel(learning_rate=best)
    ends, rates = tuned.isel(t=-1), results.learning_rate.values
    least = ends.mean("seed").idxmin("optimizer")
    edges = {rates[0]: " (the smallest tried)", rates[-1]: " (the largest tried)"}
    rows, stays = [], []
    for name, method in itertools.product(map(str, found.game.values), METHODS):
        one = {"game": name, "optimizer": method}
        rate, slopes = (
            float(best.sel(one)),
            numbers.exponents(found.t.values, tuned.sel(one).values),
        )
        # A seed has the same losses for all methods.
        excess = ends.sel(one) - ends.sel(game=name, optimizer=str(least.sel(game=name).item()))
        falls = number(slopes) if len(slopes) else "R ≤ 0"
        falls += f" ({len(slopes)} seeds)" if len(slopes) < found.sizes["seed"] else ""
        cells = number(ends.sel(one)), number(excess), falls
        rows.append([f"{name}: {method}", f"{rate:.3g}{edges.get(rate, '')}", *cells])
        stays += [] if numbers.vanishes(slopes) else [f"{method} ({name})"]
    winners = ", ".join(f"{method.item()} ({method.game.item()})" for method in least)
    return lab.Section(
        title="Which method has the least regret at its best learning rate?",
        answer=f"At T = {int(found.t[-1]):,}, the mean regret is least with {winners}. It "
        f"clearly vanishes everywhere{' except with ' if stays else ''}{', '.join(stays)}.",
        body=REGRET.format(rates.size, results.attrs["tuning_seeds"], found.sizes["seed"]),
        figures={
            "regret": (
                figures.regret(found, best),
                "Above: the mean regret at the tuned learning rate. Below: at the end, for all "
                "learning rates, with the chosen one marked (those of SGD and Nesterov are divided "
                "by the largest gradient). Bands are 95 % intervals over seeds. Where Adam's line "
                "is hidden, AMSGrad's covers it. On logarithmic axes, lines and bands are "
                "geometric, with gaps where a seed has R ≤ 0.",
            )
        },
        tables=[
            lab.Table(
                "At the tuned learning rate, with 95 % intervals over seeds",
                [
                    "game and method",
                    "learning rate",
                    "R(T)/T [loss]",
                    "above the least",
                    "exponent",
                ],
                rows,
                [
                    "Exponent: the slope of log R(T)/T on log T over the last decade of steps, of "
                    "the seeds with R > 0. R(T)/T counts as vanishing if the exponent's interval "
                    f"is below {numbers.FALLS:g}."
                ],
            )
        ],
    )
