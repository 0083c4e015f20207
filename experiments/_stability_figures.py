"""Figures of the stability experiment, all drawn from its stored results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import _stability_answers as answers

LABELS = {
    "equal": "equal decays",
    "matched": "matched delay",
    "debiased": "equal, bias-corrected",
    "zero_lag": "equal, no lag (DEMA, TEMA, …)",
    "mean": "equal, mean of the levels",
    "rescaled": "equal, stable rate",
    "tuned_equal": "equal decays, tuned rate",
    "tuned_matched": "matched delay, tuned rate",
    "tuned_zero_lag": "no lag, tuned rate",
}
# Okabe and Ito's colours, which most eyes tell apart; markers differ besides.
STYLES: dict[str, dict[str, Any]] = {
    "equal": {"color": "#000000", "marker": "o"},
    "matched": {"color": "#d55e00", "marker": "s"},
    "debiased": {"color": "#56b4e9", "marker": "x"},
    "zero_lag": {"color": "#009e73", "marker": "D"},
    "mean": {"color": "#cc79a7", "marker": "v"},
    "rescaled": {"color": "#0072b2", "marker": "P"},
    "tuned_equal": {"color": "#000000", "marker": "o"},
    "tuned_matched": {"color": "#d55e00", "marker": "s"},
    "tuned_zero_lag": {"color": "#009e73", "marker": "D"},
}
MODEL, DATA = "levels of momentum in the model", "levels of drift in the data"
# Growth is told for so many steps.
STEPS = 1000
POINTS: dict[str, Any] = {"ls": "", "ms": 4, "capsize": 2.5, "lw": 1}
SMALL_POINTS: dict[str, Any] = POINTS | {"ms": 6}  # Of the marker ".".


def figures(results: xr.Dataset) -> dict[str, tuple[Figure, str]]:
    """Return name -> (figure, caption)."""
    return {
        "growth": (
            _growth(results),
            "Growth of the logarithm of the loss at the given rate, without drift and noise. "
            "Shaded: from the predicted growth of the mean error to that of the mean square. "
            "Points: measured, mean over seeds with its 95 % interval. Right: how far the two "
            "predictions are from the measured growth, where that is positive.",
        ),
        "thresholds": (
            _thresholds(results),
            "The largest stable rate. Solid: predicted, of the mean square; dotted: predicted, of "
            "the mean. Points: the rate at which the measured growth of single runs turns "
            "positive, mean over seeds with its 95 % interval.",
        ),
        "stationary": (
            _stationary(results),
            "Mean loss at the given rate. Lines: the predicted stationary loss, drawn where it "
            "exists. Points: measured, mean over seeds with its 95 % interval. Triangles at the "
            "upper edge: diverged.",
        ),
        "remedies": (
            _remedies(results),
            "What helps: mean loss, the median over data levels, mean over seeds. Triangles at the "
            "upper edge: diverged.",
        ),
        "hypothesis": (
            _hypothesis_maps(results),
            "Mean loss of each combination, as a ratio to the smallest of its data level (marked "
            "with a star). Squares: equal levels in model and data, where the hypothesis has the "
            "smallest.",
        ),
        "offset": (
            _offsets(results),
            "Loss by how many levels the model has more than the data, each loss against the "
            "(geometric) mean over all models of its data level. Were the hypothesis true, the "
            "smallest would be at 0. Bands: 95 % interval over seeds.",
        ),
    }


def _figure(columns: int, size: tuple[float, float], **options) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    for ax in axes:
        ax.grid(lw=0.4, alpha=0.6)
    return figure, axes


def _levels(ax: Axes, label: str = MODEL) -> None:
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def _above(figure: Figure, ax: Axes, columns: int) -> None:
    """Put one legend above all axes, where it hides nothing."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def _growth(results: xr.Dataset) -> Figure:
    figure, (left, right) = _figure(2, (9, 4.2))
    low, high = (STEPS * bound for bound in answers.growth_bounds(results))
    mean, half = (STEPS * part for part in answers.measured_growth(results))
    levels = results.model_level.values
    for name in ("equal", "matched", "zero_lag", "mean"):
        style = STYLES[name]
        bounds = low.sel(fixed=name).values, high.sel(fixed=name).values
        left.fill_between(levels, *bounds, color=style["color"], alpha=0.18, lw=0)
        left.errorbar(
            levels,
            mean.sel(fixed=name).values,
            half.sel(fixed=name).values,
            label=LABELS[name],
            **POINTS,
            **style,
        )
    left.axhline(0, color="0.3", lw=0.8)
    # The mean alone shrinks far faster than runs do where delays are matched.
    lowest = float((mean - half).min())
    left.set_ylim(1.35 * lowest, None)
    left.set_ylabel(f"growth of ln loss [per {STEPS:,} steps]")
    _levels(left)
    measured, error = mean.sel(fixed="equal"), half.sel(fixed="equal")
    rising = (measured - error > 0).values
    if rising.any():
        at = levels[rising]
        reference = measured.values[rising]
        for bound, label, line in [(low, "mean", ":"), (high, "mean square", "-")]:
            ratio = bound.sel(fixed="equal").values[rising] / reference - 1
            right.plot(at, 100 * ratio, line, marker=".", color="#0072b2", label=label)
        share = 100 * error.values[rising] / reference
        right.fill_between(at, -share, share, color="0.6", alpha=0.5, lw=0, label="measured")
        right.set_ylim(-25, 25)
        right.legend(frameon=False, loc="upper right")
    else:
        right.text(0.5, 0.5, "no level grows", ha="center", transform=right.transAxes)
    right.axhline(0, color="0.3", lw=0.8)
    right.set_ylabel("predicted growth above measured [%]")
    right.set_title("equal decays", fontsize=10)
    _levels(right)
    _above(figure, left, 4)
    return figure


def _thresholds(results: xr.Dataset) -> Figure:
    figure, (ax,) = _figure(1, (7.5, 4.6))
    levels = results.model_level.values
    crossing = answers.estimate(answers.thresholds(results), "probe_seed")
    for name in results.probed.values:
        style = STYLES[name]
        for bound, line in [("mean_square_limit", "-"), ("mean_limit", ":")]:
            rates = results[bound].sel(fixed=name).values
            ax.plot(levels, rates, line, color=style["color"], lw=1.2)
        mean, half = (part.sel(probed=name).values for part in crossing)
        ax.errorbar(levels, mean, half, label=LABELS[name], **POINTS, **style)
    given = answers.config(results)["learning_rate"]
    ax.axhline(given, color="0.3", lw=0.9, ls="--", label=f"given rate {given:g}")
    ax.set_yscale("log")
    ax.set_ylabel("largest stable rate")
    _levels(ax)
    _above(figure, ax, 3)
    return figure


def _shown_levels(results: xr.Dataset) -> list[int]:
    last = int(results.data_level.max())
    return [d for d in dict.fromkeys((1, 2, 4, 8, last)) if d <= last]


def _crossed_out(
    ax: Axes, levels: np.ndarray, mask: np.ndarray, style: Mapping, height: float = 0.97
) -> None:
    """Mark the levels of diverged runs near the upper edge."""
    ax.plot(
        levels[mask],
        np.full(mask.sum(), height),
        ls="",
        marker="^",
        ms=6,
        mfc="none",
        color=style["color"],
        transform=ax.get_xaxis_transform(),
    )


def _stationary(results: xr.Dataset) -> Figure:
    names = ("equal", "matched", "zero_lag")
    figure, axes = _figure(len(names), (11, 4.2), sharey=True)
    levels = results.model_level.values
    bad = answers.diverged(results).any("seed")
    mean, half = answers.estimate(results.loss)
    colours = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7")
    for ax, name in zip(axes, names, strict=True):
        for d, colour in zip(_shown_levels(results), colours, strict=False):
            at = {"scheme": name, "data_level": d}
            fine = ~bad.sel(at).values
            predicted = results.predicted_loss.sel(at).values
            ax.plot(levels, np.where(np.isfinite(predicted), predicted, np.nan), color=colour)
            ax.errorbar(
                levels[fine],
                mean.sel(at).values[fine],
                half.sel(at).values[fine],
                label=f"{d} data level{'s' * (d > 1)}",
                marker=".",
                color=colour,
                **SMALL_POINTS,
            )
            _crossed_out(ax, levels, ~fine, {"color": "0.3"})
        ax.set_title(LABELS[name], fontsize=10)
        ax.set_yscale("log")
        _levels(ax)
    axes[0].set_ylabel("mean loss [squared error]")
    top = float(mean.sel(scheme=list(names)).where(~bad.sel(scheme=list(names))).max())
    axes[0].set_ylim(0.8 * float(mean.min()), 2 * top)
    _above(figure, axes[0], 5)
    return figure


def _remedies(results: xr.Dataset) -> Figure:
    figure, (ax,) = _figure(1, (7.5, 4.8))
    levels = results.model_level.values
    bad = answers.diverged(results).any(("seed", "data_level"))
    loss = results.loss.mean("seed").median("data_level")
    names = [*results.fixed.values, "rescaled"]
    for i, name in enumerate(names):
        style, fine = STYLES[name], ~bad.sel(scheme=name).values
        values = np.where(fine, loss.sel(scheme=name).values, np.nan)
        ax.plot(levels, values, lw=1.2, ms=5, label=LABELS[name], **style)
        # Each at a height of its own: the same levels diverge in several.
        _crossed_out(ax, levels, ~fine, style, 0.97 - 0.03 * i)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.2)
    ax.set_ylabel("mean loss [squared error]")
    _levels(ax)
    _above(figure, ax, 3)
    return figure


def _hypothesis_maps(results: xr.Dataset) -> Figure:
    names = ["matched", *results.tuned.values]
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    models, data = results.model_level.values, results.data_level.values
    edges = [np.append(values, values[-1] + 1) - 0.5 for values in (data, models)]
    ratios = {}
    for name in names:
        loss = np.exp(np.log(results.loss.sel(scheme=name)).mean("seed"))
        loss = loss.transpose("model_level", "data_level").values
        ratios[name] = loss / np.nanmin(loss, axis=0)
    finite = np.concatenate([r[np.isfinite(r)] for r in ratios.values()])
    norm = LogNorm(1, max(1.01, float(np.quantile(finite, 0.98))))
    for ax, (name, ratio) in zip(axes, ratios.items(), strict=True):
        ax.pcolormesh(*edges, ratio, cmap="cividis_r", norm=norm, ec="face", lw=0.2)
        same = np.intersect1d(models, data)
        square: dict[str, Any] = {"marker": "s", "mfc": "none", "mec": "#d55e00", "ms": 8, "ls": ""}
        ax.plot(same, same, label="as many levels as the data", **square)
        star: dict[str, Any] = {
            "marker": "*",
            "mfc": "white",
            "mec": "black",
            "ms": 10,
            "mew": 0.7,
            "ls": "",
        }
        best = models[np.argmin(np.nan_to_num(ratio, nan=np.inf), axis=0)]
        ax.plot(data, best, label="smallest loss", **star)
        ax.set_title(LABELS[name], fontsize=10)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    for ax in axes[2:]:
        ax.set_xlabel(DATA)
    for ax in axes[::2]:
        ax.set_ylabel(MODEL)
    scale = ScalarMappable(norm, "cividis_r")
    bar = figure.colorbar(scale, ax=axes, extend="max", shrink=0.7)
    bar.set_label("loss / smallest of its data level")
    bar.ax.yaxis.set_major_formatter("{x:.2g}")
    bar.ax.yaxis.set_minor_formatter("{x:.2g}")
    _above(figure, axes[0], 2)
    return figure


def _offsets(results: xr.Dataset) -> Figure:
    figure, (ax,) = _figure(1, (7.5, 4.4))
    for name in ["matched", *results.tuned.values]:
        style = STYLES[name]
        line = "--" if name == "matched" else "-"
        mean, half = answers.hypothesis(results.loss.sel(scheme=name)).by_offset
        at = mean.offset.values
        ax.plot(at, mean, line, color=style["color"], label=LABELS[name], lw=1.4)
        ax.fill_between(at, mean - half, mean + half, color=style["color"], alpha=0.2, lw=0)
    ax.axvline(0, color="0.3", lw=0.8)
    ax.set_xlabel("levels of the model − levels of the data")
    ax.set_ylabel("ln(loss / mean of its data level)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _above(figure, ax, 2)
    return figure
