"""Options of the Adam experiment."""

import dataclasses
from pathlib import Path
from typing import Annotated, TypeAlias

from experiments import lab

WINDOWS = 1000
"""Windows of a game, at the end of each of which the regret is computed."""
WINDOW = 20
"""Steps between two losses of a network that are recorded."""
GameSteps: TypeAlias = Annotated[int, lab.count(multiple=WINDOWS)]


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    data: lab.Data = "digits"
    download: lab.Download = False
    silence: lab.Count = 20_000
    """Largest number of zero gradients before the gradients that make the largest step."""
    dim: lab.Count = 500
    """Coordinates of a stream of gradients, each with independent noise."""
    signal_steps: lab.Count = 3_000
    """Steps on each stream of gradients."""
    early_steps: lab.Count = 30_000
    """Steps on a constant gradient, with and without bias correction."""
    training_steps: lab.Count = 3_000
    """Steps on the noisy quadratic."""
    hidden: lab.Count = 32
    """Width of the network's hidden layer."""
    batch_size: lab.Count = 32
    """Examples per step of the network."""
    pretraining_steps: lab.Count = 3_000
    """Steps of the network before a fresh Adam goes on."""
    network_steps: Annotated[int, lab.count(multiple=WINDOW)] = 1_000
    """Steps of the network with each method of the ladder, a multiple of 20."""
    game_steps: GameSteps = 300_000
    """Steps of the counterexamples, a multiple of 1000."""
    short_game_steps: GameSteps = 20_000
    """Steps of the counterexample of period 3, a multiple of 1000."""
    online_dim: lab.Count = 20
    """Coordinates of the other online problems."""
    regret_steps: GameSteps = 100_000
    """Steps of the games with tuned learning rates, a multiple of 1000."""
    rates: lab.Several = 13
    """Number of learning rates from 0.001 to 10 to choose from."""
    seeds: lab.Several = 16
    """Runs of each kind that are reported."""
    tuning_seeds: lab.Count = 8
    """Further runs of each kind, which choose the learning rate."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/adam")


QUICK = {
    "silence": 2_000,
    "dim": 50,
    "signal_steps": 1_000,
    "early_steps": 5_000,
    "training_steps": 1_000,
    "hidden": 16,
    "pretraining_steps": 300,
    "network_steps": 100,
    "game_steps": 10_000,
    "short_game_steps": 2_000,
    "regret_steps": 2_000,
    "rates": 5,
    "seeds": 3,
    "tuning_seeds": 2,
}
