"""The figures of the level sweep, but the heatmap of losses."""

from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from experiments.lab import figures

PREDICTED = "#d55e00"  # Okabe and Ito's vermilion, distinct from every colour of viridis.
MOST_TICKS = 24
MOST_LEVELS = 6
"""Multiples of the best possible loss are shown for up to this many model levels."""


def loss_by_level(
    losses: xr.DataArray,
    *,
    level: str = "model_level",
    over: str = "data_level",
    predicted: xr.DataArray | None = None,
) -> Figure:
    """Draw log₁₀ `losses` against `level`: a thin line for each value of `over`, a bold median.

    The axis is linear: losses may approach 1e308, where a logarithmic axis overflows. Infinite and
    NaN losses rank last in the median. A line has a gap where a loss is zero or not finite; these
    levels are marked at the edge, and the legend counts the losses. With several seeds, every line
    is the mean over seeds, and the bold line has the 95 % t interval of that mean.

    Args:
        losses: Losses over `level`, `over` and, if there are several, seed.
        level: The dimension of the horizontal axis.
        over: The dimension of the thin lines.
        predicted: Predicted losses over `level` and `over`; their median is dashed.
    """
    losses = losses if "seed" in losses.dims else losses.expand_dims("seed")
    runs = _log10(losses.transpose("seed", level, over))
    seeds, levels, others = len(runs), losses[level].to_numpy(), losses[over].to_numpy()
    figure, [[ax]] = figures.panels(1, width=6.5, height=4.4)
    # An infinite and a zero loss in the same mean or median give NaN, which is a gap, as intended.
    with np.errstate(invalid="ignore"):
        lines, (middle, half) = runs.mean(0), figures.interval(np.median(runs, 2))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, others.size))
    for line, colour in zip(lines.T, colours, strict=True):
        ax.plot(levels, _gaps(line), ".-", color=colour, lw=0.7, ms=3)
    name = f"median over {_words(over)}s"
    if seeds > 1:
        name = f"mean over {seeds} seeds of the {name}\n(bars: its 95 % interval, of log₁₀)"
    bars = _gaps(half) if seeds > 1 else None
    ax.errorbar(levels, _gaps(middle), bars, color="black", lw=2.2, capsize=3, label=name)
    by_level = runs.transpose(1, 0, 2)
    _mark(ax, levels, by_level == np.inf, 1, "not finite", marker="^", color="0.3", ms=6)
    _mark(ax, levels, by_level == -np.inf, 0, "zero", marker="v", color="0.3", ms=6)
    if predicted is not None:
        median = np.median(_log10(predicted.transpose(level, over)), 1)
        ax.plot(levels, _gaps(median), "--", color=PREDICTED, lw=2, label="predicted")
        hollow = {"marker": "^", "color": PREDICTED, "mfc": "none", "ms": 10}
        _mark(ax, levels, median[:, None] == np.inf, 1, "predicted not finite", **hollow)
    figures.label(ax, _words(level), "log₁₀ mean loss", xlog=False, ylog=False)
    ax.set_xticks(_few(levels))
    ax.set_xlim(levels[0] - 0.5, levels[-1] + 0.5)
    norm = BoundaryNorm([*(others - 0.5), others[-1] + 0.5], others.size)
    scale = ScalarMappable(norm, ListedColormap(colours))
    figure.colorbar(scale, ax=ax, ticks=_few(others), label=_words(over))
    figures.legend(figure, ax, columns=2)
    return figure


def draw_multiples(
    loss: xr.DataArray, diverged: xr.DataArray, bound: xr.DataArray, zero: xr.DataArray
) -> Figure:
    """Draw losses as multiples of the best possible loss: a map, and the runs that converged.

    Args:
        loss: Loss over model_level and data_level.
        diverged: Whether a run diverged, over the same.
        bound: The best possible loss, over data_level.
        zero: The loss of always answering 0, over data_level.
    """
    figure, axes = figures.panels(2, height=4.8, widths=(1.3, 1))
    left, right = axes[0]
    dims = "model_level", "data_level"
    few = loss.model_level <= loss.model_level.min() + MOST_LEVELS - 1
    ratio = (loss / bound).where(~diverged).transpose(*dims)
    shown, worse = ratio.sel(model_level=few), (loss > zero).transpose(*dims).sel(model_level=few)
    with np.errstate(invalid="ignore", divide="ignore"):
        left.imshow(np.log(shown), cmap="viridis_r", origin="lower", aspect="auto", alpha=0.55)
    for (i, j), value in np.ndenumerate(shown.to_numpy()):
        text = f"{value:.1f}" if value < 100 else "–"
        colour = "#a00000" if worse.to_numpy()[i, j] else "black"
        left.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)
    left.grid(False)
    for axis, name in (("x", "data_level"), ("y", "model_level")):
        getattr(left, f"set_{axis}ticks")(range(shown.sizes[name]), shown[name].to_numpy())
    left.tick_params(labelsize=8)
    title = "loss ÷ best possible loss"
    figures.label(left, "data level", "model level", title, xlog=False, ylog=False)
    _draw_converged(right, ratio, zero / bound)
    return figure


def _draw_converged(ax: Axes, ratio: xr.DataArray, zero: xr.DataArray) -> None:
    """Draw the multiples of runs that converged, a line for each data level."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, ratio.sizes["data_level"]))
    converged = ratio.dropna("model_level")
    at = converged.model_level.to_numpy()
    for d, colour in zip(ratio.data_level.to_numpy(), colours, strict=True):
        ax.plot(at, converged.sel(data_level=d), ".-", color=colour, lw=0.8, ms=4)
    edge = at[-1] + 0.6 if at.size else 1.0
    ax.scatter([edge] * zero.size, zero, color=colours, s=14)
    ax.axhline(1, color="0.3", lw=1.2)
    ax.annotate(
        "always 0",
        (edge, float(zero.max())),
        (0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
    )
    figures.label(ax, "model level", "loss ÷ best possible loss", "converged", xlog=False)
    ax.set_xticks(at)


def draw_responses(shares: dict[int, np.ndarray]) -> Figure:
    """Draw the share of a new gradient in the update by the steps since it changed."""
    figure, [[ax]] = figures.panels(1, width=6.5, height=4.0)
    for i, (levels, share) in enumerate(shares.items()):
        name = f"{levels} level{'' if levels == 1 else 's'}"
        figures.line(ax, np.arange(1, share.size + 1), share, i, name)
    figures.label(ax, "steps since the gradient changed", "share in the update", ylog=False)
    figures.legend(figure, ax, columns=3)
    return figure


def _log10(losses: xr.DataArray) -> np.ndarray:
    """Return the logarithms: inf for inf and NaN, -inf for zero."""
    with np.errstate(divide="ignore"):
        return np.log10(losses.fillna(np.inf).to_numpy())


def _gaps(logarithms: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(logarithms), logarithms, np.nan)


def _mark(
    ax: Axes, levels: np.ndarray, mask: np.ndarray, height: int, name: str, **style: Any
) -> None:
    """Mark levels with any True in `mask` at a height of the axes; the legend counts them."""
    marked = levels[mask.reshape(len(levels), -1).any(1)]
    if marked.size:
        style |= {"label": f"{name} ({mask.sum()} of {mask.size})", "ls": "", "clip_on": False}
        ax.plot(
            marked,
            np.full(marked.size, height),
            transform=ax.get_xaxis_transform(),
            zorder=3,
            **style,
        )


def _words(dim: str) -> str:
    return dim.replace("_", " ")


def _few(levels: np.ndarray) -> np.ndarray:
    return levels[:: -(-levels.size // MOST_TICKS)]
