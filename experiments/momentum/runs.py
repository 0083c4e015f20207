"""The runs of the momentum experiment, and what theory predicts of them."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.lab import Lab
from experiments.momentum import escapes, mitigations, references
from experiments.momentum.config import STRIDE, WINDOWS, Config
from experiments.momentum.surfaces import SURFACES, problem, settled, starts
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

ALGORITHMS = ("gradient_descent", "heavy_ball", "nesterov", "nesterov_quadratic")
"""Methods on quadratics, as `theory.optimal_tuning` names them."""
RACERS = ALGORITHMS[:3]
"""Methods on the surfaces, where one decay serves both kinds of Nesterov's constants."""
VELOCITY_DECAYS = (0.0, 0.5, 0.9, 0.99)
RATES = ("kept", "rescaled")
"""The learning rate when momentum is introduced: unchanged, or multiplied by 1 - decay."""
REGRESSION = {"dim": 10, "data_levels": 1, "decay": 0.95, "noise_std": 0.1}
REGRESSION_DECAYS = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
FIRST, CONTROL = 0, 1
"""Starts on a surface, before the random ones around the first."""
BOUND = 1e6
"""Loss of the regression above which a run has diverged. It starts at about 50."""
SMALLEST = 1e-290
"""Smaller errors are not represented with full precision."""


def simulate(config: Config, lab: Lab) -> dict[str, "xr.Dataset"]:
    """Run everything.

    Returns:
        `quadratics`: error and measured and predicted factor a step, over algorithm and condition.
        `velocities`: speed down a slope of 1, over algorithm, decay and step.
        `regression`: loss, its curve and its prediction, over rate and decay.
        `tuning`: how runs on the surfaces end, over surface, algorithm, learning rate and start.
        `surfaces`: paths and curvature at the best rates, over surface, algorithm and start.
        `newton`: the error of Newton's method, over condition and step.
        `terminal`: speed and terminal velocity, over learning rate, slope and decay.
        `mitigations`: steps to the goal, over surface, case, learning rate and start.
        `escapes`: whether runs left a local minimum, over decay, batch size and run.
    """
    tuning = _tuning(config, lab)
    races = _races(config, lab, best_rates(config, tuning))
    return {
        "quadratics": _quadratics(config, lab),
        "velocities": _velocities(config, lab),
        "regression": _regression(config, lab),
        "tuning": tuning,
        "surfaces": races,
        "newton": references.newton_errors(config, lab),
        "terminal": references.terminal_speeds(lab),
        "mitigations": mitigations.simulate(config, lab),
        "escapes": escapes.simulate(config, lab),
    }


def optimizer(algorithm: str, learning_rate: Any, decay: Any) -> Any:
    """Return the finished optimizer of an algorithm; gradient descent has no decay."""
    if algorithm == "gradient_descent":
        return nj.momentum(learning_rate, decay=0.0)
    factory = nj.momentum if algorithm == "heavy_ball" else nj.nesterov
    return factory(learning_rate, decay=decay)


def transfer(algorithm: str, decay: Any) -> theory.StateSpace:
    """Return an algorithm as a linear system, without its learning rate."""
    # With decay 0, gradient descent, both kinds of momentum are the same system.
    return (theory.nesterov if algorithm.startswith("nesterov") else theory.heavy_ball)(decay)


def _quadratics(config: Config, lab: Lab) -> "xr.Dataset":
    """Return the errors on quadratics and the factors by which they shrink."""

    def run(algorithm, condition):
        # The largest curvature is 1; others at equal ratios, the smallest 1 / condition.
        eigenvalues = condition ** -jnp.linspace(1.0, 0.0, config.dim)
        quadratic = nj.quadratic(eigenvalues)
        tuning = theory.optimal_tuning(algorithm, 1 / condition, 1.0)
        tx = optimizer(algorithm, tuning.learning_rate, tuning.decay)

        def record(params, opt_state):
            # Scaled, so that the squares of small errors do not underflow before the errors do.
            scale = jnp.max(jnp.abs(params))
            return jnp.log(scale) + 0.5 * jnp.log(jnp.sum(jnp.square(params / scale)))

        start = jnp.ones(config.dim) / jnp.sqrt(config.dim), None
        options = {"stride": STRIDE, "record": record, "initial": start}
        trace = nj.rollout(tx, quadratic, jax.random.key(0), config.steps, **options)
        return {"log_error": trace.records, "predicted": tuning.rate}

    conditions = np.geomspace(10, config.max_condition, config.conditions)
    results = lab.sweep("quadratics", run, nj.Grid(algorithm=ALGORITHMS, condition=conditions))
    results = _named(results, log_error_0="step")
    results = results.assign_coords(step=STRIDE * (1 + np.arange(results.sizes["step"])))
    measured = np.apply_along_axis(
        measured_factor, -1, results.log_error.values, results.step.values
    )
    results["measured"] = results.predicted.copy(data=measured)

    def radius(algorithm, condition):
        tuning = theory.optimal_tuning(algorithm, 1 / condition, 1.0)
        eigenvalues = condition ** -jnp.linspace(1.0, 0.0, config.dim)
        c = tuning.learning_rate * eigenvalues
        return theory.convergence_rate(transfer(algorithm, tuning.decay), c)

    radii = [_on_cpu(Partial(radius, algorithm), conditions) for algorithm in ALGORITHMS]
    results["radius"] = results.predicted.copy(data=np.stack(radii))
    return results


def _on_cpu(function: Any, values: Any) -> np.ndarray:
    """Return a prediction at each of `values`. JAX computes eigenvalues on CPUs only."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(jax.jit(jax.vmap(function))(jnp.asarray(values)))


def _named(results: "xr.Dataset", **names: str) -> "xr.Dataset":
    """Return `results` with new names of dimensions, several of which may become one."""

    def renamed(array):
        return array.rename({old: new for old, new in names.items() if old in array.dims})

    return type(results)(
        {name: renamed(array) for name, array in results.items()}, attrs=results.attrs
    )


def measured_factor(log_errors: np.ndarray, steps: np.ndarray) -> float:
    r"""Return the asymptotic factor per step by which an error shrinks.

    At the optimal constants two eigenvalues coincide, and the error is a power of the step times
    :math:`\rho^t`. The fit is :math:`\ln e_t = \alpha + \beta \ln t + t \ln \rho`, on the last
    half of the steps at which the error has full precision.
    """
    held = log_errors > np.log(SMALLEST)
    last = len(steps) if held.all() else int(np.argmin(held))
    part = slice(last // 2, last)
    t = steps[part].astype(float)
    design = np.column_stack([np.ones_like(t), np.log(t), t])
    return float(np.exp(np.linalg.lstsq(design, log_errors[part], rcond=None)[0][2]))


def _velocities(config: Config, lab: Lab) -> "xr.Dataset":
    """Return the speeds down a slope of 1 with a learning rate of 1."""
    slope = nj.quadratic([0.0])._replace(loss=lambda params, batch: params[0])
    start = jnp.zeros(1), None

    def run(algorithm, decay):
        tx = optimizer(algorithm, 1.0, decay)
        options = {"stride": 1, "record": lambda params, opt_state: params[0], "initial": start}
        trace = nj.rollout(tx, slope, jax.random.key(0), config.velocity_steps, **options)
        return {"speed": -jnp.diff(trace.records, prepend=0.0)}

    results = lab.sweep("velocities", run, nj.Grid(algorithm=RACERS[1:], decay=VELOCITY_DECAYS))
    results = _named(results, speed_0="step")

    def terminal(algorithm, decay):
        return -theory.terminal_velocity(transfer(algorithm, decay))

    predicted = [_on_cpu(Partial(terminal, algorithm), VELOCITY_DECAYS) for algorithm in RACERS[1:]]
    results["predicted"] = (("algorithm", "decay"), np.stack(predicted))
    return results.assign_coords(step=1 + np.arange(results.sizes["step"]))


def _regression(config: Config, lab: Lab) -> "xr.Dataset":
    """Return the losses of online regression with the learning rate kept and rescaled."""
    drifting = nj.drifting_regression(**REGRESSION)
    window = config.regression_steps // WINDOWS

    def rescaled(rate, decay):
        return config.learning_rate * (1.0 if rate == "kept" else 1 - decay)

    def run(key, rate, decay, seed):
        trace = nj.rollout(
            nj.momentum(rescaled(rate, decay), decay=decay),
            drifting,
            jax.random.fold_in(key, seed),
            config.regression_steps,
            warmup=config.regression_steps // 5,
            bound=BOUND,
            stride=window,
        )
        return {"loss": trace.mean_loss, "curve": trace.loss_curve, "diverged": trace.diverged}

    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    axes = {"rate": RATES, "decay": REGRESSION_DECAYS, "seed": range(config.seeds)}
    results = _named(lab.sweep("regression", Partial(run, key), nj.Grid(**axes)), curve_0="step")

    def stationary(rate, decay):
        drift = theory.cascade([REGRESSION["decay"]] * REGRESSION["data_levels"])
        options = {"noise_std": REGRESSION["noise_std"], "drift": drift}
        system = theory.heavy_ball(decay), REGRESSION["dim"], rescaled(rate, decay)
        return theory.stationary_loss(*system, **options).total

    predicted = [_on_cpu(Partial(stationary, rate), REGRESSION_DECAYS) for rate in RATES]
    results["predicted"] = (("rate", "decay"), np.stack(predicted))
    return results.assign_coords(step=window * (1 + np.arange(WINDOWS)))


def _start_key(config: Config, surface: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), 2 + [*SURFACES].index(surface))


def _tuning(config: Config, lab: Lab) -> "xr.Dataset":
    """Return how runs on the surfaces end, at every learning rate."""
    shares = np.linspace(0, 1, config.learning_rates)

    def run(surface, algorithm, share, start):
        place = SURFACES[surface]
        low, high = place.rates
        rate = low * (high / low) ** share
        begin = starts(place, config.starts, _start_key(config, surface))[start]
        tx, descent = optimizer(algorithm, rate, config.decay), problem(place, begin)
        key = jax.random.key(0)
        trace = nj.rollout(tx, descent, key, config.surface_steps, stride=1)
        return {"learning_rate": rate, **_end(trace, place)}

    axes = {"surface": [*SURFACES], "algorithm": RACERS, "share": shares}
    results = lab.sweep("tuning", run, nj.Grid(**axes, start=range(config.starts + 2)))
    rates = results.learning_rate.isel(algorithm=0, start=0, drop=True)
    return results.assign_coords(learning_rate=rates)


def _end(trace: nj.Rollout, surface: Any) -> dict[str, jax.Array]:
    """Return the last loss, the steps after which it stays below the goal (-1: never), and more.

    A run has diverged if it ends a thousand times as high as it began, or not finite.
    """
    losses = jnp.asarray(trace.loss_curve)
    loss = surface.loss(trace.params)
    return {
        "loss": loss,
        "settled": settled(losses, surface.goal),
        "diverged": ~(loss <= 1000 * losses[0]),
    }


def best_rates(config: Config, tuning: "xr.Dataset") -> "xr.DataArray":
    """Return the learning rate of least effort, over surface and algorithm."""
    steps = effort(tuning.settled, config.surface_steps)
    # Among equals, such as rates at which no run arrives, the final loss decides.
    losses = tuning.loss.drop_sel(start=CONTROL).median("start", skipna=False).fillna(np.inf)
    best = losses.where(steps == steps.min("share"), np.inf).argmin("share")
    return tuning.learning_rate.isel(share=best)


def effort(settled: "xr.DataArray", steps: int) -> "xr.DataArray":
    """Return the mean steps to the goal; runs that do not settle there count as all `steps`."""
    return settled.where(settled >= 0, steps).drop_sel(start=CONTROL).mean("start")


def _races(config: Config, lab: Lab, rates: "xr.DataArray") -> "xr.Dataset":
    """Return path and curvature of the first run and of the control, at the best rates."""

    def run(surface, algorithm, start):
        place = SURFACES[surface]
        begin = starts(place, config.starts, _start_key(config, surface))[start]
        rate = float(rates.sel(surface=surface, algorithm=algorithm))
        tx, descent = optimizer(algorithm, rate, config.decay), problem(place, begin)

        options = {"stride": 1, "record": lambda params, opt_state: params}
        trace = nj.rollout(tx, descent, jax.random.key(0), config.surface_steps, **options)
        path = jnp.concatenate([begin[None], trace.records])
        return {
            "path": path,
            "height": jnp.append(jnp.asarray(trace.loss_curve), place.loss(trace.params)),
            **jax.vmap(lambda params: theory.curvature(place.loss, params))(path)._asdict(),
            "jacobian": jax.vmap(lambda params: _jacobian(place, params))(path[jnp.array([0, -1])]),
        }

    axes = {"surface": [*SURFACES], "algorithm": RACERS, "start": [FIRST, CONTROL]}
    results = lab.sweep("surfaces", run, nj.Grid(**axes))
    lines = ("path", "height", *theory.Curvature._fields)
    names = {"path_1": "parameter", "jacobian_0": "end", "jacobian_1": "singular_value"}
    results = _named(results, **{f"{name}_0": "step" for name in lines}, **names)
    return results.assign_coords(learning_rate=rates)


def _jacobian(surface: Any, params: jax.Array) -> jax.Array:
    """Return the singular values of the outputs' Jacobian; NaN where there is no model."""
    if surface.outputs is None:
        return jnp.full((2,), jnp.nan)
    return theory.jacobian_singular_values(surface.outputs, params, 2)
