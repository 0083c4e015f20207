"""Tests of the defaults of every public function against a table of literals.

Most numeric defaults are those of a paper, and a test of behavior that passes every argument does
not see them. A changed default is a breaking change: it changes this table, too.
"""

import inspect
from math import inf

import nested_jax as nj
from nested_jax import optimizers, plots, problems, schedules, sweeps, testing, theory, transforms

ADAFACTOR = {
    "b1": None,
    "decay_rate": 0.8,
    "b2": None,
    "b2_cap": None,
    "clip_threshold": 1.0,
    "relative_step": True,
    "warmup_init": False,
    "scale_by_parameter": True,
    "eps1": 1e-30,
    "eps2": 1e-3,
    "factored": True,
    "min_dim_size_to_factor": 2,
    "factored_dims": "largest",
    "momentum_of": "update",
    "mask": None,
    "schedule": None,
}
ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
M3 = {"b1": 0.95, "b2": 0.999, "b3": 0.9, "slow_weight": 0.5, "period": 32, "eps": 1e-8}
M3 |= {"ns_steps": 5, "iteration": "quintic", "reading": "ema"}
KRYLOV = {"iterations": 64, "key": None}
DECAYS = {"decay": 0.95, "max_levels": None}
DRIFT = {"dim": 10, "data_levels": 1, "decay": 0.95, "noise_std": 0.1}

DEFAULTS = {
    "optimizers.adafactor": ADAFACTOR
    | {"learning_rate": None, "weight_decay": 0.0, "normalized": False},
    "optimizers.adam": ADAM | {"learning_rate": 1e-3, "amsgrad": False, "schedule": None},
    "optimizers.adamw": ADAM
    | {"learning_rate": 1e-3, "weight_decay": 1e-4, "normalized": False}
    | {"decay_times_rate": False, "mask": None, "schedule": None},
    "optimizers.factored_adamw": {name: ADAFACTOR[name] for name in ADAFACTOR if name != "schedule"}
    | {"learning_rate": 1e-2, "weight_decay": 0.025, "b1": 0.9, "normalized": True},
    "optimizers.m3": M3 | {"schedule": None},
    "optimizers.momentum": {"decay": 0.9, "schedule": None},
    "optimizers.nested_momentum": {"levels": None, "decay": None, "max_levels": None}
    | {"decays": None, "periods": None, "debias": False, "readout": "last", "schedule": None},
    "optimizers.nesterov": {"decay": 0.9, "schedule": None},
    "plots.heatmap": {"y": "model_level", "x": "data_level", "diverged": None}
    | {"label": "mean loss", "title": None, "ax": None},
    "plots.hyperparameters": {"over": (), "title": None},
    "plots.parallel_coordinates": {"over": (), "title": None, "ax": None},
    "plots.save": {"dpi": 150.0},
    "problems.OnlineWorld.comparator": {"radius": 1.0},
    "problems.OnlineWorld.regret": {"radius": 1.0},
    "problems.classification": {"folds": None, "fold": None},
    "problems.drifting_regression": DRIFT | {"max_levels": None, "dtype": None},
    "problems.held_out_masks": {"folds": None, "seed": 0},
    "problems.online_convex": {"curvatures": None, "probabilities": None, "dtype": None},
    "problems.quadratic": {"noise_std": None, "dtype": None},
    "problems.split_indices": {"seed": 0},
    "rollout": {"warmup": 0, "bound": inf, "stride": None, "record": None}
    | {"initial": None, "draws": None, "unroll": 1},
    "rollout_in_stages": {"warmup": 0, "bound": inf, "stride": None, "record": None}
    | {"initial": None, "draws": None, "unroll": 1},
    "schedules.cosine": {"floor": 0.0},
    "schedules.step_drop": {"drops": (0.3, 0.6, 0.8), "factor": 0.1},
    "schedules.warm_restarts": {"growth": 1.0, "floor": 0.0},
    "schedules.warmup_linear_decay": {"floor": 0.0},
    "sweeps.LocalDevices": {"devices": None},
    "sweeps.LocalDevices.bytes_needed": {"static": 0},
    "sweeps.LocalDevices.evaluate": {"programs": None},
    "sweeps.RayWorkers": {"gpus": 0, "cpus": 1},
    "sweeps.best_point": {"by": "loss", "over": (), "mode": "min"},
    "sweeps.diverged": {"bound": inf, "over": ()},
    "sweeps.halving": {"factor": 3, "mode": "min", "over": ()},
    "sweeps.optuna.optimize": {"batch": 32, "layout": "auto", "devices": None},
    "sweeps.powers_of_two": {"scale": 1.0},
    "sweeps.sweep": {"store": None, "chunk": "auto", "devices": None, "executor": None}
    | {"layout": "auto", "stop": None, "units": None, "progress": True},
    "testing.Case": {"needs_params": False, "reach": "entry"},
    "testing.Case.build": {"values": None},
    "theory.aggmo": {"decays": (0.0, 0.9, 0.99)},
    "theory.condition_number": KRYLOV,
    "theory.curvature": KRYLOV,
    "theory.edge_of_stability": KRYLOV | {"preconditioner": None},
    "theory.ema": {"decay": 0.95},
    "theory.heavy_ball": {"decay": 0.9},
    "theory.hessian_eigenvalues": KRYLOV | {"count": 1},
    "theory.jacobian_singular_values": KRYLOV | {"count": 1},
    "theory.mean_square_growth": {"learning_rate": 1.0, "bias": True},
    "theory.mean_square_limit": {"bias": True},
    "theory.memory": {"share": 0.5},
    "theory.nesterov": {"decay": 0.9},
    "theory.predict_zero_loss": DRIFT,
    "theory.preconditioner_of": {"params": None, "b2": None, "eps": None},
    "theory.qhm": {"decay": 0.999, "weight": 0.7},
    "theory.stable_rate": {"margin": 0.5, "bias": True},
    "theory.stationary_loss": {"learning_rate": 1.0, "noise_std": 0.1, "drift": None}
    | {"weight_decay": 0.0, "bias": True},
    "theory.terminal_velocity": {"gradient": 1.0, "learning_rate": 1.0},
    "theory.tracking_bound": DRIFT
    | {"key": None, "steps": None, "warmup": 0, "inputs": None, "max_levels": None},
    "transforms.ScaleByNestedMomentumState": {"periods": ()},
    "transforms.ScaleByRelativeStepState": {"average": ()},
    "transforms.add_decoupled_weight_decay": {"learning_rate": None, "schedule": None}
    | {"normalized": False, "mask": None},
    "transforms.delta_gradient_descent": {"schedule": None},
    "transforms.matched_delay_decays": DECAYS,
    "transforms.nested_decays": DECAYS,
    "transforms.scale_by_accumulated_momentum": {"decay": 0.9},
    "transforms.scale_by_adam": ADAM | {"amsgrad": False, "debias": True},
    "transforms.scale_by_aggmo": {"decays": (0.0, 0.9, 0.99)},
    "transforms.scale_by_delta_momentum": {"decay": 0.9, "erasure": 1.0, "reading": "matrix"}
    | {"normalize": True},
    "transforms.scale_by_factored_rms": {"decay_rate": 0.8, "b2": None, "b2_cap": None}
    | {"eps": 1e-30, "factored": True, "min_dim_size_to_factor": 2, "factored_dims": "largest"},
    "transforms.scale_by_learning_rate": {"schedule": None},
    "transforms.scale_by_m3": M3,
    "transforms.scale_by_nested_momentum": {"periods": None, "debias": False, "readout": "last"},
    "transforms.scale_by_nesterov_momentum": {"decay": 0.9, "schedule": None},
    "transforms.scale_by_qhm": {"decay": 0.999, "nu": 0.7},
    "transforms.scale_by_relative_step": {"learning_rate": None, "relative_step": True}
    | {"average": None}
    | {"warmup_init": False, "scale_by_parameter": True, "eps": 1e-3, "schedule": None},
}
# By object, each under the deepest package that exports it.
MODULES = (
    optimizers,
    plots,
    problems,
    schedules,
    sweeps,
    sweeps.optuna,
    testing,
    theory,
    transforms,
    nj,
)


def functions(owner):
    """Yield the path and object of each public function, class and method of a module or class."""
    for name, member in inspect.getmembers(owner):
        is_ours = str(getattr(member, "__module__", "")).startswith("nested_jax")
        if is_ours and not name.startswith("_") and callable(member):
            yield name, member
            if inspect.isclass(member):
                yield from ((f"{name}.{path}", inner) for path, inner in functions(member))


def defaults_of(function):
    parameters = inspect.signature(function).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    # The default of a record that is made anew for each has no value.
    return {name: value for name, value in given.items() if repr(value) != "<factory>"}


def test_defaults_are_those_of_the_table():
    actual, seen = {}, set()
    for module in MODULES:
        for path, function in functions(module):
            if function not in seen and (found := defaults_of(function)):
                actual[f"{module.__name__}.{path}".removeprefix("nested_jax.")] = found
            seen.add(function)
    assert actual.keys() == DEFAULTS.keys()
    for name, found in actual.items():
        # Types count: True equals 1.
        expected = {key: repr(value) for key, value in DEFAULTS[name].items()}
        assert {key: repr(value) for key, value in found.items()} == expected, name
