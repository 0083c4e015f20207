"""Runs as GPU kernels with the loop over time inside."""

from nested_jax.kernels._regression import RegressionRollout as RegressionRollout
from nested_jax.kernels._regression import regression_rollout as regression_rollout
