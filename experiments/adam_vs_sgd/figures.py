"""Figures of Adam against SGD."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from experiments.adam_vs_sgd.config import SPAN
from experiments.adam_vs_sgd.methods import METHODS, PAIR
from experiments.adam_vs_sgd.numbers import running_mean
from experiments.lab import figures as lines

T = TypeVar("T")
FAMILIES = {
    "one rate for all weights": ("momentum", "nesterov", "nested", "nested_matched"),
    "a rate for every weight": ("adagrad", "rmsprop", "adamw", "adafactor"),
}
"""Each has a panel, with SGD and Adam for comparison."""
LEAST = 0.1
"""Errors in percent are drawn at no less: a logarithmic axis has no 0."""
PLAIN = FuncFormatter(lambda x, _: f"{x:,g}")


def title(name: str) -> str:
    """Return the name of a method or an activation in reports."""
    return METHODS[name].title if name in METHODS else name


def by_family(panels: Mapping[str, Mapping[str, T]]) -> dict[str, dict[str, T]]:
    """Split panels of methods into one for each family, unless there are only two methods."""
    return {
        f"{heading}: {family}": {m: found[m] for m in (*PAIR, *methods) if m in found}
        for heading, found in panels.items()
        for family, methods in FAMILIES.items()
        if len(found) > 2
    } or {heading: dict(found) for heading, found in panels.items()}


def curves(panels: Mapping[str, Mapping[str, xr.DataArray]]) -> Figure:
    """Draw running losses: for each panel and method, loss curves over seed and span."""
    figure, axes = _panels(len(panels))
    for (heading, found), ax in zip(panels.items(), axes.flat, strict=True):
        for i, (method, curve) in enumerate(found.items()):
            _line(ax, *running_mean(curve.transpose("seed", "span")), i, method)
            ax.set_xlim(0, SPAN * curve.sizes["span"])
        lines.label(ax, "examples seen", "running loss [nats]", heading, xlog=False)
        ax.xaxis.set_major_formatter(PLAIN)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    _finish(axes)
    return figure


def rates(panels: Mapping[str, Mapping[str, xr.Dataset]], what: str) -> Figure:
    """Draw a loss against the learning rate, with crosses above where any run diverged.

    Args:
        panels: Heading -> name -> `loss` and `diverged` over repeats and learning_rate. The
            attribute `chosen` is a rate to mark.
        what: Which loss.
    """
    figure, axes = _panels(len(panels))
    for (heading, found), ax in zip(panels.items(), axes.flat, strict=True):
        for i, (name, part) in enumerate(found.items()):
            _against_rate(ax, part, i, name)
        lines.label(ax, "learning rate", f"{what} [nats]")
        ax.set_title(heading, fontsize=10.5, loc="left", pad=8 + 6 * len(found))
    _finish(axes)
    return figure


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    columns = min(2, count)
    return lines.panels(columns, count // columns, height=3.5)


def _line(ax: Axes, x: np.ndarray, runs: np.ndarray, order: int, name: str, marker="") -> None:
    finite = np.where(np.isfinite(runs), runs, np.nan)
    width = 2.8 if name in PAIR else 1.4
    lines.line(ax, x, finite, order, title(name), geometric=True, lw=width, marker=marker)


def _against_rate(ax: Axes, found: xr.Dataset, order: int, name: str) -> None:
    """Draw a line of means with its interval, crosses above, and the chosen rate."""
    loss, diverged = (
        part.transpose(..., "learning_rate").values.reshape(-1, found.sizes["learning_rate"])
        for part in (found.loss, found.diverged)
    )
    x, bad, colour = found.learning_rate.values, diverged.any(0), lines.COLOURS[order]
    _line(ax, x, np.where(bad, np.nan, loss), order, name, marker=".")
    ax.set_xlim(x[0] / 1.3, x[-1] * 1.3)
    height, above = np.full(bad.sum(), 1.03 + 0.035 * order), ax.get_xaxis_transform()
    crosses = ax.plot(x[bad], height, "x", color=colour, ms=5, transform=above, clip_on=False)
    crosses[0].set_in_layout(False)
    if "chosen" in found.attrs:
        best = int(np.argmin(np.abs(x - found.attrs["chosen"])))
        at = np.exp(np.log(loss[:, best]).mean())
        ax.plot(x[best], at, "*", color=colour, ms=13, mec="white", zorder=5)


def _finish(axes: np.ndarray) -> None:
    """Give all panels the vertical range of the lines, as bands may be wide; name the lines."""
    drawn = [line for ax in axes.flat for line in ax.lines if line.get_transform() == ax.transData]
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in drawn])
    values = values[np.isfinite(values)]
    for ax in axes.flat:
        ax.set_ylim(values.min() / 1.3, values.max() * 1.3)
        ticks(ax.yaxis)
    for ax in axes[-1]:  # The panels of a column have the same lines.
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22)}
        ax.legend(ncols=3, frameon=False, fontsize=8.5, handlelength=2.8, **place)


def ticks(axis: Axis) -> None:
    """Write plain numbers along a logarithmic axis of few decades."""
    low, high = axis.get_view_interval()
    marks = [m * 10.0**e for e in range(-6, 3) for m in (1, 2, 5)]
    axis.set_ticks([mark for mark in marks if low <= mark <= high])
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def gains(series: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw medians and ranges of every method's errors in percent, over folds or seeds."""
    figure, axes = lines.panels(1, height=4.6)
    ax, looks = axes[0, 0], (("o", "0.45"), ("s", lines.COLOURS[0]), ("D", lines.COLOURS[1]))
    for i, ((name, errors), (marker, colour)) in enumerate(zip(series.items(), looks, strict=True)):
        runs = np.stack([*errors.values()])
        middle = np.maximum(np.median(runs, axis=1), LEAST)
        low, high = middle - np.maximum(runs.min(1), LEAST), runs.max(1) - middle
        ends = np.maximum([low, high], 0)  # Rounding, and errors that are all 0.
        places = np.arange(len(errors))[::-1]
        style = {"fmt": marker, "color": colour, "capsize": 3, "ms": 6}
        ax.errorbar(middle, places + 0.2 * (1 - i), xerr=ends, label=name, **style)
        ax.set_yticks(places, [title(method) for method in errors])
    lines.label(ax, "error [% of images]", "", ylog=False)
    smallest = min(np.min(x) for errors in series.values() for x in errors.values())
    ax.set_xlim(max(smallest, LEAST) / 2, 120)
    ticks(ax.xaxis)
    lines.legend(figure, ax, 3)
    return figure
