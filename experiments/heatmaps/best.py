"""The best cell of a heatmap, by the geometric mean of its validation losses."""

import numpy as np
import xarray as xr
from jaxtyping import Float


def log_losses(results: xr.Dataset, metric: str = "validation_loss") -> Float[np.ndarray, "..."]:
    """Return the logarithms of losses, capped at guessing."""
    losses, guess = results[metric].values, results.attrs["guess"]
    with np.errstate(divide="ignore"):
        return np.log(np.where(losses < guess, losses, guess))


def best_cell(results: xr.Dataset) -> xr.Dataset:
    """Return all seeds of the cell with the smallest mean log validation loss."""
    mean = log_losses(results).mean(2)
    places = map(int, np.unravel_index(mean.argmin(), mean.shape))
    return results.isel(dict(zip(results.validation_loss.dims, places, strict=False)))
