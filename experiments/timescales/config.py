"""Options of the experiment on time scales."""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import lab
from experiments.timescales import text

STRIDE = 5
"""Steps between two readings of the gauge. Lookahead synchronizes as often."""
WINDOWS = 20
"""Windows of the runs on quadratics; the last quarter of them is reported."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    text: str = ""
    """A UTF-8 file for the language model; by default the help topics of Python."""
    trials: Annotated[int, lab.count(4)] = 16
    """Hyperparameters tried for each method and case, in each round."""
    rounds: lab.Count = 2
    """Rounds of tuning, each around the best of those before."""
    tuning_seeds: lab.Count = 2
    """Runs on which hyperparameters are tuned; they are not reported. The language model takes one,
    since its batches already average more."""
    seeds: lab.Several = 8
    """Reported runs of each method on drift and on quadratics, at least 2."""
    data_levels: lab.Count = 3
    """Levels of the drifting true weights, from 1 to this."""
    drift_steps: Annotated[int, lab.count(10)] = 4_000
    """Steps of each run on drift; the first quarter is not counted."""
    quadratic_steps: Annotated[int, lab.count(multiple=WINDOWS)] = 200
    """Steps of each run on a quadratic, a multiple of 20."""
    text_steps: Annotated[int, lab.count(multiple=STRIDE)] = 200
    """Steps of each run of the language model, a multiple of 5."""
    text_seeds: lab.Several = 4
    """Reported runs of each method on the language model, at least 2."""
    batch_size: lab.Count = 32
    """Windows of characters in each step of the language model."""
    context: Annotated[int, lab.count(1, below=129)] = 16
    """Characters from which the next is predicted."""
    width: Annotated[int, lab.count(1, below=1025)] = 64
    """Units of the language model's hidden layer."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/timescales")


QUICK = {
    "trials": 4,
    "rounds": 1,
    "tuning_seeds": 1,
    "seeds": 2,
    "data_levels": 1,
    "drift_steps": 200,
    "quadratic_steps": 40,
    "text_steps": 20,
    "text_seeds": 2,
    "context": 4,
    "width": 8,
}


def check(config: Config) -> None:
    """Raise for a text that cannot be read, or is too short for the context."""
    text.load(config.text, config.context)
