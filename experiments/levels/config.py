"""Options of the level sweep."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

from experiments import lab


@dataclasses.dataclass(frozen=True)
class Config:
    """Options; the defaults are those of the published experiment."""

    model_levels: lab.Count = 19
    """Sweep momentum levels from 1 to this."""
    data_levels: lab.Count = 19
    """Sweep levels of the drifting true weights from 1 to this."""
    dim: lab.Count = 10
    """Number of inputs. The model also has a bias."""
    decay: lab.UnitInterval = 0.95
    """Decay of every level, in the model and in the drift."""
    learning_rate: lab.NonNegative = 0.01
    """Learning rate."""
    steps: lab.Count = 30_000
    """Steps of each run, one example each."""
    warmup: Annotated[int, lab.count(0)] = 3_000
    """First steps, which the mean loss excludes."""
    noise_std: lab.NonNegative = 0.1
    """Standard deviation of the target noise."""
    model_seed: Annotated[int, lab.count(0, below=2**64)] = 42
    """Seed of the model's initial weights."""
    data_seed: Annotated[int, lab.count(0, below=2**64)] = 123
    """Seed of the data."""
    stream: Annotated[str, lab.choice("published", "jax")] = "published"
    """Random numbers of the published experiment, or of JAX."""
    seeds: lab.Count = 1
    """Number of repetitions; the two seeds count up from the given ones."""
    bound: Annotated[str, lab.choice("fast", "full")] = "fast"
    """Inputs of the best possible loss: with more than 5 data levels 2,000 of them, or all."""
    device: lab.Device = "auto"
    implementation: Annotated[str, lab.choice("scan", "pallas")] = "scan"
    """A compiled scan, or GPU kernels that contain the loop over time (not yet run on a GPU)."""
    out: lab.Folder = Path("results/levels")


def check(config: Config) -> None:
    """Raise for the first rule between options that is broken."""
    lab.check_warmup(config)
    for name in ("model_seed", "data_seed"):
        if getattr(config, name) + config.seeds > 2**64:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"`{option}` must be less than {2**64 - config.seeds + 1}, "
                f"got {getattr(config, name)}."
            )
    if config.stream == "published":
        _check_memory(config)


def _check_memory(config: Config) -> None:
    """Raise if the published streams, which are drawn in advance, do not fit into memory."""
    normals = config.seeds * (2 * config.dim + 1) * (config.steps + config.data_levels)
    needed = 4 * 8 * normals / 2**30  # Words, candidates and samples exist at the same time.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if needed > memory:
        raise ValueError(
            f"`--steps` must leave the published stream in memory ({memory:.1f} GiB), got "
            f"{config.steps}, which needs {needed:.1f} GiB; `--stream jax` needs none."
        )
