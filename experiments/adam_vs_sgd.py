"""Adam is ahead of SGD at the rate that is customary for Adam; tuned, they are close.

The optimizer notes train a small network one example at a time, with an L2 penalty, at the rate
.001, and find Adam's running loss far below SGD's from the first thousands of 20,000 examples.
That is reproduced, and then asked what is left of it once every method is at its best: ten methods,
one example at a time and in mini-batches, with rate, momentum, initialisation and batch size
cross-validated on one grid for all, and the test examples looked at once, in the end.

    python -m experiments adam-vs-sgd            # about 5 minutes on 2 CPU cores
    python -m experiments adam-vs-sgd --quick    # below a minute: fewer examples, folds and seeds
    python -m experiments adam-vs-sgd --full     # Fashion-MNIST; says how long where no GPU is

Every part is a sweep with a store: stop it whenever you like, the same command goes on.

Expected of the default: at the rate .001 Adam's running loss is below SGD's from the first thousand
examples on and ends at .028 +- .008 against .228 +- .008; with each at its own rate (.0032 and
.032) SGD ends no higher, .028 +- .017 against .054 +- .045. In mini-batches cross-validated errors
of 5 to 87 % become 2.6 to 3.9 % as rate, momentum, initialisation and batch size are tuned, most
of it by the rate; on the test images SGD's and Adam's then differ by .2 +- 2.1 %.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import _adam_vs_sgd_runs as runs
from experiments import _cli, _command, _data
from nested_jax._core import checks as _checks


@dataclasses.dataclass(frozen=True)
class Config:
    """Adam against SGD and their relatives, untuned and tuned."""

    data: str = "digits"
    """digits, fashion-mnist, or a folder of idx files."""
    download: bool = False
    """Fetch Fashion-MNIST where it is not on this machine."""
    width: _cli.Integer = 32
    """Units of each hidden layer."""
    depth: _cli.Integer = 2
    """Number of hidden layers, at least 1."""
    examples: _cli.Integer = 20_000
    """Examples of each training, whatever the batch size; a multiple of 1000."""
    online: Annotated[str, _cli.word("all", "pair")] = "all"
    """One example at a time all methods, or SGD and Adam alone."""
    batch_sizes: _cli.Integer = 3
    """How many batch sizes to choose from: of 50, 10 and 200 the first 1, 2 or 3."""
    folds: _cli.Integer = 5
    """Folds of the cross-validation, at least 2."""
    seeds: _cli.Integer = 5
    """Runs of each kind that are reported, at least 2."""
    tuning_seeds: _cli.Integer = 2
    """Runs that rates are chosen on where there are no folds, apart from the reported ones."""
    penalty: _cli.Real = 1e-4
    """Factor of half the squared weights, added to the loss of all methods but AdamW."""
    weight_decay: _cli.Real = 1e-2
    """AdamW's in its place; times the rate."""
    levels: _cli.Integer = 3
    """Levels of nested momentum, the gradient being one; at least 2."""
    rounds: _cli.Integer = 5
    """Times that one training of every method is timed."""
    seed: _cli.Integer = 0
    """What all randomness starts from."""
    quick: bool = False
    """Fewer examples, folds and seeds, where these options are at their defaults."""
    full: bool = False
    """Fashion-MNIST at a size for a GPU, where these options are at their defaults."""
    device: Annotated[str, _cli.word("auto", "cpu", "gpu")] = "auto"
    """Where to run."""
    out: _cli.Folder = Path("results/adam-vs-sgd")
    """Folder for results, figures and report."""


QUICK = {
    "width": 16,
    "depth": 1,
    "examples": 5_000,
    "online": "pair",
    "batch_sizes": 1,
    "folds": 3,
    "seeds": 4,
    "tuning_seeds": 2,
    "rounds": 3,
}
FULL = {"data": "fashion-mnist", "width": 256, "examples": 240_000}


def main(config: Annotated[Config, _cli.OPTIONS]) -> None:
    """Race Adam, SGD and their relatives, one example at a time and in mini-batches."""
    # Networks are trained in single precision.
    with _command.begun(config, check, load=load, x64=False, quick=QUICK, full=FULL) as run:
        run.announce(runs.estimate)
        results = runs.simulate(run.config, run.images)
        from experiments import _adam_vs_sgd_report, _sections

        made = run.made() | {"data": run.images.origin}
        _sections.store(run.config.out, made, results)
        _adam_vs_sgd_report.write(run.config.out)


def check(config: Config) -> None:
    """Raise for the first option out of range or of the wrong kind."""
    counts = ("width", "depth", "examples", "batch_sizes", "tuning_seeds", "rounds")
    _command.check_counts(config, 1, *counts)
    _command.check_counts(config, 2, "folds", "seeds", "levels")
    _command.check_multiple(config, runs.WINDOW, "examples")
    _checks.check_below("--batch-sizes", config.batch_sizes, len(runs.BATCHES) + 1)
    for name in ("penalty", "weight_decay"):
        _checks.check_non_negative(_command.option(name), getattr(config, name))
    _command.check_seed(config)
    _checks.check_choice("--online", config.online, ("all", "pair"))


def load(config: Config) -> _data.Images:
    """Return the images; raise if there are more folds than examples."""
    images = _data.asked(config)
    examples = len(images.train_labels)
    if config.folds > examples:
        raise ValueError(
            f"`--folds` must be at most the {examples} training images, got {config.folds}."
        )
    return images
