"""Figures of Adam against SGD, all from the stored results."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from experiments import _lines
from experiments._adam_vs_sgd_methods import METHODS
from experiments._adam_vs_sgd_runs import SPAN, WINDOW

Style: TypeAlias = dict[str, Any]
WIDTH: Style = {"lw": 1.5}
# Of Okabe and Ito; what shares a colour differs in dashes.
STYLES: dict[str, Style] = {
    "sgd": {"color": "#0072b2", "ls": "-", "lw": 3.2},
    "momentum": {"color": "#56b4e9", "ls": "--"},
    "nesterov": {"color": "#009e73", "ls": "-."},
    "nested": {"color": "#000000", "ls": ":"},
    "nested_matched": {"color": "0.5", "ls": "-"},
    "adagrad": {"color": "#cc79a7", "ls": "--"},
    "rmsprop": {"color": "#e69f00", "ls": "-."},
    "adam": {"color": "#d55e00", "ls": "-", "lw": 3.2},
    "adamw": {"color": "#000000", "ls": (0, (1, 1.5))},
    "adafactor": {"color": "0.5", "ls": (0, (6, 2))},
}
FAMILIES = {
    "one rate for all weights": ("sgd", "momentum", "nesterov", "nested", "nested_matched", "adam"),
    "a rate for every weight": ("adam", "adagrad", "rmsprop", "adamw", "adafactor", "sgd"),
}
"""Panels of their own, each with the other's head for comparison."""
ACTIVATIONS: dict[str, Style] = {
    "relu": {"color": "#0072b2", "ls": "-", "marker": "o"},
    "tanh": {"color": "#d55e00", "ls": "--", "marker": "s"},
    "sigmoid": {"color": "#009e73", "ls": "-.", "marker": "^"},
    "softplus": {"color": "#cc79a7", "ls": ":", "marker": "D"},
}
PERCENT = FuncFormatter(lambda x, _: f"{x:g}")
RATE = "learning rate [per step]"


def title(method: str) -> str:
    """Return what a method is called."""
    return METHODS[method].title


def families(methods: Sequence[str]) -> dict[str, list[str]]:
    """Return the panels' methods, those there are; one panel if there are but two."""
    if len(methods) == 2:
        return {"": [*methods]}
    return {name: [m for m in family if m in methods] for name, family in FAMILIES.items()}


def running_mean(curve: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return examples seen and the mean loss of the last 1,000, along the last axis."""
    points = WINDOW // SPAN
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(curve, float), points, axis=-1)
    means = windows.mean(-1)
    return SPAN * np.arange(points, points + means.shape[-1]), means


def curves(rows: Mapping[str, Mapping[str, xr.DataArray]], unit: str) -> Figure:
    """Draw running losses: a row of panels for each title of `rows`, method -> curves by seed."""
    columns = families([*next(iter(rows.values()))])
    figure, axes = _lines.panels(len(columns), len(rows), height=3.5)
    for (heading, found), row in zip(rows.items(), axes, strict=True):
        for (family, methods), ax in zip(columns.items(), row, strict=True):
            for method in methods:
                band(ax, *running_mean(found[method]), STYLES[method])
            name = f"{heading}: {family}" if family else heading
            _lines.label(ax, "examples seen", f"running loss [{unit}]", name, xlog=False)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.set_xlim(0, SPAN * found[methods[0]].sizes["span"])
    same_height([*axes.flat])
    _legend(figure, {m for family in columns.values() for m in family})
    return figure


def rates(
    panels: Mapping[str, xr.Dataset], chosen: Mapping[str, Mapping[str, float]], what: str
) -> Figure:
    """Draw the mean loss against the rate, a row for each of `panels`.

    Args:
        panels: Title -> `loss` and `diverged` over optimizer, learning_rate and repeat.
        chosen: Title -> method -> rate to be marked.
        what: Which loss.
    """
    columns = families([*next(iter(panels.values())).optimizer.values])
    figure, axes = _lines.panels(len(columns), len(panels), height=3.5)
    for (heading, found), row in zip(panels.items(), axes, strict=True):
        for (family, methods), ax in zip(columns.items(), row, strict=True):
            for i, method in enumerate(methods):
                _against_rate(ax, found.sel(optimizer=method), STYLES[method], i)
                best = chosen[heading].get(method)
                if best is not None:
                    loss = found.loss.sel(optimizer=method, learning_rate=best)
                    loss = np.exp(np.log(loss.values).mean())
                    style = {"marker": "*", "ms": 13, "mec": "white", "zorder": 5}
                    ax.plot(best, loss, color=STYLES[method]["color"], **style)
            name = f"{heading}: {family}" if family else heading
            _lines.label(ax, RATE, f"{what} [nats]", name)
            ax.set_title(name, fontsize=10.5, loc="left", pad=8 + 6 * len(methods))
    same_height([*axes.flat])
    _legend(figure, {m for family in columns.values() for m in family}, crosses=True, stars=True)
    return figure


def _against_rate(ax: Axes, found: xr.Dataset, style: Style, i: int) -> None:
    """Draw a line of means with its interval, and crosses above where any run diverged."""
    loss = found.loss.transpose(..., "learning_rate")
    runs = loss.values.reshape(-1, loss.sizes["learning_rate"]).astype(float)
    bad = found.diverged.transpose(..., "learning_rate").values.reshape(runs.shape).any(0)
    x = found.learning_rate.values
    band(ax, x, np.where(bad, np.nan, runs), {"marker": ".", "ms": 5} | style)
    ax.set_xlim(x[0] / 1.3, x[-1] * 1.3)
    if bad.any():
        height = np.full(bad.sum(), 1.03 + 0.035 * i)
        look = {"color": style["color"], "ls": "", "marker": "x", "ms": 5, "mew": 1.4}
        place = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(x[bad], height, **look, **place)[0].set_in_layout(False)


def band(ax: Axes, x: np.ndarray, runs: np.ndarray, style: Style) -> None:
    """Draw the geometric mean of positive `runs` (repeats first) and its 95 % interval."""
    mean, half = _lines.interval(np.log(np.where(np.isfinite(runs), runs, np.nan)))
    ax.plot(x, np.exp(mean), **WIDTH | style)
    low, high = np.exp(mean - half), np.exp(mean + half)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)


def same_height(axes: Sequence[Axes]) -> None:
    """Give all panels one vertical range, that of the lines: bands may be of any width."""
    lines = [line for ax in axes for line in ax.lines if line.get_transform() == ax.transData]
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
    drawn = drawn[np.isfinite(drawn)]
    for ax in axes:
        ax.set_ylim(drawn.min() / 1.3, drawn.max() * 1.3)
        ticks(ax)


def ticks(ax: Axes) -> None:
    """Write plain numbers along a logarithmic axis of few decades."""
    low, high = ax.get_ylim()
    marks = [m * 10.0**e for e in range(-6, 3) for m in (1, 2, 5)]
    ax.set_yticks([mark for mark in marks if low <= mark <= high])
    ax.yaxis.set_major_formatter(PERCENT)
    ax.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, methods: set[str], crosses: bool = False, stars: bool = False) -> None:
    handles = [
        Line2D([], [], label=title(m), **WIDTH | style)
        for m, style in STYLES.items()
        if m in methods
    ]
    grey: Style = {"color": "0.3", "ls": ""}
    if crosses:
        handles.append(Line2D([], [], marker="x", label="a run diverged", **grey))
    if stars:
        handles.append(Line2D([], [], marker="*", ms=11, label="chosen", **grey))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=6,
        frameon=False,
        fontsize=9,
        handlelength=3.2,
    )


def gains(untuned: xr.DataArray, best: xr.DataArray, test: xr.DataArray) -> Figure:
    """Draw the error of every method before and after tuning, by folds, and on the test images."""
    figure, axes = _lines.panels(1, height=4.6)
    ax, places = axes[0, 0], np.arange(untuned.sizes["optimizer"])[::-1]
    series = (
        ("untuned, cross-validated", untuned, "fold", "o", "0.45", 0.2),
        ("tuned, cross-validated", best, "fold", "s", "#0072b2", 0.0),
        ("tuned, test images", test, "seed", "D", "#d55e00", -0.2),
    )
    for name, errors, over, marker, colour, shift in series:
        mean, half = _lines.interval(100 * errors.transpose(over, "optimizer").values)
        low = np.minimum(half, 0.98 * mean)  # A logarithm has no 0.
        style = {"fmt": marker, "color": colour, "capsize": 3, "ms": 6}
        ax.errorbar(mean, places + shift, xerr=[low, half], label=name, **style)
    ax.set_yticks(places, [title(method) for method in untuned.optimizer.values])
    ax.set_xscale("log")
    lowest = 100 * min(float(errors.mean(over).min()) for _, errors, over, *_ in series)
    ax.set_xlim(max(lowest, 0.1) / 4, 120)
    marks = (0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100)
    ax.set_xticks([mark for mark in marks if mark > ax.get_xlim()[0]])
    ax.xaxis.set_major_formatter(PERCENT)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("error [% of images]")
    _lines.legend(figure, ax, 3)
    return figure


def activations(found: xr.Dataset) -> Figure:
    """Draw the loss against the rate for every activation, a panel for each method."""
    methods = [*found.optimizer.values]
    styles = {word: ACTIVATIONS[word] for word in found.activation.values}
    figure, axes = _lines.panels(len(methods), height=4.0)
    for method, ax in zip(methods, axes.flat, strict=True):
        for i, (word, style) in enumerate(styles.items()):
            some = found.sel(optimizer=method, activation=word)
            _against_rate(ax, some, style | {"ms": 4}, i)
        _lines.label(ax, RATE, "validation loss [nats]", title(method))
        ax.set_title(title(method), fontsize=10.5, loc="left", pad=34)
    same_height([*axes.flat])
    handles = [Line2D([], [], label=word, **style) for word, style in styles.items()]
    handles.append(Line2D([], [], marker="x", color="0.3", ls="", label="a run diverged"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=5, frameon=False, handlelength=3.2
    )
    return figure


def times(seconds: xr.DataArray) -> Figure:
    """Draw the time of a step of every method: all rounds, the least as a bar."""
    figure, axes = _lines.panels(1, height=4.2)
    ax, places = axes[0, 0], np.arange(seconds.sizes["optimizer"])[::-1]
    values = 1e6 * seconds.transpose("optimizer", "round").values
    ax.barh(places, values.min(1), height=0.6, color="#56b4e9", label="least")
    ax.plot(values, places[:, None], "k|", ms=11, mew=1.3)
    ax.plot([], [], "k|", ms=11, mew=1.3, label="each round")
    ax.set_yticks(places, [title(method) for method in seconds.optimizer.values])
    ax.set_xlim(0)
    ax.set_xlabel("time of a step, gradient included [µs]")
    _lines.legend(figure, ax, 2)
    return figure
