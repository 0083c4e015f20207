"""Options of the stability experiment."""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import lab

WINDOWS = 20
"""Windows of a run's loss curve; the slope of a diverging run is fitted to the last half."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options; the task is that of the published level sweep."""

    model_levels: lab.Count = 19
    """Sweep momentum levels from 1 to this."""
    data_levels: lab.Count = 19
    """Sweep levels of the drifting true weights from 1 to this."""
    dim: lab.Count = 10
    """Number of inputs. The model also has a bias."""
    decay: lab.UnitInterval = 0.95
    """Decay of every level of the drift and of an equal cascade."""
    learning_rate: lab.Positive = 0.01
    """Learning rate where it is not tuned."""
    steps: Annotated[int, lab.count(multiple=WINDOWS)] = 30_000
    """Steps of each run, a multiple of 20."""
    warmup: Annotated[int, lab.count(0)] = 3_000
    """First steps, which mean losses and growth exclude."""
    noise_std: lab.NonNegative = 0.1
    """Standard deviation of the target noise."""
    # The best level count is chosen on half of the seeds; the other half gives an interval.
    seeds: Annotated[int, lab.count(4)] = 32
    """Reported runs of each kind, at least 4."""
    tuning_seeds: lab.Count = 4
    """Runs of each kind on which learning rates are tuned; they are not reported."""
    rates: lab.Several = 16
    """Number of learning rates to choose from, at equal ratios from 1/64 to 16 times the given."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/stability")


QUICK = {
    "model_levels": 8,
    "data_levels": 3,
    "steps": 6_000,
    "seeds": 6,
    "tuning_seeds": 2,
    "rates": 6,
}


def check(config: Config) -> None:
    """Raise for the first rule between options that is broken."""
    lab.check_warmup(config)
