"""Options of the tracking experiment."""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import lab


@dataclasses.dataclass(frozen=True)
class Config:
    """Options; the task is that of the published level sweep, in shorter runs."""

    data_levels: lab.Count = 5
    """Sweep levels of the drifting true weights, and of the filter, from 1 to this."""
    dim: lab.Count = 10
    """Number of inputs. The model also has a bias."""
    decay: lab.UnitInterval = 0.95
    """Decay of every level of the drift."""
    noise_std: lab.Positive = 0.1
    """Standard deviation of the target noise."""
    steps: lab.Count = 8_000
    """Steps of each run, one example each."""
    warmup: Annotated[int, lab.count(0)] = 1_000
    """First steps, which the mean loss excludes."""
    seeds: lab.Several = 16
    """Reported runs of each method."""
    tuning_seeds: lab.Count = 4
    """Runs on which hyperparameters are tuned; they are not reported."""
    trials: Annotated[int, lab.count(4)] = 64
    """Hyperparameters tried for each method and number of data levels, in each round."""
    rounds: lab.Count = 3
    """Rounds of tuning, each around the best of those before."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/tracking")


QUICK = {
    "data_levels": 2,
    "steps": 1_500,
    "warmup": 500,
    "seeds": 3,
    "tuning_seeds": 1,
    "trials": 8,
    "rounds": 1,
}


def check(config: Config) -> None:
    """Raise for the first rule between options that is broken."""
    lab.check_warmup(config)
