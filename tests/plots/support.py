"""What the tests of figures share: losses to draw, and the text of a legend."""

import numpy as np
import xarray as xr

RTOL = 1e-12  # One logarithm, a mean and a median of float64: a few roundings.


def sweep(shape=(4, 3)):
    """Return losses from 0.01 to 1e77, growing along model_level."""
    rng = np.random.default_rng(0)
    exponents = np.linspace(-2, 77, shape[0])[:, None] + rng.uniform(0, 0.5, shape)
    dims, coords = ["model_level", "data_level"], [np.arange(1, n + 1) for n in shape]
    return xr.DataArray(10**exponents, list(zip(dims, coords, strict=True)))


def legend(figure):
    box = figure.axes[0].get_legend()
    return [text.get_text() for text in box.get_texts()] if box else []
