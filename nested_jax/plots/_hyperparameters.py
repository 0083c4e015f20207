"""Every run of a sweep by its hyperparameters: lines across parallel axes, or a panel each."""

from collections.abc import Hashable, Sequence

import numpy as np

from nested_jax._core.extras import needs
from nested_jax.plots._drawing import (
    CONVERGED,
    MOST_TICKS,
    add_head,
    axes_of,
    label_of,
    limits_of,
    log10,
    name_of,
)

with needs("nested_jax.plots", "sweep"):
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


def parallel_coordinates(
    results: xr.Dataset,
    by: Hashable,
    *,
    over: str | Sequence[str] = (),
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw every run as a line across its hyperparameters, coloured by log₁₀ of a result.

    Each hyperparameter has a vertical axis with its values at equal distances in their order, and
    the last axis is log₁₀ of the result. The smallest results are drawn last, on top. Runs that are
    not finite are grey and end above the last axis; zeros end below it.

    Args:
        results: A dataset as `sweep` returns it. Mask diverged runs that are finite, which stretch
            the scale: ``results.where(results.loss < 50)``.
        by: Name of a non-negative result with one number per run.
        over: Axes to average over, such as seeds. A mean over a value that is not finite is not
            finite.
        title: Title of the axes.
        ax: Axes to draw in; by default, those of a new figure of 7 × 4.5 inches.

    Returns:
        The figure that contains the axes.

    Raises:
        TypeError: If `results` is not a dataset.
        ValueError: If `by` is not such a result, or `over` does not name axes.
    """
    logarithms, names, columns = _points(results, by, over)
    figure, ax = axes_of(ax, (7, 4.5))
    finite = np.isfinite(logarithms)
    low, high = limits_of(logarithms[finite])
    heights = []
    for x, column in enumerate(columns):
        values, at = _positions(column)
        heights.append((at + 0.5) / len(values))
        step = -(-len(values) // (MOST_TICKS // 2))
        for i in range(0, len(values), step):
            _mark(ax, x, (i + 0.5) / len(values), name_of(values[i]))
    # Not finite above the axis, zeros below.
    heights.append(np.where(finite, (logarithms - low) / (high - low), logarithms))
    heights[-1] = np.clip(heights[-1], -0.06, 1.06)
    for value in (low, (low + high) / 2, high):
        _mark(ax, len(names), (value - low) / (high - low), f"{value:.3g}")
    lines = np.stack(
        [np.broadcast_to(np.arange(len(heights))[:, None], np.shape(heights)), heights]
    )
    order = np.argsort(-logarithms, kind="stable")
    grey, coloured = order[~finite[order]], order[finite[order]]
    ax.add_collection(LineCollection([*lines.T[grey]], colors="0.75", lw=0.7))
    mesh = LineCollection([*lines.T[coloured]], array=logarithms[coloured], cmap=CONVERGED, lw=1)
    mesh.set_clim(low, high)
    ax.add_collection(mesh)
    words = [*(label_of(results, name) for name in names), f"log₁₀ {label_of(results, by)}"]
    ax.set_xticks(range(len(words)), words)
    ax.vlines(range(len(words)), 0, 1, color="0.3", lw=0.8)
    ax.set(xlim=(-0.25, len(names) + 0.25), ylim=(-0.08, 1.08), yticks=[])
    ax.tick_params(axis="x", length=0)
    ax.spines[:].set_visible(False)
    add_head(ax, _counts(logarithms), title)
    return figure


def hyperparameters(
    results: xr.Dataset,
    by: Hashable,
    *,
    over: str | Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Draw log₁₀ of a result against each hyperparameter: a panel each, a dot per run.

    The line joins the best run at each value. A hyperparameter with a flat line does not matter
    once the others are tuned.

    Args:
        results: A dataset as `sweep` returns it. Mask diverged runs that are finite, which stretch
            the scale: ``results.where(results.loss < 50)``.
        by: Name of a non-negative result with one number per run.
        over: Axes to average over, such as seeds. A mean over a value that is not finite is not
            finite. Such runs, and zeros, are counted in the legend and have no dot.
        title: Title of the figure.

    Returns:
        A figure that is 2.6 inches wide per hyperparameter and 3 inches high.

    Raises:
        TypeError: If `results` is not a dataset.
        ValueError: If `by` is not such a result, or `over` does not name axes.
    """
    logarithms, names, columns = _points(results, by, over)
    if not names:
        raise ValueError(f"`over` must leave an axis, got {over!r}.")
    figure = Figure(figsize=(max(2.6 * len(names), 3.5), 3), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    finite = np.isfinite(logarithms)
    for ax, name, column in zip(panels, names, columns, strict=True):
        values, at = _positions(column)
        best = np.full(len(values), np.inf)
        np.minimum.at(best, at[finite], logarithms[finite])
        ax.plot(at[finite], logarithms[finite], ".", color="0.6", ms=4)
        shown = np.flatnonzero(np.isfinite(best))
        ax.plot(shown, best[shown], "o-", color=CONVERGED(0.25), ms=4, lw=1.2)
        step = -(-len(values) // 6)
        ax.set_xticks(range(0, len(values), step), [name_of(v) for v in values[::step]])
        for text in ax.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
        ax.set_xlim(-0.5, len(values) - 0.5)
        ax.set_xlabel(label_of(results, name))
    panels[0].set_ylabel(f"log₁₀ {label_of(results, by)}")
    counts = _counts(logarithms)
    if counts:
        figure.legend(handles=counts, loc="outside upper left", frameon=False, fontsize=9)
    if title is not None:
        figure.suptitle(title)
    return figure


def _points(results, by, over):
    """Return log₁₀ of the result at every point, the varying hyperparameters and their values."""
    if not hasattr(results, "data_vars"):
        kind = type(results).__name__
        raise TypeError(f"`results` must be a dataset, as `sweep` returns it, got a {kind}.")
    if by not in results.data_vars:
        raise ValueError(f"`by` must be one of {[*results.data_vars]}, got {by!r}.")
    losses = results[by]
    over = [over] if isinstance(over, str) else [*over]
    for name in over:
        if name not in losses.dims:
            raise ValueError(f"`over` must be axes of {losses.dims}, got {name!r}.")
    axes = results.attrs.get("axes", losses.dims)
    if not {*losses.dims} <= {*axes}:
        raise ValueError(f"`by` must be a number a run, got dimensions {losses.dims}.")
    losses = losses.mean(over, skipna=False) if over else losses
    logarithms = log10(str(by), losses, losses.dims)
    names, columns = [], []
    for dim in losses.dims:
        # The columns of a zipped axis; its own coordinate only counts the points.
        own = [name for name, c in losses.coords.items() if c.dims == (dim,) and name != dim]
        for name in own or [dim]:
            names.append(name)
            shape = [-1 if other == dim else 1 for other in losses.dims]
            column = np.broadcast_to(losses[name].to_numpy().reshape(shape), losses.shape)
            columns.append(column.ravel())
    return logarithms.ravel(), names, columns


def _positions(column):
    """Return the distinct values of a column in order, and the number of each entry among them."""
    if column.dtype.kind in "iufb":
        return np.unique(column, return_inverse=True)
    values = [*dict.fromkeys(column.tolist())]  # Words keep the order of the grid.
    return np.asarray(values), np.asarray([values.index(value) for value in column.tolist()])


def _mark(ax, x, y, text):
    """Write a value beside an axis of parallel coordinates."""
    box = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6}
    ax.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8, bbox=box)


def _counts(logarithms):
    """Return legend entries that count the runs without a finite logarithm."""
    kinds = {"not finite": logarithms == np.inf, "zero": logarithms == -np.inf}
    return [
        Line2D([], [], color="0.75", label=f"{name} ({mask.sum()})")
        for name, mask in kinds.items()
        if mask.any()
    ]
