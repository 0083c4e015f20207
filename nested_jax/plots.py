"""Figures of sweeps whose losses may have diverged.

Everything is drawn on `matplotlib.figure.Figure` objects, so pyplot's state and the global settings
do not change. Figures show log₁₀ of the losses on linear axes: losses may approach 1e308, where a
logarithmic axis of matplotlib overflows.
"""

import hashlib
import io
import os
import pathlib
import re
from collections.abc import Hashable, Sequence

import numpy as np

from nested_jax._core.checks import check_positive
from nested_jax._core.extras import needs
from nested_jax._core.files import check_path, write_file

with needs("nested_jax.plots", "sweep"):
    import matplotlib
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

_CONVERGED = matplotlib.colormaps["viridis"]
# Reds without the palest third, which resembles the yellow end of viridis.
_REDS = matplotlib.colormaps["Reds"](np.linspace(0.3, 1.0, 256))
_DIVERGED = LinearSegmentedColormap.from_list("diverged", _REDS)
_MOST_TICKS = 24
# No date and a fixed salt, so that the same figure gives the same bytes.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_SALT = "nested_jax"


def heatmap(
    losses: xr.DataArray,
    *,
    y: Hashable = "model_level",
    x: Hashable = "data_level",
    diverged: xr.DataArray | None = None,
    label: str = "mean loss",
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a heat map of log₁₀ `losses` over two axes of a sweep.

    Every grid point is one cell, and all cells have equal size. Diverged cells have a separate
    colour scale and an outline: on a common scale up to 1e77, the converged cells, which differ by
    a factor of ten, would look the same. A legend explains losses without a finite logarithm:
    infinite and NaN cells are grey and crossed out, zeros are white.

    Args:
        losses: Non-negative losses with the dimensions `y` and `x` in any order. The attributes
            ``long_name`` and ``units`` of the coordinates become axis labels.
        y: The dimension of the vertical axis.
        x: The dimension of the horizontal axis.
        diverged: Boolean mask of diverged cells, with the coordinates of `losses`. By default, no
            cell has diverged and all share one scale.
        label: Name of the losses, for the colour bar.
        title: Title of the axes.
        ax: Axes to draw in; by default, those of a new figure of 6 × 5 inches.

    Returns:
        The figure that contains the axes. A notebook draws it as the result of a cell once
        ``%matplotlib inline`` has run.

    Raises:
        TypeError: If an array is not an `xarray.DataArray`.
        ValueError: If `losses` has other dimensions or a negative value, or `diverged` is not
            boolean or has other dimensions or coordinates.
    """
    logarithms = _log10("losses", losses, (y, x))
    outside = np.zeros(logarithms.shape, bool)
    if diverged is not None:
        _check_dims("diverged", diverged, (y, x))
        if diverged.dtype != bool:
            raise ValueError(f"`diverged` must be boolean, got {diverged.dtype}.")
        outside = _aligned("diverged", diverged, losses, (y, x))
    figure, ax = _axes(ax, (6, 5))
    bars = []
    for name, mask, colours in [
        ("converged\n", np.isfinite(logarithms) & ~outside, _CONVERGED),
        ("diverged\n", np.isfinite(logarithms) & outside, _DIVERGED),
    ]:
        if mask.any():
            bars.append((name if outside.any() else "", _mesh(ax, logarithms, mask, colours)))
    height = 1 if len(bars) == 1 else 0.485
    for (name, mesh), bottom in zip(bars, (0, 1 - height), strict=False):
        place = ax.inset_axes((1.03, bottom, 0.045, height))
        figure.colorbar(mesh, cax=place, label=f"{name}log₁₀ {label}")

    handles = []
    for name, mask, colour, hatch in [
        ("not finite", logarithms == np.inf, "0.6", "xx"),
        ("zero", logarithms == -np.inf, "white", ""),
    ]:
        if mask.any():
            _mesh(ax, np.zeros(mask.shape), mask, ListedColormap([colour]))
            text = f"{name} ({mask.sum()})"
            handles.append(Patch(fc=colour, ec="0.3", lw=0.6, hatch=hatch, label=text))
            if hatch:  # Some readers cannot tell grey from the middle of viridis.
                ax.add_collection(LineCollection(_crosses(mask), colors="0.3", lw=0.6))
    if outside.any() and not outside.all():
        ax.add_collection(LineCollection(_border(outside), colors="black", lw=1.8))
        handles.append(Line2D([], [], color="black", lw=1.8, label="edge of divergence"))
    _ticks(ax.yaxis, losses, y)
    _ticks(ax.xaxis, losses, x)
    _head(ax, handles, title)
    return figure


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
    figure, ax = _axes(ax, (7, 4.5))
    finite = np.isfinite(logarithms)
    low, high = _limits(logarithms[finite])
    heights = []
    for x, column in enumerate(columns):
        values, at = _positions(column)
        heights.append((at + 0.5) / len(values))
        step = -(-len(values) // (_MOST_TICKS // 2))
        for i in range(0, len(values), step):
            _mark(ax, x, (i + 0.5) / len(values), _name(values[i]))
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
    mesh = LineCollection([*lines.T[coloured]], array=logarithms[coloured], cmap=_CONVERGED, lw=1)
    mesh.set_clim(low, high)
    ax.add_collection(mesh)
    words = [*(_label(results, name) for name in names), f"log₁₀ {_label(results, by)}"]
    ax.set_xticks(range(len(words)), words)
    ax.vlines(range(len(words)), 0, 1, color="0.3", lw=0.8)
    ax.set(xlim=(-0.25, len(names) + 0.25), ylim=(-0.08, 1.08), yticks=[])
    ax.tick_params(axis="x", length=0)
    ax.spines[:].set_visible(False)
    _head(ax, _counts(logarithms), title)
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
    figure = Figure(figsize=(max(2.6 * len(names), 3.5), 3), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    finite = np.isfinite(logarithms)
    for ax, name, column in zip(panels, names, columns, strict=True):
        values, at = _positions(column)
        best = np.full(len(values), np.inf)
        np.minimum.at(best, at[finite], logarithms[finite])
        ax.plot(at[finite], logarithms[finite], ".", color="0.6", ms=4)
        shown = np.flatnonzero(np.isfinite(best))
        ax.plot(shown, best[shown], "o-", color=_CONVERGED(0.25), ms=4, lw=1.2)
        step = -(-len(values) // 6)
        ax.set_xticks(range(0, len(values), step), [_name(v) for v in values[::step]])
        for text in ax.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
        ax.set_xlim(-0.5, len(values) - 0.5)
        ax.set_xlabel(_label(results, name))
    panels[0].set_ylabel(f"log₁₀ {_label(results, by)}")
    counts = _counts(logarithms)
    if counts:
        figure.legend(handles=counts, loc="outside upper left", frameon=False, fontsize=9)
    if title is not None:
        figure.suptitle(title)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150.0) -> None:
    """Write `figure` to `path` atomically.

    Args:
        figure: The figure to write.
        path: A path that ends in ``.png`` or ``.svg``, which sets the format. The figure is written
            to a temporary file in the same folder, which is then renamed.
        dpi: Dots per inch of a PNG.

    Raises:
        TypeError: If `figure` is not a figure.
        ValueError: If `path` has another ending, or `dpi` is not positive.
        FileNotFoundError: If the folder does not exist.
    """
    _check_figure(figure)
    check_positive("dpi", dpi)
    check_path("path", path)
    path = pathlib.Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"`path` must end in .png or .svg, got {str(path)!r}.")
    metadata, file = _NO_METADATA if kind == "svg" else None, io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": _SALT}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    write_file(path, file.getvalue())


def to_svg(figure: Figure) -> str:
    """Return `figure` as an ``<svg>`` element for an HTML page, with its text kept as text.

    The ids contain a digest of the drawing, so the ids of different figures on a page do not clash
    and the same figure always gives the same element.

    Raises:
        TypeError: If `figure` is not a figure.
    """
    _check_figure(figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": _SALT}):
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = f"f{hashlib.sha256(svg.encode()).hexdigest()[:12]}-"
    # Replace within tags only: the text of a title may look like an id.
    return re.sub(
        r"<[^>]+>",
        lambda tag: re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", tag.group()),
        svg,
    )


def _check_figure(figure):
    if not isinstance(figure, Figure):
        raise TypeError(f"`figure` must be a matplotlib Figure, got {figure!r}.")


def _log10(name, losses, dims):
    """Return log₁₀ `losses` with the axes `dims`: inf for inf and NaN, -inf for zero."""
    _check_dims(name, losses, dims)
    if losses.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must hold real numbers, got {losses.dtype}.")
    values = losses.transpose(*dims).to_numpy().astype(np.float64)
    if not values.size:
        raise ValueError(f"`{name}` must not be empty, got shape {values.shape}.")
    if (values < 0).any():
        raise ValueError(f"`{name}` must not be negative, got {np.nanmin(values)}.")
    with np.errstate(divide="ignore"):
        return np.log10(np.where(np.isnan(values), np.inf, values))


def _check_dims(name, array, dims):
    if not hasattr(array, "dims"):
        kind = type(array).__name__
        raise TypeError(f"`{name}` must be an xarray.DataArray, as `sweep` makes it, got a {kind}.")
    if sorted(map(str, array.dims)) != sorted(map(str, dims)):
        raise ValueError(f"`{name}` must have the dimensions {dims}, got {array.dims}.")


def _aligned(name, array, losses, dims):
    for dim in dims:
        if not np.array_equal(array[dim], losses[dim]):
            rule = f"`{name}` must have the coordinates of `losses` along {dim}"
            raise ValueError(f"{rule}, got {array[dim].to_numpy()}.")
    return array.transpose(*dims).to_numpy()


def _axes(ax, size):
    if ax is not None:
        if not isinstance(ax, Axes):
            raise TypeError(f"`ax` must be matplotlib Axes, got {ax!r}.")
        return ax.figure.canvas.figure, ax
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _limits(values):
    """Return the ends of a colour scale, which differ even if all values are equal."""
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


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
    logarithms = _log10(str(by), losses, losses.dims)
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


def _mesh(ax, values, mask, colours):
    shown = np.ma.masked_where(~mask, values)
    low, high = _limits(shown.compressed())
    edges = [np.arange(n + 1) - 0.5 for n in reversed(values.shape)]
    # Edges in the face colour close the hairlines that SVG viewers leave between cells.
    return ax.pcolormesh(*edges, shown, cmap=colours, vmin=low, vmax=high, ec="face", lw=0.2)


def _border(mask):
    """Return the line segments between cells inside and outside `mask`."""
    across = np.add(np.argwhere(mask[1:] != mask[:-1]), (0.5, -0.5))
    upwards = np.add(np.argwhere(mask[:, 1:] != mask[:, :-1]), (-0.5, 0.5))
    segments = [((j, i), (j + 1, i)) for i, j in across]
    return segments + [((j, i), (j, i + 1)) for i, j in upwards]


def _crosses(mask):
    """Return both diagonals of every cell in `mask`."""
    corners = np.argwhere(mask) - 0.5
    rising = [((j, i), (j + 1, i + 1)) for i, j in corners]
    return rising + [((j + 1, i), (j, i + 1)) for i, j in corners]


def _head(ax, handles, title):
    """Put the legend above the axes, where it covers nothing, and the title above the legend."""
    points = 6
    if handles:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}
        legend = ax.legend(handles=handles, **place, frameon=False, borderaxespad=0.3, fontsize=9)
        points += 72 / ax.figure.dpi * legend.get_window_extent().height
    if title is not None:
        ax.set_title(title, pad=points)


def _name(value):
    return f"{value:.4g}" if isinstance(value, np.floating) else str(value)


def _ticks(axis, losses, dim):
    values = losses[dim].to_numpy()
    names = [_name(value) for value in values]
    step = -(-len(names) // _MOST_TICKS)
    axis.set_ticks(range(0, len(names), step), names[::step])
    axis.set_tick_params(length=2, labelsize=9)
    if axis.axis_name == "x" and sum(map(len, names[::step])) > 48:
        # The labels are too long to fit side by side.
        for text in axis.get_ticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    axis.set_label_text(_label(losses, dim))


def _label(losses, dim):
    attributes = losses[dim].attrs
    name = attributes.get("long_name", str(dim).replace("_", " "))
    return f"{name} [{attributes['units']}]" if "units" in attributes else name
