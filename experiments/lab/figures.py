"""Figures of lines with bands, and numbers with intervals, for reports on runs over seeds."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatterSciNotation, NullFormatter
from scipy.special import stdtrit

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
"""Of Okabe and Ito, told apart by colour-blind eyes; a dash pattern comes with each."""
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
ROUNDING = 1e-6
"""Runs that differ by less than this share of their mean do so by rounding."""
PREDICTED = {"color": "0.45", "lw": 1.0, "ls": ":", "zorder": 1}
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def power(base: int, exponent: int) -> str:
    """Return a power as text, such as 2⁻³; matplotlib would have to parse it as TeX."""
    return f"{base}{str(exponent).translate(RAISED)}"


class Powers(LogFormatterSciNotation):
    """Label a logarithmic axis with powers of ten that are text."""

    def __call__(self, x: float, pos: Any = None) -> str:
        """Return the label of `x`, such as 10⁻³, 2×10⁵ or 1.5."""
        text = super().__call__(x, pos).replace(r"$\mathdefault{", "").removesuffix("}$")
        text = text.replace(r"\times10^{0}", "").replace(r"\times", "×")
        return re.sub(r"10\^\{(.*?)\}", lambda found: power(10, int(found[1])), text)


def panels(
    columns: int,
    rows: int = 1,
    width: float = 9.6,
    height: float = 3.4,
    widths: Sequence[float] | None = None,
) -> tuple:
    """Return a figure of a page's width, and its axes as an array of shape (rows, columns)."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, height * rows), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=widths)
    for ax in axes.flat:
        ax.grid(lw=0.4, alpha=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(ax: Axes, x: str, y: str, title: str = "", xlog: bool = True, ylog: bool = True) -> None:
    """Name the axes of a panel and choose their scales."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize=10.5, loc="left")
    for axis, log in (("x", xlog), ("y", ylog)):
        if log:
            getattr(ax, f"set_{axis}scale")("log")
            ticks = getattr(ax, f"{axis}axis")
            ticks.set_major_formatter(Powers())
            # Numbers between the decades run into each other.
            low, high = getattr(ax, f"get_{axis}lim")()
            ticks.set_minor_formatter(NullFormatter() if 0 < 10 * low < high else Powers())


def line(
    ax: Axes,
    x: Any,
    runs: Any,
    order: int,
    name: str,
    *,
    geometric: bool | None = None,
    **style: Any,
) -> None:
    """Draw the mean of `runs` (seeds first) in the colour of `order`, its 95 % interval a band.

    On a logarithmic axis both are geometric, and the line has a gap where a run is not positive.
    `geometric` says so for an axis whose scale is chosen later.
    """
    runs = np.atleast_2d(np.asarray(runs, float))
    if geometric is None:
        geometric = ax.get_yscale() == "log"
    mean, low, high = geometric_interval(runs) if geometric else _ends(*interval(runs))
    ax.plot(
        x, mean, label=name, **{"color": COLOURS[order], "ls": DASHES[order], "lw": 1.6} | style
    )
    if len(runs) > 1:
        ax.fill_between(x, low, high, color=COLOURS[order], alpha=0.18, lw=0)


def legend(figure: Figure, ax: Axes, columns: int) -> None:
    """Name the lines of `ax` once, above all panels, where it hides nothing."""
    handles, names = ax.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=3.2,
    )


def interval(runs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the first axis and half its 95 % t interval; NaN of a single run."""
    runs = np.asarray(runs, float)
    n = len(runs)
    if n < 2:
        return runs.mean(0), np.full(runs.shape[1:], np.nan)
    return runs.mean(0), stdtrit(n - 1, 0.975) * runs.std(0, ddof=1) / np.sqrt(n)


def geometric_interval(runs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the geometric mean over the first axis and both ends of its 95 % interval.

    It is the t interval of the logarithms, exponentiated; NaN where a run is negative.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, low, high = map(np.exp, _ends(*interval(np.log(np.asarray(runs, float)))))
    return mean, low, high


def _ends(mean: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return mean, mean - half, mean + half


def factor(ratios: Any) -> str:
    """Return the geometric mean of ratios and its 95 % interval in brackets."""
    mean, low, high = (float(x) for x in geometric_interval(np.ravel(ratios)))
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def verdict(ratios: Any, larger: str, smaller: str) -> str:
    """Say whether the interval of ratios is above 1, below 1, or how far from 1 it reaches.

    `larger` and `smaller` have a place `{}` for the factor, which is above 1 in both.
    """
    ratios = np.ravel(np.asarray(ratios, float))
    _, low, high = (float(x) for x in geometric_interval(ratios))
    if not np.isfinite(high - low):
        return "a difference that diverged runs leave open"
    if low > 1:
        return larger.format(factor(ratios))
    if high < 1:
        return smaller.format(factor(1 / ratios))
    return f"no difference larger than a factor of {max(high, 1 / low):.2g}"


def number(runs: Any) -> str:
    """Return the mean of the runs and half its 95 % interval, to the digits that it knows."""
    mean, half = (float(x) for x in interval(np.ravel(runs)))
    if not half > ROUNDING * abs(mean):  # All alike, a single run, or nothing finite.
        text = f"{mean:.4g}"
    elif not 1e-5 < abs(mean) < 1e5:
        text = f"{mean:.1e} ± {half:.1e}"
    else:
        places = int(np.clip(1 - np.floor(np.log10(half)), 0, 9))
        text = f"{mean:.{places}f} ± {half:.{places}f}"
    return text.replace("-", "−")


def slope(x: Any, runs: Any) -> np.ndarray:
    """Return the slope of log `runs` (seeds first) on log x, of each; NaN where one is not > 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        y = np.log(np.asarray(runs, float))
    x = np.log(np.asarray(x, float))
    x = x - x.mean()
    return np.where(np.isfinite(y).all(-1), y @ x / (x @ x), np.nan)
