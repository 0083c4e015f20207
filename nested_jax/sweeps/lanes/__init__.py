"""Lanes: an alternative to `jax.vmap` that puts the runs on the last axis of every array.

It is faster on CPU for long loops over small arrays. `sweep(..., layout="vmap")` does not use it.
"""

from nested_jax.sweeps.lanes._interpreter import Layout as Layout
from nested_jax.sweeps.lanes._interpreter import evaluate_in_lanes as evaluate_in_lanes
from nested_jax.sweeps.lanes._layout import LANES as LANES
from nested_jax.sweeps.lanes._layout import layout_of as layout_of
from nested_jax.sweeps.lanes._sharing import bytes_carried as bytes_carried
from nested_jax.sweeps.lanes._sharing import bytes_held as bytes_held
from nested_jax.sweeps.lanes._sharing import work_by_axes as work_by_axes
