"""Problems, as four functions: init, draw, observe and loss."""

from nested_jax.problems._classification import ClassificationBatch as ClassificationBatch
from nested_jax.problems._classification import classification as classification
from nested_jax.problems._drifting_regression import (
    DriftingRegressionDraws as DriftingRegressionDraws,
)
from nested_jax.problems._drifting_regression import (
    DriftingRegressionWorld as DriftingRegressionWorld,
)
from nested_jax.problems._drifting_regression import RegressionBatch as RegressionBatch
from nested_jax.problems._drifting_regression import drifting_regression as drifting_regression
from nested_jax.problems._folds import held_out_masks as held_out_masks
from nested_jax.problems._folds import split_indices as split_indices
from nested_jax.problems._online import OnlineBatch as OnlineBatch
from nested_jax.problems._online import OnlineWorld as OnlineWorld
from nested_jax.problems._online import online_convex as online_convex
from nested_jax.problems._problem import Problem as Problem
from nested_jax.problems._quadratic import quadratic as quadratic
