"""Sweeps: a pure function at every point of a grid."""

from nested_jax.sweep._grid import Grid as Grid
from nested_jax.sweep._sweep import sweep as sweep
