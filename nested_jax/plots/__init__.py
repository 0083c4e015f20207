"""Figures of sweeps whose losses may have diverged.

Everything is drawn on `matplotlib.figure.Figure` objects, so pyplot's state and the global settings
do not change. Figures show log₁₀ of the losses on linear axes: losses may approach 1e308, where a
logarithmic axis of matplotlib overflows.
"""

from nested_jax.plots._files import save as save
from nested_jax.plots._files import to_svg as to_svg
from nested_jax.plots._heatmap import heatmap as heatmap
from nested_jax.plots._hyperparameters import hyperparameters as hyperparameters
from nested_jax.plots._hyperparameters import parallel_coordinates as parallel_coordinates
