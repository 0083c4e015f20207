"""Nested momentum on a drifting regression as GPU kernels that contain the loop over time.

A scan on a GPU launches kernels at every step, and a step of the level sweep is only about a
hundred operations, so launching takes nearly all of the time. Here, steps go in blocks of 3,000:

1. XLA draws the random numbers of a block, once for all runs that share a key.
2. `drift_kernel` moves the true weights through the block; XLA computes the targets.
3. `descent_kernel` trains through the block: one dimension a lane, two runs a warp, with
   parameters and momenta in registers. A step is a sum over lanes and a multiply-add a stage.

Under vmap, runs of the innermost axis go in pairs and the other axes form the grid of programs.
Arrays that do not depend on an axis are stored once.

The kernels have never run on a GPU, so the scan is the default there too. They compile for an
H100 without spills; on paper, the published sweep takes 5 to 7 ms. To try them:
`python -m experiments levels --device gpu --implementation pallas`.

The package needs jax, jaxtyping and nested_jax alone, as on the machines of `benchmarks.gpu`.
"""

from experiments.levels.kernels.rollout import RegressionRollout as RegressionRollout
from experiments.levels.kernels.rollout import regression_rollout as regression_rollout
