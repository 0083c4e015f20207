"""Figures of sweeps whose losses may have diverged: heat maps and curves.

All is drawn on `matplotlib.figure.Figure` objects: pyplot's state and the global settings stay as
they are. Losses are shown by their decimal logarithm, on linear axes: they may near 1e308, where
a logarithmic axis of matplotlib overflows.
"""

import hashlib
import io
import os
import pathlib
import re
from collections.abc import Hashable

import numpy as np

from nested_jax._core.extras import needs
from nested_jax._core.files import write

with needs("nested_jax.plots", "sweep"):
    import matplotlib
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from scipy.special import stdtrit

_CONVERGED = matplotlib.colormaps["viridis"]
# Reds without their palest third, which would pass for the yellow end of viridis.
_REDS = matplotlib.colormaps["Reds"](np.linspace(0.3, 1.0, 256))
_DIVERGED = LinearSegmentedColormap.from_list("diverged", _REDS)
_PREDICTED = "#d55e00"  # Vermilion of Okabe and Ito, far from all of viridis.
_MOST_TICKS = 24
# No date and fixed salt: the same figure gives the same bytes.
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
    """Draw `losses` over two axes of a sweep, coloured by their decimal logarithm.

    Every grid point is one cell of equal size, labelled with its coordinate. Diverged cells have a
    colour scale of their own and an outline: on one scale up to 1e77 the converged ones, which
    differ by a factor of ten, would all look alike. Losses without a logarithm are told apart in
    a legend: infinite and NaN ones are grey and crossed out, zeros white.

    Args:
        losses: Non-negative, with the dimensions `y` and `x` in any order. Attributes
            ``long_name`` and ``units`` of the coordinates become axis labels.
        y: The dimension drawn upwards.
        x: The dimension drawn to the right.
        diverged: Which cells diverged, boolean, with the coordinates of `losses`; by default
            none, and all cells share one scale.
        label: What the losses are, for the colour bar.
        title: Title of the axes.
        ax: Axes to draw in; by default those of a new figure of 6 × 5 inches.

    Returns:
        The figure drawn in.

    Raises:
        TypeError: If an array is no `xarray.DataArray`.
        ValueError: If `losses` has other dimensions or a negative value, or `diverged` is not
            boolean or has other dimensions or coordinates.
    """
    logarithms = _log10("losses", losses, (y, x))
    outside = np.zeros(logarithms.shape, bool)
    if diverged is not None:
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
            if hatch:  # Grey alone passes for the middle of viridis in some eyes.
                ax.add_collection(LineCollection(_crosses(mask), colors="0.3", lw=0.6))
    if outside.any() and not outside.all():
        ax.add_collection(LineCollection(_border(outside), colors="black", lw=1.8))
        handles.append(Line2D([], [], color="black", lw=1.8, label="edge of divergence"))
    _ticks(ax.yaxis, losses, y)
    _ticks(ax.xaxis, losses, x)
    _head(ax, handles, title, columns=3)
    return figure


def loss_by_level(
    losses: xr.DataArray,
    *,
    level: Hashable = "model_level",
    over: Hashable = "data_level",
    seed: Hashable = "seed",
    predicted: xr.DataArray | None = None,
    label: str = "mean loss",
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the decimal logarithm of `losses` against `level`: a thin line per `over`, a bold one.

    The bold line is the median over `over`, where infinite and NaN losses rank last. With several
    seeds every line is the mean over seeds of the logarithm, and the bold one has bars: the 95 %
    t interval of that mean. Where a mean or median is not finite or zero, its line has a gap; the
    levels of such losses are marked at the upper or lower edge, and the legend counts them.

    Args:
        losses: Non-negative, with the dimensions `level` and `over` and perhaps `seed`, in any
            order. Attributes ``long_name`` and ``units`` of the coordinates become labels.
        level: The dimension drawn to the right, its values at equal distances.
        over: The dimension of the thin lines.
        seed: The dimension to average over.
        predicted: Predicted losses along `level`, or along `level` and `over`, of which the
            median over `over` is drawn, dashed; with the coordinates of `losses`.
        label: What the losses are, for the vertical axis.
        title: Title of the axes.
        ax: Axes to draw in; by default those of a new figure of 6 × 4 inches.

    Returns:
        The figure drawn in.

    Raises:
        TypeError: If an array is no `xarray.DataArray`.
        ValueError: If `losses` or `predicted` has other dimensions, other coordinates or a
            negative value.
    """
    seeded = seed in getattr(losses, "dims", ())
    logarithms = _log10("losses", losses, (level, over, seed) if seeded else (level, over))
    logarithms = logarithms if seeded else logarithms[..., None]
    figure, ax = _axes(ax, (6, 4))
    places, seeds = np.arange(len(logarithms)), logarithms.shape[2]
    colours = _CONVERGED(np.linspace(0, 0.9, logarithms.shape[1]))
    # Infinite and zero losses of one mean or median cancel to NaN: a gap, as for each of them.
    with np.errstate(invalid="ignore"):
        lines, medians = logarithms.mean(axis=2), np.median(logarithms, axis=1)
        middle, bars = medians.mean(axis=1), None
        text = f"median over {_label(losses, over)}"
        if seeds > 1:
            text = f"mean over {seeds} seeds of the {text}\n(bars: its 95 % interval, of log₁₀)"
            quantile = stdtrit(seeds - 1, 0.975)
            bars = _gaps(quantile * medians.std(axis=1, ddof=1) / np.sqrt(seeds))
    for line, colour in zip(lines.T, colours, strict=True):
        ax.plot(places, _gaps(line), ".-", color=colour, lw=0.7, ms=3)
    ax.errorbar(places, _gaps(middle), bars, color="black", lw=2.2, capsize=3, label=text)
    _mark(ax, logarithms == np.inf, 1, "not finite", marker="^", color="0.3", ms=6)
    _mark(ax, logarithms == -np.inf, 0, "zero", marker="v", color="0.3", ms=6)
    if predicted is not None:
        dims = (level, over) if over in predicted.dims else (level,)
        _aligned("predicted", predicted, losses, dims)
        median = np.median(_log10("predicted", predicted, dims).reshape(len(places), -1), axis=1)
        ax.plot(places, _gaps(median), "--", color=_PREDICTED, lw=2, label="predicted")
        hollow = {"marker": "^", "color": _PREDICTED, "mfc": "none", "ms": 10}
        _mark(ax, median == np.inf, 1, "predicted not finite", **hollow)

    norm = BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    scale = ScalarMappable(norm, ListedColormap(colours))
    bar = figure.colorbar(scale, cax=ax.inset_axes((1.02, 0, 0.03, 1)))
    bar.minorticks_off()
    _ticks(bar.ax.yaxis, losses, over)
    _ticks(ax.xaxis, losses, level)
    ax.set_ylabel(f"log₁₀ {label}")
    ax.set_xlim(-0.5, len(places) - 0.5)
    ax.grid(axis="y", lw=0.4)
    _head(ax, ax.get_legend_handles_labels()[0], title, columns=2)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150.0) -> None:
    """Write `figure` to `path`, whole or not at all.

    Args:
        figure: What to write.
        path: Ends in ``.png`` or ``.svg``, which decides the format. The file is written aside in
            the same folder and renamed.
        dpi: Dots per inch of a PNG.

    Raises:
        ValueError: If `path` ends otherwise.
        FileNotFoundError: If there is no such folder.
    """
    path = pathlib.Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"`path` must end in .png or .svg, got {str(path)!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`path` must be in a folder that exists, got {str(path)!r}.")
    metadata, file = _NO_METADATA if kind == "svg" else None, io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": _SALT}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    write(path, file.getvalue())


def to_svg(figure: Figure) -> str:
    """Return `figure` as an ``<svg>`` element for a page of HTML, its text kept as text.

    The ids hold a digest of the drawing, so that different figures of one page do not clash and
    the same figure gives the same element.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": _SALT}):
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = f"f{hashlib.sha256(svg.encode()).hexdigest()[:12]}-"
    # Only within tags: the text of a title may look like an id.
    return re.sub(
        r"<[^>]+>",
        lambda tag: re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", tag.group()),
        svg,
    )


def _log10(name, losses, dims):
    """Return the logarithms with the axes `dims`: inf for NaN too, -inf for zero."""
    _check_dims(name, losses, dims)
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
    _check_dims(name, array, dims)
    for dim in dims:
        if not np.array_equal(array[dim], losses[dim]):
            rule = f"`{name}` must have the coordinates of `losses` along {dim}"
            raise ValueError(f"{rule}, got {array[dim].to_numpy()}.")
    return array.transpose(*dims).to_numpy()


def _axes(ax, size):
    if ax is not None:
        return ax.figure.canvas.figure, ax
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _mesh(ax, values, mask, colours):
    shown = np.ma.masked_where(~mask, values)
    low, high = shown.min(), shown.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = [np.arange(n + 1) - 0.5 for n in reversed(values.shape)]
    # Edges in the colour of the face close the hairlines that SVG viewers leave between cells.
    return ax.pcolormesh(*edges, shown, cmap=colours, vmin=low, vmax=high, ec="face", lw=0.2)


def _border(mask):
    """Return the segments between cells inside and outside `mask`."""
    across = np.add(np.argwhere(mask[1:] != mask[:-1]), (0.5, -0.5))
    upwards = np.add(np.argwhere(mask[:, 1:] != mask[:, :-1]), (-0.5, 0.5))
    segments = [((j, i), (j + 1, i)) for i, j in across]
    return segments + [((j, i), (j, i + 1)) for i, j in upwards]


def _crosses(mask):
    """Return both diagonals of every cell in `mask`."""
    corners = np.argwhere(mask) - 0.5
    rising = [((j, i), (j + 1, i + 1)) for i, j in corners]
    return rising + [((j + 1, i), (j, i + 1)) for i, j in corners]


def _gaps(logarithms):
    return np.where(np.isfinite(logarithms), logarithms, np.nan)


def _mark(ax, mask, height, name, **style):
    """Mark the places with any of `mask` at a height of the axes, and count in the legend."""
    places = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
    if len(places):
        style |= {"label": f"{name} ({mask.sum()} of {mask.size})", "ls": "", "clip_on": False}
        heights, transform = np.full(len(places), height), ax.get_xaxis_transform()
        ax.plot(places, heights, transform=transform, zorder=3, **style)


def _head(ax, handles, title, columns):
    """Put the legend above the axes, where it hides nothing, and the title above that."""
    points = 6
    if handles:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns}
        legend = ax.legend(handles=handles, **place, frameon=False, borderaxespad=0.3, fontsize=9)
        points += 72 / ax.figure.dpi * legend.get_window_extent().height
    if title is not None:
        ax.set_title(title, pad=points)


def _ticks(axis, losses, dim):
    values = losses[dim].to_numpy()
    names = [f"{v:.4g}" if isinstance(v, np.floating) else str(v) for v in values]
    step = -(-len(names) // _MOST_TICKS)
    axis.set_ticks(range(0, len(names), step), names[::step])
    axis.set_tick_params(length=2, labelsize=9)
    if axis.axis_name == "x" and sum(map(len, names[::step])) > 48:
        # Too long to stand side by side.
        for text in axis.get_ticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    axis.set_label_text(_label(losses, dim))


def _label(losses, dim):
    attributes = losses[dim].attrs
    name = attributes.get("long_name", str(dim).replace("_", " "))
    return f"{name} [{attributes['units']}]" if "units" in attributes else name
