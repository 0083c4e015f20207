"""How far learning rate and weight decay can be tuned apart: 14 heatmaps of trainings on images.

AdamW with its paper's decay (which the schedule scales and the rate does not), normalized by the
length of the cycle or not, under four schedules; AdamW with Adafactor's second moment and relative
step; and Adafactor itself over its cap and clip threshold. Every heatmap is 11 x 12 trainings a
seed, one sweep with a store of its own: stop it whenever you like, the same command goes on.

    python -m experiments heatmaps            # 14 x 792 trainings on digits
    python -m experiments heatmaps --quick    # below a minute: fewer steps and seeds
    python -m experiments heatmaps --full     # on Fashion-MNIST; says how long where no GPU is

About 4 minutes on 2 CPU cores. Expected of the default: under step drop, cosine and warm restarts
the best decay of AdamW moves with the rate, by 1 to 1.7 powers of two for one, and the largest
tolerable one by .7 to .8; under a fixed schedule too few rates tell a best decay. Normalization, a
change of units under schedules of one cycle, changes nothing that 6 seeds show under warm restarts.
With Adafactor's second moment and relative step the slopes are about half as large.
"""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments import _cli, _command, _data, _models
from experiments._heatmaps_variants import VARIANTS, Variant, cells, optimizer, units
from nested_jax._core import checks as _checks

if TYPE_CHECKING:
    import xarray as xr

EVALUATED = 1000
"""Examples that are evaluated at once, at most."""
UNTRAINED = 1.05
"""A training that ends with so many times the loss of the untrained network has diverged."""
QUICK_CHUNK = 66
"""Cells at once where time is short, because the best size takes another compilation to find."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Heatmaps of learning rate and weight decay."""

    data: str = "digits"
    """digits, fashion-mnist, or a folder of idx files."""
    download: bool = False
    """Fetch Fashion-MNIST where it is not on this machine."""
    width: _cli.Integer = 64
    """Units of each hidden layer."""
    depth: _cli.Integer = 2
    """Number of hidden layers; with 0 it is logistic regression."""
    activation: Annotated[str, _cli.word(*_models.ACTIVATIONS)] = "relu"
    """Of the hidden layers."""
    initialisation: Annotated[str, _cli.word(*_models.INITIALISATIONS)] = "he"
    """Of the weights."""
    batch_size: _cli.Integer = 64
    """Examples of a step."""
    steps: _cli.Integer = 1024
    """Steps of each training."""
    seeds: _cli.Integer = 6
    """Trainings of each cell, at least 2; all cells share their seeds."""
    seed: _cli.Integer = 0
    """The first seed."""
    quick: bool = False
    """Fewer steps and seeds, where these options are at their defaults."""
    full: bool = False
    """Fashion-MNIST at a size for a GPU, where these options are at their defaults."""
    device: Annotated[str, _cli.word("auto", "cpu", "gpu")] = "auto"
    """Where to run."""
    out: _cli.Folder = Path("results/heatmaps")
    """Folder for results, figures and report."""


# Powers of four, so that the root of the steps is a power of two.
QUICK = {"width": 16, "depth": 1, "batch_size": 32, "steps": 64, "seeds": 2}
FULL = {
    "data": "fashion-mnist",
    "width": 256,
    "batch_size": 128,
    "steps": 16_384,
    "seeds": 3,
}


def main(config: Annotated[Config, _cli.OPTIONS]) -> None:
    """Train at every learning rate and weight decay, in 14 variants."""
    # Networks are trained in single precision; what has to be exact is at its small numbers.
    with _command.begun(config, check, load=_data.asked, x64=False, quick=QUICK, full=FULL) as run:
        run.announce(estimate)
        results = simulate(run.config, run.images)
        from experiments import _heatmaps_report

        made = run.made() | {"data": run.images.origin}
        _heatmaps_report.write(run.config.out, made, results)
        _heatmaps_report.show(results)


def check(config: Config) -> None:
    """Raise for the first option out of range or of the wrong kind."""
    _command.check_counts(config, 1, "width", "batch_size", "steps")
    _command.check_counts(config, 0, "depth")
    _command.check_counts(config, 2, "seeds")
    _command.check_seed(config, below=2**31 - config.seeds)
    _checks.check_choice("--activation", config.activation, _models.ACTIVATIONS)
    _checks.check_choice("--initialisation", config.initialisation, _models.INITIALISATIONS)


def grid(config: Config, variant: Variant) -> nj.Grid:
    """Return the cells of a heatmap, and the seeds."""
    seeds = range(config.seed, config.seed + config.seeds)
    return nj.Grid(**cells(variant, config.steps), seed=seeds)


def network(config: Config, images: _data.Images) -> _models.Model:
    """Return the network that is trained."""
    return _models.mlp(
        images.train_images.shape[1],
        (config.width,) * config.depth,
        images.classes,
        activation=config.activation,
        initialisation=config.initialisation,
    )


def chance(config: Config, images: _data.Images) -> tuple[Any, jax.Array]:
    """Return initial parameters and batches of all seeds, which all variants share.

    They are drawn once: a generator in each of the programs would take longer to compile than all
    the rest of it.
    """
    model = network(config, images)
    few = images.train_images[:1], images.train_labels[:1]
    problem = nj.classification(model.apply, model.init, *few, batch_size=config.batch_size)

    def of_seed(seed):
        key_model, key_batches = jax.random.split(jax.random.key(seed))
        draws = jax.vmap(problem.draw)(jax.random.split(key_batches, config.steps))
        return problem.init(key_model)[0], draws

    seeds = jnp.arange(config.seed, config.seed + config.seeds)
    return jax.jit(jax.vmap(of_seed))(seeds)


def function(config: Config, images: _data.Images, variant: Variant, chance: Any) -> Partial:
    """Return the pure function of rate, decay (or threshold) and seed that is swept."""
    model = network(config, images)

    def run(train, test, chance, *, learning_rate, seed, **across):
        problem = nj.classification(model.apply, model.init, *train, batch_size=config.batch_size)
        tx = optimizer(variant, config.steps, learning_rate, across[variant.across])
        params, draws = jax.tree.map(lambda x: x[seed - config.seed], chance)
        # Windows that divide the steps: those left over would be a second copy of the program.
        window = math.gcd(config.steps, 512)
        initial = params, None
        trace = nj.rollout(
            tx, problem, None, config.steps, initial=initial, draws=draws, stride=window
        )
        return evaluate(model, trace.params, train, test)

    train = jnp.asarray(images.train_images), jnp.asarray(images.train_labels)
    test = jnp.asarray(images.test_images), jnp.asarray(images.test_labels)
    return Partial(run, train, test, chance)


def evaluate(model: _models.Model, params: Any, train: Any, test: Any) -> dict[str, jax.Array]:
    """Return mean cross-entropy and share of errors, on the training and the test images."""

    def of_some(examples):
        # A few at a time: the hidden layers of all examples and cells would not fit into memory.
        images, labels = examples
        logits = model.apply(params, images)
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        # An error, too, if a logit is NaN.
        right = (jnp.argmax(logits, axis=1) == labels) & jnp.isfinite(logits).all(1)
        return jax.nn.logsumexp(logits, axis=1) - own, ~right

    count = len(train[1])
    # Together, so that the network is compiled once.
    examples = tuple(jnp.concatenate(parts) for parts in zip(train, test, strict=True))
    total = count + len(test[1])
    blocks = -(-total // EVALUATED)
    size = -(-total // blocks)
    filled = jax.tree.map(lambda x: _filled(x, blocks, size), examples)
    losses, wrong = jax.tree.map(lambda x: x.reshape(-1)[:total], jax.lax.map(of_some, filled))
    found = {}
    for kind, part in (("train", slice(count)), ("test", slice(count, total))):
        found[f"{kind}_loss"] = jnp.mean(losses[part])
        found[f"{kind}_error"] = jnp.mean(wrong[part], dtype=losses.dtype)
    return found


def _filled(x, blocks, size):
    """Return `x` in blocks along its first axis, the last filled up with zeros."""
    missing = blocks * size - len(x)
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(blocks, size, *x.shape[1:])


def initial_losses(config: Config, images: _data.Images, drawn: tuple[Any, Any]) -> np.ndarray:
    """Return the training losses of the initial networks."""
    model = network(config, images)
    train = jnp.asarray(images.train_images), jnp.asarray(images.train_labels)
    losses = jax.vmap(lambda params: evaluate(model, params, train, train)["train_loss"])
    return np.asarray(jax.jit(losses)(drawn[0]), np.float64)


def simulate(config: Config, images: _data.Images) -> "dict[str, xr.Dataset]":
    """Train every cell of every variant that is not in the store.

    Returns:
        By variant, over learning_rate, weight_decay or clip_threshold, and seed: `train_loss`,
        `train_error`, `test_loss`, `test_error`, and `diverged`: whether the training loss ended
        above that of the initial network, and of guessing.
    """
    import xarray as xr  # Slow to import.

    results = {}
    drawn = chance(config, images)
    guess = float(np.log(images.classes))
    initial = np.maximum(initial_losses(config, images, drawn), guess)
    for name, variant in VARIANTS.items():
        results[name] = nj.sweep(
            function(config, images, variant, drawn),
            grid(config, variant),
            store=config.out / "store" / name,
            chunk=QUICK_CHUNK if config.quick else "auto",
            units=units(variant),
        )
        # Not `loss > initial`, which is false for NaN; and a network that decayed to nothing
        # guesses, to rounding and to the classes' shares.
        bound = xr.DataArray(UNTRAINED * initial, dims="seed")
        results[name]["diverged"] = ~(results[name].train_loss <= bound)
        results[name].attrs["guess"] = guess
        _command.tell(variant.title, results[name])
    return results


def estimate(config: Config, images: _data.Images) -> float:
    """Return about how many seconds the trainings take, from a few steps of a few."""
    seconds = []
    variant = VARIANTS["adamw-cosine"]
    axes = {name: values[:2] for name, values in cells(variant, config.steps).items()}
    few = nj.Grid(**axes, seed=[config.seed])
    steps = (4, 24)
    for count in steps:
        shorter = dataclasses.replace(config, steps=count)
        run = function(shorter, images, variant, chance(shorter, images))
        swept = nj.sweep(run, few, progress=False)
        seconds.append(swept.attrs["run_seconds"])
    a_step = max(seconds[1] - seconds[0], 0.0) / (steps[1] - steps[0]) / few.size
    # What does not grow with the steps is the evaluation.
    a_run = seconds[0] / few.size
    return len(VARIANTS) * grid(config, variant).size * (a_run + config.steps * a_step)
