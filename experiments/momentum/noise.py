"""The section on gradient noise and local minima."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments import lab
from experiments.lab.figures import COLOURS, label, legend, panels
from experiments.momentum.escapes import LEARNING_RATE, NOISE
from experiments.momentum.numbers import Estimate, compare, escaped

BODY = """
Runs begin at the bottom of a local minimum of “Many minima”, next to the deepest one, and have
escaped once a coordinate has crossed a rim. The gradient of one example has noise of standard
deviation {noise:g} in each coordinate, which a batch of B examples divides by √B. The learning rate
is {rate:g} × (1 − decay), so that both methods descend equally fast. The grey line is computed
without simulation: the transition kernel of plain descent, integrated over the dent.
"""
SMALLEST = 1e-4
"""Smaller probabilities are not written out: rounding ends their digits."""


def section(escapes: xr.Dataset, steps: int) -> lab.Section:
    """Return the section."""
    shares, batches = escaped(escapes), escapes.batch.values.tolist()
    made = figure(shares, batches, escapes.expected.values)
    caption = f"Share of runs that leave a local minimum in {steps} steps, with 95 % intervals."
    return lab.Section(
        "Does gradient noise help to escape local minima?",
        answer(shares, batches, steps),
        BODY.format(noise=NOISE, rate=LEARNING_RATE),
        {"escapes": (made, caption)},
        [table(shares, batches, escapes.expected.values, escapes.sizes["trial"])],
    )


def percent(share: Estimate) -> str:
    """Return a share with its interval."""
    value, low, high = (f"{100 * x:.3g}" for x in share)
    return f"{value} % [{low}, {high}]"


def answer(shares: Mapping[float, Sequence[Estimate]], batches: Sequence[int], steps: int) -> str:
    """Compare the smallest batch with the largest, and momentum with plain descent."""
    decays = sorted(shares)
    plain, moving = shares[decays[0]], shares[decays[-1]]
    verdict = {"fewer": "Yes", "more": "No, noise holds runs back", "alike": "No difference"}
    numbers = (
        f"with batches of {batches[0]}, {percent(plain[0])} of the runs leave within {steps} "
        f"steps, with batches of {batches[-1]}, {percent(plain[-1])}"
    )
    first = f"{verdict[compare(plain[-1], plain[0])]}: {numbers}."
    found = [compare(b, a) for a, b in zip(plain, moving, strict=True)]
    if len(decays) == 1:
        return first
    what = f"Heavy ball with decay {decays[-1]:g} and the same effective learning rate escapes"
    counts = {"more often": found.count("more"), "less often": found.count("fewer")}
    parts = [f"{how} at {n} of {len(batches)} batch sizes" for how, n in counts.items() if n]
    return f"{first} {what} {' and '.join(parts) or 'equally often at all batch sizes'}."


def table(
    shares: Mapping[float, Sequence[Estimate]],
    batches: Sequence[int],
    expected: np.ndarray,
    trials: int,
) -> lab.Table:
    """Return the shares, one batch size per row."""
    header = ["batch size", "decay 0, computed", *(f"decay {decay:g}" for decay in shares)]
    computed = [f"{100 * x:.3g} %" if x >= SMALLEST else "< 0.01 %" for x in expected]
    rows = [
        [f"{batch}", computed[i], *(percent(found[i]) for found in shares.values())]
        for i, batch in enumerate(batches)
    ]
    return lab.Table(f"Share of {trials} runs that escape, with 95 % intervals", header, rows)


def figure(
    shares: Mapping[float, Sequence[Estimate]], batches: Sequence[int], expected: np.ndarray
) -> Figure:
    """Return the shares against the batch size."""
    made, ((ax,),) = panels(1, width=6.4, height=4.4)
    ax.plot(batches, expected, color="0.6", lw=2, label="decay 0, computed")
    for i, (decay, found) in enumerate(shares.items()):
        values, low, high = np.array(found).T
        style = {"color": COLOURS[i], "marker": "os"[i % 2], "ls": "", "capsize": 3}
        bars = ax.errorbar(batches, values, [values - low, high - values], **style)
        bars.set_label(f"decay {decay:g}")
    label(ax, "batch size", "share of runs that escape", ylog=False)
    ax.set_xticks(batches, [f"{batch}" for batch in batches])
    ax.set_xticks([], minor=True)
    legend(made, ax, 3)
    return made
