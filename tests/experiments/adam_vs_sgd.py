"""What the tests of Adam against SGD share: a small configuration, and where it runs."""

import jax

from experiments import lab
from experiments.adam_vs_sgd import EXPERIMENT
from experiments.adam_vs_sgd.config import Config

RTOL = 1e-5  # Programs of float32 that add up in different orders, over some hundred steps.
SMALL = Config(
    width=4,
    depth=1,
    examples=1000,
    methods="few",
    batch_sizes=1,
    folds=2,
    seeds=2,
    tuning_seeds=1,
    splits=2,
    rounds=2,
)


def where(folder, images):
    device = jax.devices("cpu")[0]
    return lab.Lab(folder=folder, device=device, parts=EXPERIMENT.parts, images=images)
