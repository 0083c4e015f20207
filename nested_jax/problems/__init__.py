"""Problems: init, draw, observe, loss."""

from nested_jax.problems._drifting_regression import (
    DriftingRegressionDraws as DriftingRegressionDraws,
)
from nested_jax.problems._drifting_regression import (
    DriftingRegressionWorld as DriftingRegressionWorld,
)
from nested_jax.problems._drifting_regression import RegressionBatch as RegressionBatch
from nested_jax.problems._drifting_regression import drifting_regression as drifting_regression
from nested_jax.problems._problem import Problem as Problem
