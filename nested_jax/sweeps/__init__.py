"""Sweeps: evaluate a pure function at every point of a grid."""

from nested_jax._core.files import write_file as write_file
from nested_jax.sweeps import optuna as optuna
from nested_jax.sweeps._results import best_point as best_point
from nested_jax.sweeps._results import load as load
from nested_jax.sweeps._results import save as save
from nested_jax.sweeps._results import stored_chunks as stored_chunks
from nested_jax.sweeps._stopping import diverged as diverged
from nested_jax.sweeps._stopping import halving as halving
from nested_jax.sweeps._sweep import sweep as sweep
from nested_jax.sweeps.engine import Executor as Executor
from nested_jax.sweeps.engine import LocalDevices as LocalDevices
from nested_jax.sweeps.engine import RayWorkers as RayWorkers
from nested_jax.sweeps.grid import Grid as Grid
from nested_jax.sweeps.grid import log_uniform as log_uniform
from nested_jax.sweeps.grid import powers_of_two as powers_of_two
from nested_jax.sweeps.grid import zipped as zipped
