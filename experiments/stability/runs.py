"""The runs of the stability experiment: growth without noise, losses with it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import nested_jax as nj
from experiments.lab import Lab
from experiments.stability import predictions
from experiments.stability.config import WINDOWS, Config
from experiments.stability.renormalized import renormalized
from experiments.stability.schemes import FIXED, PROBED, SCHEMES, TUNED, momentum
from nested_jax.problems import DriftingRegressionWorld

if TYPE_CHECKING:
    import xarray as xr

STABLE_SHARE = 0.5
"""Rescaled rates are at most this share of the largest that is stable in mean square."""
OCTAVES = -6, 4
"""Rates are tuned from 1/64 to 16 times the given one."""
PROBES = np.geomspace(1e-3, 1.0, 40)
"""Rates at which growth is measured to find where it begins, for 10 inputs."""
PROBE_STEPS, PROBE_SEEDS = 6_000, 8
"""Steps and largest number of these runs at each rate: thresholds agree to a few percent."""


def simulate(config: Config, lab: Lab) -> dict[str, "xr.Dataset"]:
    """Measure and predict everything that is reported.

    Returns:
        "growth": `growth` at the given rate over scheme, seed and model_level, NaN for schemes
        outside `PROBED`, with the predictions of `predictions.stability`. "thresholds": `growth`
        over scheme, seed, model_level and rate. "tuning": `loss` over scheme, rate, model_level and
        data_level, the mean over the tuning seeds. "losses": `loss` and `slope` of
        `measure_losses`, the rate of each combination and its `predicted_loss`.
    """
    keys = jax.random.split(jax.random.key(config.seed), 4)
    key_losses, key_tuning, key_growth, key_thresholds = keys
    systems = predictions.systems_of(config)
    timing = {"steps": config.steps, "warmup": config.warmup, "seeds": config.seeds}
    rate = [config.learning_rate]
    growth = measure_growth(config, lab, "growth", key_growth, PROBED, rate, **timing)
    growth = growth.isel(rate=0, drop=True).reindex(scheme=[*FIXED])
    growth = growth.assign(predictions.stability(config, systems, FIXED))
    timing = {
        "steps": PROBE_STEPS,
        "warmup": PROBE_STEPS // 3,
        "seeds": min(config.seeds, PROBE_SEEDS),
    }
    probes = (PROBES * 10 / config.dim).tolist()
    thresholds = measure_growth(config, lab, "thresholds", key_thresholds, PROBED, probes, **timing)
    tuning = tune(config, lab, key_tuning)
    rates = choose_rates(config, growth.mean_square_limit.sel(scheme="equal").values, tuning.loss)
    tried = {name: values[None] for name, values in rates.items()}
    losses = measure_losses(config, lab, "losses", key_losses, tried, seeds=config.seeds)
    levels = "scheme", "model_level", "data_level"
    losses = losses.isel(choice=0, drop=True).assign(
        rate=(levels, np.stack([*rates.values()])),
        predicted_loss=(levels, predictions.losses(config, systems, rates)),
    )
    return {"growth": growth, "thresholds": thresholds, "tuning": tuning, "losses": losses}


def tuning_rates(config: Config) -> np.ndarray:
    """Return the rates to choose from."""
    return config.learning_rate * 2.0 ** np.linspace(*OCTAVES, config.rates)


def tune(config: Config, lab: Lab, key: jax.Array) -> "xr.Dataset":
    """Return the mean `loss` over the tuning seeds at every rate, infinite where one overflowed."""
    rates = tuning_rates(config)
    shape = len(rates), config.model_levels, config.data_levels
    tried = {name: np.broadcast_to(rates[:, None, None], shape) for name in TUNED}
    found = measure_losses(config, lab, "tuning", key, tried, seeds=config.tuning_seeds)
    mean = found.mean("seed", skipna=False, keep_attrs=True)[["loss"]].fillna(np.inf)
    return mean.rename(choice="rate").assign_coords(rate=rates)


def choose_rates(
    config: Config, limit: np.ndarray, tuning_loss: "xr.DataArray"
) -> dict[str, np.ndarray]:
    """Return the rates of every scheme by model and data level.

    Args:
        config: Options.
        limit: The largest rate of equal decays that is stable in mean square, by model level.
        tuning_loss: As from `tune`.
    """
    shape = config.model_levels, config.data_levels
    stable = np.minimum(config.learning_rate, STABLE_SHARE * limit)
    rates = {name: np.full(shape, config.learning_rate) for name in FIXED}
    rates["rescaled"] = np.tile(stable[:, None], (1, config.data_levels))
    best = tuning_loss.argmin("rate").transpose("scheme", "model_level", "data_level")
    return rates | {name: tuning_loss.rate.values[best.sel(scheme=name).values] for name in TUNED}


def measure_growth(
    config: Config,
    lab: Lab,
    part: str,
    key: jax.Array,
    names: Sequence[str],
    rates: Sequence[float],
    *,
    steps: int,
    warmup: int,
    seeds: int,
) -> "xr.Dataset":
    """Measure the growth per step of the logarithm of the error, without drift and noise.

    Returns:
        `growth` over scheme, seed, model_level and rate.
    """

    def sweep(piece, kind, mine):
        def run(key, *, seed, scheme, model_level, rate):
            key_init, key_draw = jax.random.split(jax.random.fold_in(key, seed))
            problem = nj.drifting_regression(config.dim, noise_std=0.0)
            weights = jax.random.normal(key_init, (config.dim + 1,))
            world = DriftingRegressionWorld(weights=(jnp.zeros(config.dim),))

            def draws(t):
                drawn = problem.draw(jax.random.fold_in(key_draw, t))
                return drawn._replace(drift=jnp.zeros_like(drawn.drift))

            tx = renormalized(momentum(config, *kind, level=model_level), rate, warmup)
            initial = weights / jnp.linalg.norm(weights), world
            trace = nj.rollout(tx, problem, None, steps, initial=initial, draws=draws)
            return {"growth": trace.opt_state.log_growth / (steps - warmup)}

        grid = nj.Grid(
            seed=range(seeds),
            scheme=range(len(mine)),
            model_level=range(1, config.model_levels + 1),
            rate=rates,
        )
        return lab.sweep(part, Partial(run, key), grid, piece=piece)

    return _by_kind(names, sweep)


def measure_losses(
    config: Config,
    lab: Lab,
    part: str,
    key: jax.Array,
    rates: Mapping[str, np.ndarray],
    *,
    seeds: int,
) -> "xr.Dataset":
    """Run every combination of levels with every choice of rates.

    Args:
        config: Options.
        lab: Where to run.
        part: Name of the part.
        key: Random key of all runs.
        rates: Learning rates of each scheme by choice, model level and data level.
        seeds: Number of seeds.

    Returns:
        `loss`, the mean after warm-up, and `slope`, the growth per step of the logarithm of the
        loss over the last half of the run, over scheme, seed, choice, model_level and data_level.
    """
    stride = config.steps // WINDOWS

    def sweep(piece, kind, mine):
        def run(key, rates, *, seed, scheme, choice, model_level, data_level):
            problem = nj.drifting_regression(
                config.dim,
                data_levels=data_level,
                decay=config.decay,
                noise_std=config.noise_std,
                max_levels=config.data_levels,
            )
            rate = rates[scheme, choice, model_level - 1, data_level - 1]
            cascade = momentum(config, *kind, level=model_level)
            tx = optax.chain(cascade, nj.scale_by_learning_rate(rate))
            trace = nj.rollout(
                tx,
                problem,
                jax.random.fold_in(key, seed),
                config.steps,
                warmup=config.warmup,
                stride=stride,
            )
            last = jnp.log(jnp.asarray(trace.loss_curve)[WINDOWS // 2 :])
            times = stride * (jnp.arange(last.size) - (last.size - 1) / 2)
            return {"loss": trace.mean_loss, "slope": jnp.sum(times * last) / jnp.sum(times**2)}

        tried = jnp.asarray(np.stack([rates[name] for name in mine]))
        grid = nj.Grid(
            seed=range(seeds),
            scheme=range(len(mine)),
            choice=range(tried.shape[1]),
            model_level=range(1, config.model_levels + 1),
            data_level=range(1, config.data_levels + 1),
        )
        return lab.sweep(part, Partial(run, key, tried), grid, piece=piece)

    return _by_kind([*rates], sweep)


def _by_kind(
    names: Sequence[str], sweep: Callable[[str, tuple[str, bool], list[str]], Any]
) -> "xr.Dataset":
    """Join the sweeps of each kind of cascade, a program each, along the axis `scheme`.

    Args:
        names: Schemes.
        sweep: (name of the sweep, readout and whether matched, names of its schemes) to a dataset.
    """
    import xarray as xr

    kinds = {name: (SCHEMES[name].readout, SCHEMES[name].matched) for name in names}
    found = []
    for readout, matched in dict.fromkeys(kinds.values()):
        mine = [name for name in names if kinds[name] == (readout, matched)]
        piece = f"{readout}_matched" if matched else readout
        found.append(sweep(piece, (readout, matched), mine).assign_coords(scheme=mine))
    seconds = {
        name: sum(one.attrs[name] for one in found) for name in ("compile_seconds", "run_seconds")
    }
    joined = xr.concat(found, "scheme", combine_attrs="drop").assign_attrs(seconds)
    return joined.sel(scheme=[*names])
