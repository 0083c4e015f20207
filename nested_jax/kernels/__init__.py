"""Runs as GPU kernels with the loop over time inside."""

from nested_jax.kernels._regression import RegressionTrace as RegressionTrace
from nested_jax.kernels._regression import regression_rollout as regression_rollout
