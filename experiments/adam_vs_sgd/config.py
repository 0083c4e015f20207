"""Options of Adam against SGD, and the settings that every method is tuned over."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments import lab
from experiments.lab import data

BATCHES = (50, 10, 200)
"""The first is the untuned one."""
INITIALISATIONS = ("he", "glorot", "small")
MOMENTA = (0.5, 0.9, 0.97)
RATES = 10.0 ** (np.arange(-8, 2) / 2)
"""Learning rates in mini-batches: half decades from 0.0001 to 3.16."""
RACE_RATES = 10.0 ** (np.arange(-8, 5) / 2)
"""Learning rates on other models, up to 100: gradients of a squared error a pixel are small."""
ONLINE_RATES = 10.0 ** (np.arange(-8, 0) / 2)
"""Learning rates for one example at a time: half decades from 0.0001 to 0.316."""
UNTUNED: dict[str, Any] = {
    "learning_rate": float(RATES[2]),
    "momentum": MOMENTA[1],
    "initialisation": 0,
    "batch": str(BATCHES[0]),
}
"""The notes' learning rate of 0.001 and customary constants, in the order of their tuning."""
WINDOW = 1000
"""Examples of a running mean."""
SPAN = 200
"""Examples of a point of a loss curve; a multiple of every batch size."""
SCHEDULES = ("constant", "cosine", "step drop")
WARMUPS = (0.0, 0.1)
"""Shares of the steps in which the learning rate rises."""
FIFTHS = 5
"""Times in a run at which distances and rates are recorded; it divides all numbers of steps."""
CHUNKS = {"tuning": 45, "schedules": 90, "activations": 75, "races": 105, "generalization": 10}
"""Trainings per chunk on a CPU: to find the best size takes another compilation of each part."""
DIVERGED = 1.5
"""A run with a validation loss above this times the untrained network's has diverged."""
FAILED = 0.5
"""A run that misclassifies more than this share has failed, as one that overflows has."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    data: lab.Data = "digits"
    download: lab.Download = False
    width: lab.Count = 32
    """Units of each hidden layer."""
    depth: lab.Count = 2
    """Number of hidden layers."""
    examples: Annotated[int, lab.count(multiple=WINDOW)] = 20_000
    """Examples of each training run at any batch size; a multiple of 1000."""
    methods: Annotated[str, lab.choice("all", "few")] = "all"
    """Methods that are compared: all, or a few: SGD, momentum and Adam."""
    batch_sizes: Annotated[int, lab.count(below=len(BATCHES) + 1)] = 3
    """Number of batch sizes to choose from: the first 1, 2 or 3 of 50, 10 and 200."""
    folds: lab.Several = 5
    """Folds of the cross-validation."""
    seeds: lab.Several = 5
    """Runs of each kind that are reported."""
    tuning_seeds: lab.Count = 2
    """Further runs, to choose learning rates on where there are no folds."""
    penalty: lab.NonNegative = 1e-4
    """Factor of half the squared weights, added to the loss of all methods but AdamW."""
    weight_decay: lab.NonNegative = 1e-2
    """Weight decay of AdamW, which replaces the penalty; it is multiplied by the learning rate."""
    levels: lab.Several = 3
    """Levels of nested momentum; the gradient is the first."""
    splits: lab.Several = 20
    """Random splits of all images, to compare how well SGD and Adam generalize."""
    rounds: lab.Count = 5
    """Number of times that a training run of every method is timed."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    full: lab.Full = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/adam-vs-sgd")


QUICK = {
    "width": 8,
    "depth": 1,
    "examples": 2_000,
    "methods": "few",
    "batch_sizes": 1,
    "folds": 2,
    "seeds": 3,
    "tuning_seeds": 1,
    "splits": 3,
    "rounds": 1,
}
FULL = {"data": "fashion-mnist", "width": 256, "examples": 240_000}


def check_images(config: Config, images: data.Images) -> None:
    """Raise if there are more folds than training images."""
    examples = len(images.train_labels)
    if config.folds > examples:
        raise ValueError(
            f"`--folds` must be at most the {examples} training images, got {config.folds}."
        )
