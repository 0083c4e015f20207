"""What the stability experiment runs: growth without noise, losses with it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.problems import DriftingRegressionWorld

if TYPE_CHECKING:
    import xarray as xr

    from experiments.stability import Config

CASCADES = ("equal", "matched")
"""Decays of the levels: all equal, or such that the total delay is that of one."""
WINDOWS = 20
"""Windows of a run's loss curve; the growth of a diverging run is fitted to the last half."""


class Scheme(NamedTuple):
    """What is done with the levels.

    Attributes:
        readout: "last", "zero_lag" or "mean", or "debiased": the last level, bias-corrected.
        cascade: One of `CASCADES`.
    """

    readout: str
    cascade: str


class Case(NamedTuple):
    """A scheme and its rates.

    Attributes:
        scheme: What is done with the levels.
        rates: By model and data level.
    """

    scheme: Scheme
    rates: np.ndarray


def momentum(
    config: "Config", readout: str, matched: Any, level: Any
) -> optax.GradientTransformation:
    """Return the cascade of `level` levels with equal decays or, where `matched`, equal delay."""
    equal, delayed = (
        decays(level, decay=config.decay, max_levels=config.model_levels)
        for decays in (nj.nested_decays, nj.matched_delay_decays)
    )
    debias = readout == "debiased"
    return nj.scale_by_nested_momentum(
        jnp.where(matched, delayed, equal), debias=debias, readout="last" if debias else readout
    )


def by_readout(
    schemes: Sequence[Scheme],
    sweep: Callable[[str, np.ndarray, jax.Array], "xr.Dataset"],
) -> "xr.Dataset":
    """Join the sweeps of each readout, which is a program of its own, along an axis `case`.

    Args:
        schemes: One a case.
        sweep: (readout, indices of its cases, which of them are matched) to a dataset over `case`.
    """
    import xarray as xr

    parts = []
    for readout in dict.fromkeys(scheme.readout for scheme in schemes):
        mine = np.flatnonzero([scheme.readout == readout for scheme in schemes])
        matched = jnp.asarray([CASCADES.index(schemes[i].cascade) for i in mine.tolist()])
        parts.append(sweep(readout, mine, matched).assign_coords(case=mine))
    return xr.concat(parts, "case").sortby("case")


class RenormalizedState(NamedTuple):
    """State of `renormalized`.

    Attributes:
        inner: State of the momentum, divided by the norm of the parameters.
        count: Steps so far.
        log_growth: Logarithm of what the parameters were divided by after `warmup` steps.
    """

    inner: Any
    count: jax.Array
    log_growth: jax.Array


def renormalized(
    momentum: optax.GradientTransformation, rate: Any, warmup: int
) -> optax.GradientTransformation:
    """Descend along nested momentum; divide parameters and momenta by the parameters' norm.

    On a linear system this changes no direction, and neither growth nor decay ever leaves the
    range of numbers: the logarithms of the divisors add up to that of the growth.
    """

    def init(params):
        zero = jnp.zeros((), params.dtype)
        return RenormalizedState(momentum.init(params), jnp.zeros((), jnp.int32), zero)

    def update(updates, state, params=None):
        updates, inner = momentum.update(updates, state.inner, params)
        inner: Any = inner
        moved = params - rate * updates
        norm = jnp.sqrt(jnp.sum(moved**2))
        # The gains of a bias correction are no part of the linear system.
        inner = inner._replace(momenta=jax.tree.map(lambda x: x / norm, inner.momenta))
        growth = jnp.where(state.count >= warmup, jnp.log(norm), 0.0)
        state = RenormalizedState(inner, state.count + 1, state.log_growth + growth)
        return moved / norm - params, state

    return optax.GradientTransformation(init, update)


def growth(
    config: "Config",
    key: jax.Array,
    schemes: Sequence[Scheme],
    rates: Sequence[float],
    *,
    steps: int,
    warmup: int,
    seeds: int,
) -> "xr.DataArray":
    """Measure the growth per step of the logarithm of the error, without drift and noise.

    Returns:
        Over case, seed, model_level and rate.
    """

    def sweep(readout, cases, matched):
        def run(key, matched, *, seed, case, model_level, rate):
            key_init, key_draw = jax.random.split(jax.random.fold_in(key, seed))
            problem = nj.drifting_regression(config.dim, noise_std=0.0)
            weights = jax.random.normal(key_init, (config.dim + 1,))
            world = DriftingRegressionWorld(weights=(jnp.zeros(config.dim),))

            def draws(t):
                drawn = problem.draw(jax.random.fold_in(key_draw, t))
                return drawn._replace(drift=jnp.zeros_like(drawn.drift))

            tx = renormalized(momentum(config, readout, matched[case], model_level), rate, warmup)
            initial = weights / jnp.linalg.norm(weights), world
            trace = nj.rollout(tx, problem, None, steps, initial=initial, draws=draws)
            return {"growth": trace.opt_state.log_growth / (steps - warmup)}

        grid = nj.Grid(
            seed=range(seeds),
            case=range(len(cases)),
            model_level=range(1, config.model_levels + 1),
            rate=rates,
        )
        return nj.sweep(Partial(run, key, matched), grid)

    return by_readout(schemes, sweep).growth


def losses(config: "Config", key: jax.Array, cases: Sequence[Case], *, seeds: int) -> "xr.Dataset":
    """Run every case on every combination of levels.

    Returns:
        `loss`, the mean after warm-up, and `slope`, the growth per step of the logarithm of the
        loss over the last half of the run, over case, seed, model_level and data_level.
    """
    all_rates = np.stack([case.rates for case in cases])
    stride = config.steps // WINDOWS

    def sweep(readout, mine, matched):
        def run(key, matched, rates, *, seed, case, model_level, data_level):
            problem = nj.drifting_regression(
                config.dim,
                data_levels=data_level,
                decay=config.decay,
                noise_std=config.noise_std,
                max_levels=config.data_levels,
            )
            rate = rates[case, model_level - 1, data_level - 1]
            tx = optax.chain(
                momentum(config, readout, matched[case], model_level),
                nj.scale_by_learning_rate(rate),
            )
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

        grid = nj.Grid(
            seed=range(seeds),
            case=range(len(mine)),
            model_level=range(1, config.model_levels + 1),
            data_level=range(1, config.data_levels + 1),
        )
        return nj.sweep(Partial(run, key, matched, jnp.asarray(all_rates[mine])), grid)

    return by_readout([case.scheme for case in cases], sweep)
