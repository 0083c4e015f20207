"""Optimizers as pure optax transformations in which every number is a hyperparameter."""

import importlib
import importlib.util
import typing
from types import ModuleType

from nested_jax import optimizers as optimizers
from nested_jax import problems as problems
from nested_jax import schedules as schedules
from nested_jax import sweeps as sweeps
from nested_jax import transforms as transforms
from nested_jax._core.stages import Stages as Stages
from nested_jax._rollout import Rollout as Rollout
from nested_jax._rollout import rollout as rollout
from nested_jax._staged_rollout import rollout_in_stages as rollout_in_stages
from nested_jax._version import __version__ as __version__
from nested_jax.optimizers import adafactor as adafactor
from nested_jax.optimizers import adam as adam
from nested_jax.optimizers import adamw as adamw
from nested_jax.optimizers import factored_adamw as factored_adamw
from nested_jax.optimizers import m3 as m3
from nested_jax.optimizers import momentum as momentum
from nested_jax.optimizers import nested_momentum as nested_momentum
from nested_jax.optimizers import nesterov as nesterov
from nested_jax.problems import Problem as Problem
from nested_jax.problems import classification as classification
from nested_jax.problems import drifting_regression as drifting_regression
from nested_jax.problems import held_out_masks as held_out_masks
from nested_jax.problems import online_convex as online_convex
from nested_jax.problems import quadratic as quadratic
from nested_jax.problems import split_indices as split_indices
from nested_jax.schedules import Schedule as Schedule
from nested_jax.schedules import constant as constant
from nested_jax.schedules import cosine as cosine
from nested_jax.schedules import step_drop as step_drop
from nested_jax.schedules import warm_restarts as warm_restarts
from nested_jax.schedules import warmup_linear_decay as warmup_linear_decay
from nested_jax.schedules import with_warmup as with_warmup
from nested_jax.sweeps import Grid as Grid
from nested_jax.sweeps import best_point as best_point
from nested_jax.sweeps import log_uniform as log_uniform
from nested_jax.sweeps import powers_of_two as powers_of_two
from nested_jax.sweeps import sweep as sweep
from nested_jax.sweeps import zipped as zipped
from nested_jax.transforms import Metrics as Metrics
from nested_jax.transforms import add_decoupled_weight_decay as add_decoupled_weight_decay
from nested_jax.transforms import clip_by_block_rms as clip_by_block_rms
from nested_jax.transforms import delta_gradient_descent as delta_gradient_descent
from nested_jax.transforms import matched_delay_decays as matched_delay_decays
from nested_jax.transforms import metrics_of as metrics_of
from nested_jax.transforms import nested_decays as nested_decays
from nested_jax.transforms import nesterov_iterate as nesterov_iterate
from nested_jax.transforms import scale_by_accumulated_momentum as scale_by_accumulated_momentum
from nested_jax.transforms import scale_by_adam as scale_by_adam
from nested_jax.transforms import scale_by_aggmo as scale_by_aggmo
from nested_jax.transforms import scale_by_delta_momentum as scale_by_delta_momentum
from nested_jax.transforms import scale_by_factored_rms as scale_by_factored_rms
from nested_jax.transforms import scale_by_learning_rate as scale_by_learning_rate
from nested_jax.transforms import scale_by_m3 as scale_by_m3
from nested_jax.transforms import scale_by_nested_momentum as scale_by_nested_momentum
from nested_jax.transforms import scale_by_nesterov_momentum as scale_by_nesterov_momentum
from nested_jax.transforms import scale_by_qhm as scale_by_qhm
from nested_jax.transforms import scale_by_relative_step as scale_by_relative_step
from nested_jax.transforms import with_metrics as with_metrics

if typing.TYPE_CHECKING:
    from nested_jax import plots as plots
    from nested_jax import testing as testing
    from nested_jax import theory as theory

__all__ = [
    "Grid",
    "Metrics",
    "Problem",
    "Rollout",
    "Schedule",
    "Stages",
    "__version__",
    "adafactor",
    "adam",
    "adamw",
    "add_decoupled_weight_decay",
    "best_point",
    "classification",
    "clip_by_block_rms",
    "constant",
    "cosine",
    "delta_gradient_descent",
    "drifting_regression",
    "factored_adamw",
    "held_out_masks",
    "log_uniform",
    "m3",
    "matched_delay_decays",
    "metrics_of",
    "momentum",
    "nested_decays",
    "nested_momentum",
    "nesterov",
    "nesterov_iterate",
    "online_convex",
    "optimizers",
    "powers_of_two",
    "problems",
    "quadratic",
    "rollout",
    "rollout_in_stages",
    "scale_by_accumulated_momentum",
    "scale_by_adam",
    "scale_by_aggmo",
    "scale_by_delta_momentum",
    "scale_by_factored_rms",
    "scale_by_learning_rate",
    "scale_by_m3",
    "scale_by_nested_momentum",
    "scale_by_nesterov_momentum",
    "scale_by_qhm",
    "scale_by_relative_step",
    "schedules",
    "split_indices",
    "step_drop",
    "sweep",
    "sweeps",
    "transforms",
    "warm_restarts",
    "warmup_linear_decay",
    "with_metrics",
    "with_warmup",
    "zipped",
]
# Imported when first used, and the package that each needs. `*` leaves them out, since it may be
# missing.
_LAZY = {
    "plots": "matplotlib",
    "testing": "chex",
    "theory": "jax",
}


def __getattr__(name: str) -> ModuleType:
    if name not in _LAZY:
        raise AttributeError(f"module 'nested_jax' has no attribute {name!r}")
    return importlib.import_module(f"nested_jax.{name}")


def __dir__() -> list[str]:
    # What can be imported here: `help` gets every name.
    lazy = [name for name, package in _LAZY.items() if importlib.util.find_spec(package)]
    return sorted([*__all__, *lazy])
