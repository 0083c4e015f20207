"""Heat maps over two axes of a sweep; diverged cells have a scale of their own."""

from collections.abc import Hashable

import numpy as np

from nested_jax._core.extras import needs
from nested_jax.plots._drawing import (
    CONVERGED,
    MOST_TICKS,
    add_head,
    axes_of,
    check_dims,
    label_of,
    limits_of,
    log10,
    name_of,
)

with needs("nested_jax.plots", "sweep"):
    import matplotlib
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

# Reds without the palest third, which resembles the yellow end of viridis.
_REDS = matplotlib.colormaps["Reds"](np.linspace(0.3, 1.0, 256))
_DIVERGED = LinearSegmentedColormap.from_list("diverged", _REDS)


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
    logarithms = log10("losses", losses, (y, x))
    outside = np.zeros(logarithms.shape, bool)
    if diverged is not None:
        check_dims("diverged", diverged, (y, x))
        if diverged.dtype != bool:
            raise ValueError(f"`diverged` must be boolean, got {diverged.dtype}.")
        outside = _aligned("diverged", diverged, losses, (y, x))
    figure, ax = axes_of(ax, (6, 5))
    bars = []
    for name, mask, colours in [
        ("converged\n", np.isfinite(logarithms) & ~outside, CONVERGED),
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
    add_head(ax, handles, title)
    return figure


def _aligned(name, array, losses, dims):
    for dim in dims:
        if not np.array_equal(array[dim], losses[dim]):
            rule = f"`{name}` must have the coordinates of `losses` along {dim}"
            raise ValueError(f"{rule}, got {array[dim].to_numpy()}.")
    return array.transpose(*dims).to_numpy()


def _mesh(ax, values, mask, colours):
    shown = np.ma.masked_where(~mask, values)
    low, high = limits_of(shown.compressed())
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


def _ticks(axis, losses, dim):
    values = losses[dim].to_numpy()
    names = [name_of(value) for value in values]
    step = -(-len(names) // MOST_TICKS)
    axis.set_ticks(range(0, len(names), step), names[::step])
    axis.set_tick_params(length=2, labelsize=9)
    if axis.axis_name == "x" and sum(map(len, names[::step])) > 48:
        # The labels are too long to fit side by side.
        for text in axis.get_ticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    axis.set_label_text(label_of(losses, dim))
