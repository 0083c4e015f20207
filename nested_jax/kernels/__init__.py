"""Training runs as GPU kernels that contain the loop over time."""

from nested_jax.kernels._regression import RegressionRollout as RegressionRollout
from nested_jax.kernels._regression import regression_rollout as regression_rollout
