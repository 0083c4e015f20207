"""The points of a sweep: axes, ranges, grids, and validation of their values."""

from nested_jax.sweeps.grid._axes import Axis as Axis
from nested_jax.sweeps.grid._axes import label as label
from nested_jax.sweeps.grid._axes import plain as plain
from nested_jax.sweeps.grid._axes import zipped as zipped
from nested_jax.sweeps.grid._grid import Grid as Grid
from nested_jax.sweeps.grid._grid import check_grid as check_grid
from nested_jax.sweeps.grid._grid import restricted as restricted
from nested_jax.sweeps.grid._ranges import log_uniform as log_uniform
from nested_jax.sweeps.grid._ranges import powers_of_two as powers_of_two
from nested_jax.sweeps.grid._validation import check_distinct as check_distinct
from nested_jax.sweeps.grid._validation import check_values as check_values
from nested_jax.sweeps.grid._validation import column_in_jax as column_in_jax
