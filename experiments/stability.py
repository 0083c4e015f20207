"""Why levels of momentum diverge, and whether matching the levels of the data would pay.

The published level sweep left two conjectures: that the loss is smallest where model and data have
the same number of levels, and that every further level of the model multiplies the loss. Here both
are answered: `nested_jax.theory` predicts growth per step, largest stable rate and stationary loss
of every cascade from its transfer function alone, many seeds measure them, and the hypothesis is
tested where every level is stable: with matched delays, and with a rate tuned for each combination.

    python -m experiments stability            # about 5 minutes on 2 CPU cores
    python -m experiments stability --quick    # below a minute: fewer levels, steps and seeds

Expected of the default, of 32 seeds: with equal decays runs of up to 5 levels converge, 6 are on
the edge, and more diverge, growing faster than the mean error and slower than its mean square, from
10 levels on within 2 % of the latter; all 95 stationary losses are within 3 standard errors of what
is predicted. With matched delays all 19 levels converge. One level is best, whatever the levels of
the data and the scheme: as many levels as the data cost 10 to 220 % of loss.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import numpy as np

from experiments import _artifacts, _cli, _command
from experiments._stability_runs import WINDOWS
from nested_jax._core import checks as _checks

if TYPE_CHECKING:
    import xarray as xr

SCHEMES = {
    "equal": ("last", "equal"),
    "matched": ("last", "matched"),
    "debiased": ("debiased", "equal"),
    "zero_lag": ("zero_lag", "equal"),
    "mean": ("mean", "equal"),
    "rescaled": ("last", "equal"),
    "tuned_equal": ("last", "equal"),
    "tuned_matched": ("last", "matched"),
    "tuned_zero_lag": ("zero_lag", "equal"),
}
"""Readout and cascade; the first five have the given rate, the others rates of their own."""
FIXED = ("equal", "matched", "debiased", "zero_lag", "mean")
TUNED = ("tuned_equal", "tuned_matched", "tuned_zero_lag")
PROBED = ("equal", "matched", "zero_lag", "mean")
"""Schemes whose largest stable rate is measured; that of a bias correction is the same."""
STABLE_SHARE = 0.5
"""Rescaled rates are at most this share of the largest that is stable in mean square."""
OCTAVES = -6, 4
"""Rates are tuned from 1/64 to 16 times the given one."""
PROBES = np.geomspace(1e-3, 1.0, 40)
"""Rates at which growth is measured to find where it begins, for 10 inputs."""
PROBE_STEPS, PROBE_SEEDS = 6_000, 8
"""Steps of these runs, and at most so many a rate: their thresholds agree to a few percent."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Stability of nested momentum: predicted and measured."""

    model_levels: _cli.Integer = 19
    """Sweep levels of momentum from 1 to this."""
    data_levels: _cli.Integer = 19
    """Sweep levels of the drifting true weights from 1 to this."""
    dim: _cli.Integer = 10
    """Number of inputs; the model has a bias besides."""
    decay: _cli.Real = 0.95
    """Decay of every level of the drift and of an equal cascade, in [0, 1)."""
    learning_rate: _cli.Real = 0.01
    """Step size, where it is not tuned."""
    steps: _cli.Integer = 30_000
    """Steps of each run, a multiple of 20."""
    warmup: _cli.Integer = 3_000
    """First steps, which mean losses and growth leave out."""
    noise_std: _cli.Real = 0.1
    """Standard deviation of the target's noise."""
    seeds: _cli.Integer = 32
    """Runs of each kind that are reported, at least 4."""
    tuning_seeds: _cli.Integer = 4
    """Runs of each kind that rates are tuned on, apart from the reported ones."""
    rates: _cli.Integer = 16
    """Number of rates to choose from, at equal ratios from 1/64 to 16 times the given one."""
    seed: _cli.Integer = 0
    """What all randomness starts from."""
    quick: bool = False
    """Fewer levels, steps, seeds and rates, where these options are at their defaults."""
    device: Annotated[str, _cli.word("auto", "cpu", "gpu")] = "auto"
    """Where to run."""
    out: _cli.Folder = Path("results/stability")
    """Folder for results, figures and report."""


QUICK = {
    "model_levels": 8,
    "data_levels": 3,
    "steps": 6_000,
    "warmup": 3_000,
    "seeds": 6,
    "tuning_seeds": 2,
    "rates": 6,
}


def main(config: Annotated[Config, _cli.OPTIONS]) -> None:
    """Hold growth, thresholds and losses of nested momentum against theory."""
    with _command.begun(config, check, quick=QUICK) as run:
        results = simulate(run.config)
        from experiments import _stability_report

        _stability_report.write(run.config.out, run.made(), results)
        _stability_report.show(results)


def check(config: Config) -> None:
    """Raise for the first option out of range or of the wrong kind."""
    counts = ("model_levels", "data_levels", "dim", "steps", "tuning_seeds")
    _command.check_counts(config, 1, *counts)
    # Levels are chosen on half of the seeds, and of the other half there is an interval.
    _command.check_counts(config, 4, "seeds")
    _command.check_counts(config, 2, "rates")
    _command.check_multiple(config, WINDOWS, "steps")
    _command.check_warmup(config)
    _checks.check_unit_interval("--decay", config.decay)
    _checks.check_positive("--learning-rate", config.learning_rate)
    _checks.check_non_negative("--noise-std", config.noise_std)
    _command.check_seed(config)


def simulate(config: Config) -> "xr.Dataset":
    """Measure and predict everything that is reported.

    Returns:
        What `experiments._stability_report.VARIABLES` lists.
    """
    import xarray as xr  # Slow to import.

    from experiments import _stability_predictions as predictions
    from experiments import _stability_runs as runs

    schemes = {name: runs.Scheme(*parts) for name, parts in SCHEMES.items()}
    keys = dict(
        zip(
            ("reported", "tuning", "growth", "threshold"),
            jax.random.split(jax.random.key(config.seed), 4),
            strict=True,
        )
    )
    fixed = [schemes[name] for name in FIXED]
    predicted = predictions.stability(config, fixed)
    predicted = predicted.assign_coords(case=list(FIXED)).rename(case="fixed")
    timing = {"steps": config.steps, "warmup": config.warmup, "seeds": config.seeds}
    growth = runs.growth(config, keys["growth"], fixed, [config.learning_rate], **timing)
    probes = PROBES * 10 / config.dim
    probed = runs.growth(
        config,
        keys["threshold"],
        [schemes[name] for name in PROBED],
        probes.tolist(),
        steps=PROBE_STEPS,
        warmup=PROBE_STEPS // 3,
        seeds=min(config.seeds, PROBE_SEEDS),
    )
    probed = probed.rename(case="probed", rate="probe", seed="probe_seed")
    tuned = _tuned(config, keys["tuning"], [schemes[name] for name in TUNED])
    rates = _rates(config, predicted.mean_square_limit.sel(fixed="equal").values, tuned)
    cases = [runs.Case(schemes[name], rates[name]) for name in SCHEMES]
    measured = runs.losses(config, keys["reported"], cases, seeds=config.seeds)
    levels = ("scheme", "model_level", "data_level")
    results = xr.Dataset(
        {
            "growth": growth.isel(rate=0, drop=True)
            .assign_coords(case=list(FIXED))
            .rename(case="fixed"),
            "probed_growth": probed.assign_coords(probed=list(PROBED)),
            **{name: predicted[name] for name in predicted},
            **{name: measured[name].rename(case="scheme") for name in measured},
            "predicted_loss": predictions.losses(config, cases).rename(case="scheme"),
            "rate": (levels, np.stack([*rates.values()])),
            "tuning_loss": tuned,
        }
    )
    options = json.dumps(_artifacts.describe(config))
    return results.assign_coords(scheme=list(SCHEMES)).drop_attrs().assign_attrs(config=options)


def tuning_rates(config: Config) -> np.ndarray:
    """Return the rates to choose from."""
    return config.learning_rate * 2.0 ** np.linspace(*OCTAVES, config.rates)


def _tuned(config, key, schemes):
    """Return the mean loss over the tuning seeds at every rate, infinite where a run overflowed."""
    from experiments import _stability_runs as runs

    rates = tuning_rates(config)
    shape = config.model_levels, config.data_levels
    cases = [runs.Case(scheme, np.full(shape, rate)) for scheme in schemes for rate in rates]
    loss = runs.losses(config, key, cases, seeds=config.tuning_seeds).loss
    loss = loss.transpose("case", "model_level", "data_level", "seed")
    mean = np.nan_to_num(loss.values.mean(-1), nan=np.inf, posinf=np.inf)
    mean = mean.reshape(len(schemes), len(rates), *shape)
    import xarray as xr

    coordinates = {
        "tuned": list(TUNED),
        "tuning_rate": rates,
        "model_level": loss.model_level,
        "data_level": loss.data_level,
    }
    return xr.DataArray(mean, coordinates, [*coordinates])


def _rates(config, limit, tuning_loss):
    """Return the rates of every scheme by model and data level."""
    shape = config.model_levels, config.data_levels
    stable = np.minimum(config.learning_rate, STABLE_SHARE * limit)
    rates = {name: np.full(shape, config.learning_rate) for name in FIXED}
    rates["rescaled"] = np.tile(stable[:, None], (1, config.data_levels))
    best = tuning_loss.argmin("tuning_rate")
    for name in TUNED:
        rates[name] = tuning_loss.tuning_rate.values[best.sel(tuned=name).values]
    return rates
