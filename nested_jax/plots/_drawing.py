"""What the figures share: checked losses, colour scales, labels, legends."""

import numpy as np

from nested_jax._core.extras import needs

with needs("nested_jax.plots", "sweep"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONVERGED = matplotlib.colormaps["viridis"]
MOST_TICKS = 24


def log10(name, losses, dims):
    """Return log₁₀ `losses` with the axes `dims`: inf for inf and NaN, -inf for zero."""
    check_dims(name, losses, dims)
    if losses.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must hold real numbers, got {losses.dtype}.")
    values = losses.transpose(*dims).to_numpy().astype(np.float64)
    if not values.size:
        raise ValueError(f"`{name}` must not be empty, got shape {values.shape}.")
    if (values < 0).any():
        raise ValueError(f"`{name}` must not be negative, got {np.nanmin(values)}.")
    with np.errstate(divide="ignore"):
        return np.log10(np.where(np.isnan(values), np.inf, values))


def check_dims(name, array, dims):
    """Raise unless `array` is labelled and has the dimensions `dims`, in any order."""
    if not hasattr(array, "dims"):
        kind = type(array).__name__
        raise TypeError(f"`{name}` must be an xarray.DataArray, as `sweep` makes it, got a {kind}.")
    if sorted(map(str, array.dims)) != sorted(map(str, dims)):
        raise ValueError(f"`{name}` must have the dimensions {dims}, got {array.dims}.")


def axes_of(ax, size):
    """Return the figure and the axes to draw in: those given, or new ones of a size in inches."""
    if ax is not None:
        if not isinstance(ax, Axes):
            raise TypeError(f"`ax` must be matplotlib Axes, got {ax!r}.")
        return ax.figure.canvas.figure, ax
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def limits_of(values):
    """Return the ends of a colour scale, which differ even if all values are equal."""
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def add_head(ax, handles, title):
    """Put the legend above the axes, where it covers nothing, and the title above the legend."""
    points = 6
    if handles:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}
        legend = ax.legend(handles=handles, **place, frameon=False, borderaxespad=0.3, fontsize=9)
        points += 72 / ax.figure.dpi * legend.get_window_extent().height
    if title is not None:
        ax.set_title(title, pad=points)


def name_of(value):
    """Return the text of a value of an axis."""
    return f"{value:.4g}" if isinstance(value, np.floating) else str(value)


def label_of(losses, dim):
    """Return the text of an axis: its long name, else its name, and its unit."""
    attributes = losses[dim].attrs
    name = attributes.get("long_name", str(dim).replace("_", " "))
    return f"{name} [{attributes['units']}]" if "units" in attributes else name
