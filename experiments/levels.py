"""Each level of nested momentum multiplies the loss; levels in the drifting weights do not matter.

The published level sweep: m = 1 ... 19 levels of momentum in the model against d = 1 ... 19 levels
in the drift of the true weights of a linear regression. With its own random streams (the default)
it is reproduced to the printed digit; `--stream jax` asks whether other chance says the same.

    python -m experiments levels

5 to 10 s on 2 CPU cores (.2 s of it the 361 runs). Expected of the published streams: the
regression of the log loss on the levels has slope 12.9085 +- .2984 for the model's level and
-.0347 +- .2984 for the data's; runs of up to 5 levels converge, those of 6 and more diverge. The
theory of the cascade, which knows none of the runs, has slopes of 13.02 and -.03:
`python -m experiments stability` asks why.
"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments import _artifacts, _cli, _command
from experiments._levels_runs import function, initial_loss
from nested_jax import theory
from nested_jax._core import checks as _checks

if TYPE_CHECKING:
    import xarray as xr

REFERENCE = Path(__file__).parent / "data" / "published_losses.csv"


@dataclasses.dataclass(frozen=True)
class Config:
    """The published level sweep."""

    model_levels: _cli.Integer = 19
    """Sweep levels of momentum from 1 to this."""
    data_levels: _cli.Integer = 19
    """Sweep levels of the drifting true weights from 1 to this."""
    dim: _cli.Integer = 10
    """Number of inputs; the model has a bias besides."""
    decay: _cli.Real = 0.95
    """Decay of every level, of the model and of the drift, in [0, 1)."""
    learning_rate: _cli.Real = 0.01
    """Step size."""
    steps: _cli.Integer = 30_000
    """Steps of each run, one example a step."""
    warmup: _cli.Integer = 3_000
    """First steps, which the mean loss leaves out."""
    noise_std: _cli.Real = 0.1
    """Standard deviation of the target's noise."""
    model_seed: _cli.Integer = 42
    """Seed of the model's initial weights."""
    data_seed: _cli.Integer = 123
    """Seed of the data."""
    stream: Annotated[str, _cli.word("published", "jax")] = "published"
    """Random numbers of the published experiment, or of JAX."""
    seeds: _cli.Integer = 1
    """Repeat everything with this many seeds, counted up from the two given."""
    device: Annotated[str, _cli.word("auto", "cpu", "gpu")] = "auto"
    """Where to run."""
    implementation: Annotated[str, _cli.word("scan", "pallas")] = "scan"
    """A compiled scan, or GPU kernels with the loop over time inside (never measured on a GPU)."""
    out: _cli.Folder = Path("results/levels")
    """Folder for tables, figures and report."""


def main(config: Annotated[Config, _cli.OPTIONS]) -> None:
    """Sweep levels of momentum against levels of drift in the true weights."""
    with _command.begun(config, check) as run:
        if config.implementation == "pallas" and run.device.platform != "gpu":
            raise _cli.UsageError('`--implementation` must be "scan" without a GPU, got "pallas".')
        results = simulate(config).assign(predicted_loss=predict(config))
        from experiments import _levels_report

        difference = published_difference(config, results)
        regressions = _levels_report.regressions(results)
        _levels_report.write(config.out, run.made(), results, regressions, difference)
        _levels_report.show(results, regressions, difference)


def check(config: Config) -> None:
    """Raise for the first option out of range or of the wrong kind."""
    _command.check_counts(config, 1, "model_levels", "data_levels", "dim", "steps", "seeds")
    _command.check_warmup(config)
    _checks.check_unit_interval("--decay", config.decay)
    _checks.check_non_negative("--learning-rate", config.learning_rate)
    _checks.check_non_negative("--noise-std", config.noise_std)
    for name in ("model_seed", "data_seed"):
        _command.check_seed(config, name, below=2**64 - config.seeds + 1)
    _checks.check_choice("--stream", config.stream, ("published", "jax"))
    _checks.check_choice("--implementation", config.implementation, ("scan", "pallas"))
    if config.stream == "published":
        _check_memory(config)


def _check_memory(config: Config) -> None:
    """Raise if the published streams, which are held whole, do not fit into memory."""
    normals = config.seeds * (2 * config.dim + 1) * (config.steps + config.data_levels)
    needed = 4 * 8 * normals / 2**30  # Words, candidates and samples while they are drawn.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if needed > memory:
        raise ValueError(
            f"`--steps` must leave the published stream in memory ({memory:.1f} GiB), got "
            f"{config.steps}, which needs {needed:.1f} GiB; `--stream jax` needs none."
        )


def simulate(config: Config) -> "xr.Dataset":
    """Run every combination of levels and seeds as one program.

    Returns:
        `loss` (mean after warm-up) and `first_beyond` (first step whose loss was a thousand
        times that of the untrained model, -1 if none) over model_level, data_level and, if there
        are several, seed; and `diverged`: whether a run ended worse than it began.
    """
    axes = {
        "model_level": range(1, config.model_levels + 1),
        "data_level": range(1, config.data_levels + 1),
        "seed": range(config.seeds),
    }
    results = nj.sweep(function(config), nj.Grid(**axes))
    # Not `loss > initial`, which is false for NaN.
    results["diverged"] = ~(results.loss <= initial_loss(config))
    results.loss.attrs = {"long_name": "mean loss after warm-up", "units": "squared error"}
    return results if config.seeds > 1 else results.isel(seed=0, drop=True)


def predict(config: Config) -> "xr.DataArray":
    """Return the mean loss that theory expects of every combination of levels.

    Where the mean square of the error settles it is the stationary loss, and else the untrained
    model's loss, multiplied a step as the mean square is in the end.
    """
    import xarray as xr

    levels = {
        "model_level": np.arange(1, config.model_levels + 1),
        "data_level": np.arange(1, config.data_levels + 1),
    }
    numbers = {
        name: getattr(config, name)
        for name in ("dim", "decay", "learning_rate", "steps", "warmup", "noise_std")
    }
    # Eigenvalues of matrices that are not symmetric are the CPU's alone.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        losses = _predicted(numbers, initial_loss(config), *levels.values())
    attributes = {"long_name": "predicted mean loss after warm-up", "units": "squared error"}
    return xr.DataArray(np.asarray(losses), levels, [*levels], attrs=attributes)


@jax.jit
def _predicted(numbers, initial, model_levels, data_levels):
    most = model_levels.size, data_levels.size

    def predicted(model_level, data_level):
        decay, dim, rate = (numbers[name] for name in ("decay", "dim", "learning_rate"))
        system = theory.cascade(nj.nested_decays(model_level, decay=decay, max_levels=most[0]))
        drift = theory.cascade(
            nj.nested_decays(data_level + 1, decay=decay, max_levels=most[1] + 1)
        )
        settled = theory.stationary_loss(
            system, dim, rate, noise_std=numbers["noise_std"], drift=drift
        ).total
        growth = theory.mean_square_growth(system, dim, rate)
        # The mean of exp(growth t) over the steps that are counted, by its logarithm.
        span = growth * (numbers["steps"] - numbers["warmup"])
        mean = jnp.where(span == 0, 1, -jnp.expm1(-span) / jnp.where(span == 0, 1, span))
        grown = initial * jnp.exp(growth * numbers["steps"] + jnp.log(mean))
        return jnp.where(jnp.isfinite(settled), settled, grown)

    return jax.vmap(jax.vmap(predicted, (None, 0)), (0, None))(model_levels, data_levels)


def published_difference(config: Config, results: "xr.Dataset") -> float | None:
    """Return the largest relative difference to the published losses, where there are any."""
    defaults = _artifacts.describe(Config())
    computed = {name: defaults[name] for name in ("device", "implementation")}
    if _artifacts.describe(config) | computed != defaults:
        return None
    import pandas as pd

    reference = pd.read_csv(REFERENCE).set_index(["model_level", "data_level"]).to_xarray().loss
    return float(abs(results.loss / reference - 1).max())
