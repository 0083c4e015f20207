"""Further sections of the Adam report: epsilon and warm-up, an early stop, and the ladder."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.adam import figures, numbers
from experiments.adam.corrections import AFTER, EPS, FIRST_STEPS, NEVER, STOPPED_RATE, STOPS, WARMUP
from experiments.adam.networks import LADDER, RESTART_RATES, RESTART_STEPS
from experiments.adam.tools import B2
from experiments.lab.figures import factor, number, verdict

TARGET = 0.1
"""The training loss, in nats, to which steps are counted."""
CHANGES = ("an increase by a factor of {}", "a decrease by a factor of {}")
EPSILON = f"""
A constant gradient g makes steps of 1 / (1 + ε / g) times the learning rate: a gradient above ε
moves a parameter by the whole learning rate, however small it is. A linear warm-up over {WARMUP}
steps multiplies step t by t / {WARMUP}. On the right, the network was trained until its gradients
are small. A fresh Adam knows no earlier gradients, so its first steps have full size again. The
peak is the largest training loss in {RESTART_STEPS} steps, divided by the loss before them. There
the gradient is the root mean square of all entries over batches.
"""
STOPPED = f"""
From step t on, m and v are used without division by 1 − β₁ᵗ and 1 − β₂ᵗ. By then m has little bias,
but v is still (1 − β₂ᵗ) of its value, so steps grow by 1 / √(1 − β₂ᵗ). Then they shrink again as v
grows. The quadratic is that of the section above, at a learning rate of {STOPPED_RATE:g}.
"""
RUNGS = """
AdaGrad divides the gradient by the root of the sum of its squares. RMSProp has their average with
β₂ = {b2} in place of the sum. Bias correction divides that average by 1 − β₂ᵗ. Momentum replaces
the gradient by its average with β₁ = 0.9, corrected too, which makes it Adam. All have a constant
learning rate, which is the best of {rates} on {tuning} seeds; results are those of {seeds} others.
"""


def epsilon(first: xr.Dataset, restart: xr.Dataset) -> lab.Section:
    """Report first steps on tiny gradients, and what a fresh Adam does to a trained network."""
    shown = restart.sel(learning_rate=RESTART_RATES[-1]).sel(eps=EPS, method="nearest")
    peaks = shown.peak.transpose("warmup", "seed").values
    plain, warm = map(factor, peaks)
    effect = verdict(
        peaks[0] / peaks[1],
        "the largest loss {} times lower",
        "the largest loss {} times higher",
    )
    ratio = first.ratio.values
    size = float(first.step.sel(warmup=0).isel(ratio=-1))
    return lab.Section(
        title="Are first steps too large when gradients are tiny?",
        answer=f"A constant gradient of {ratio[-1]:,.0f} times ε makes steps of {size:.4f} times "
        f"the learning rate. When a fresh Adam with ε = {EPS:g} and a learning rate of "
        f"{RESTART_RATES[-1]:g} goes on with a trained network, whose gradients are "
        f"{number(restart.gradient)}, the largest loss of {RESTART_STEPS} steps is {plain} times "
        f"that before without warm-up and {warm} times with it: warm-up makes {effect}.",
        body=EPSILON,
        figures={
            "epsilon": (
                figures.epsilon(first, restart),
                f"Left: the largest of the first {FIRST_STEPS} steps; dotted lines are the closed "
                "form. Others: the peak of the loss when a fresh Adam goes on with a trained "
                "network, by learning rate. Bands are 95 % intervals over seeds.",
            )
        },
    )


def stopped(results: xr.Dataset) -> lab.Section:
    """Report what happens if bias correction stops too early."""
    stop = STOPS[0]
    step = results.step.sel(stop=stop).isel(seed=0)
    measured = float(step.sel(t=stop) / step.sel(t=stop - 1))
    loss = results.after.transpose("stop", "seed")
    ratios = loss.sel(stop=stop).values / loss.sel(stop=NEVER).values
    effect = verdict(ratios, *CHANGES)
    return lab.Section(
        title=f"What happens if bias correction stops at t = {stop}?",
        answer=f"Steps jump by a factor of {measured:.2f} (1 / √(1 − β₂ᵗ) is "
        f"{1 / np.sqrt(1 - B2**stop):.2f}). Compared with full correction, the mean excess loss "
        f"of the next {AFTER} steps on the quadratic shows {effect}. The jump is at most 1 % only "
        f"from t = {numbers.small_from(0.01):,} on.",
        body=STOPPED,
        figures={
            "stopped": (
                figures.stopped(results),
                "Left: the step on a constant gradient; the dotted line is the closed form "
                "without correction. Right: the excess loss. Bands are 95 % intervals over seeds.",
            )
        },
    )


def ladder(results: xr.Dataset) -> lab.Section:
    """Report what each difference between AdaGrad and Adam changes."""
    tuned, rates = numbers.tuned(results), results.learning_rate.values
    edges, rows, effects, before = (rates[0], rates[-1]), [], [], None
    for method in LADDER:
        one = tuned.sel(optimizer=method)
        rate, last = float(one.rate), one["last"].values
        steps = numbers.steps_to(one.loss.values, one.t.values, TARGET)
        missed = int(np.isinf(steps).sum())
        reached = factor(steps) if not missed else f"{missed} of {steps.size} seeds never"
        row = [method, f"{rate:.3g}{'*' if rate in edges else ''}", factor(last), reached]
        rows.append([*row, factor(before / last) if before is not None else ""])
        if before is not None:
            effects.append(verdict(last / before, *CHANGES))
        before = last
    average, corrected, momentum = effects
    counts = {"tuning": results.attrs["tuning_seeds"], "seeds": tuned.sizes["seed"]}
    return lab.Section(
        title="Which difference between AdaGrad and Adam matters?",
        answer="With each method at its best learning rate, the last training loss shows "
        f"{average} with an average in place of AdaGrad's sum (RMSProp), {corrected} with bias "
        f"correction, and {momentum} with momentum, which makes it Adam.",
        body=RUNGS.format(b2=B2, rates=rates.size, **counts),
        figures={
            "ladder": (
                figures.ladder(results, tuned),
                "Left: the training loss over time. Right: the last training loss at all learning "
                "rates, with the chosen one marked. Lines are geometric means, bands 95 % "
                "intervals over seeds.",
            )
        },
        tables=[
            lab.Table(
                "At the tuned learning rate: geometric means with 95 % intervals over seeds",
                [
                    "method",
                    "learning rate",
                    "last loss [nat]",
                    f"steps to a loss of {TARGET:g}",
                    "loss before / loss",
                ],
                rows,
                [
                    "Loss before / loss: last loss of the method above, divided by this one's.",
                    "* The smallest or the largest rate tried.",
                ],
            )
        ],
    )
