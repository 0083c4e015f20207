"""Sweeps: a pure function at every point of a grid."""

from nested_jax.sweep._axes import zipped as zipped
from nested_jax.sweep._folds import fold_masks as fold_masks
from nested_jax.sweep._folds import split as split
from nested_jax.sweep._grid import Grid as Grid
from nested_jax.sweep._ranges import linear as linear
from nested_jax.sweep._ranges import log_uniform as log_uniform
from nested_jax.sweep._ranges import logarithmic as logarithmic
from nested_jax.sweep._ranges import powers_of_two as powers_of_two
from nested_jax.sweep._ranges import uniform as uniform
from nested_jax.sweep._ray import RayWorkers as RayWorkers
from nested_jax.sweep._results import best as best
from nested_jax.sweep._results import load as load
from nested_jax.sweep._results import save as save
from nested_jax.sweep._sweep import sweep as sweep
