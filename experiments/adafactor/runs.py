"""The runs of the Adafactor experiment: a small network learns images while gauges are recorded."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.adafactor.config import Config
from experiments.adafactor.memory import memory
from experiments.lab import Lab, models
from experiments.lab.data import Images
from nested_jax.problems import ClassificationBatch

if TYPE_CHECKING:
    import xarray as xr

PAPER, CONSTANT = "1 − t⁻⁰·⁸", "0.999"
BETAS = ("1 − t⁻⁰·⁵", PAPER, "1 − t⁻¹", "0.99", CONSTANT, "0.999, corrected")
"""Decays of the second moment; "corrected" means Adam's bias correction."""
CLIPS = (1.0, 1e30)
"""Clipping thresholds: the paper's, and one that never clips."""
STEPS = ("relative", "ramp-up", "ramp-up and decay")
"""The paper's step; the same with a ramp-up over the first tenth; the same with a cosine decay."""
POINTS = 50
"""Number of reported times: of gauges at equal ratios, of losses at equal distances."""
GAUGES = ("update_rms", "clip_factor", "step_rms", "rate")
CAP = 1e-2
"""The paper's cap of the relative step, at which gauges are reported."""
BATCHES = 200
"""Number of batches whose squared gradients are averaged to a second moment."""
LAYERS = {"first": "Dense_0", "second": "Dense_1"}


def simulate(config: Config, lab: Lab) -> "dict[str, xr.Dataset]":
    """Run every part."""
    parts = (training, shift, factored)
    results = {part.__name__: part(config, lab) for part in parts}
    lab.begin("memory")
    return results | {"memory": memory(config, lab.images)}


def beta2(kind: Any) -> Callable[[Any], jax.Array]:
    """Return the decay of the second moment as a function of the step; `kind` may be traced."""

    def at(count: Any) -> jax.Array:
        t = jnp.asarray(count, float) + 1
        corrected = 0.999 * (1 - 0.999 ** (t - 1)) / (1 - 0.999**t)
        powers = [1 - t**-0.5, 1 - t**-0.8, 1 - 1 / t]
        constants = [jnp.full_like(t, 0.99), jnp.full_like(t, 0.999)]
        return jnp.stack([*powers, *constants, corrected])[kind]

    return at


def optimizer(config: Config, step: str, kind: Any, clip: Any, cap: Any) -> Any:
    """Return Adafactor with its metrics."""
    ramp = max(config.steps // 10, 1)
    schedules = {
        "relative": None,
        "ramp-up": nj.with_warmup(nj.constant(config.steps), ramp),
        "ramp-up and decay": nj.with_warmup(nj.cosine(config.steps), ramp),
    }
    tx = nj.adafactor(cap, b2=beta2(kind), clip_threshold=clip, schedule=schedules[step])
    return nj.with_metrics(tx)


def training(config: Config, lab: Lab) -> "xr.Dataset":
    """Train with every combination of step, decay, clipping and cap."""

    def run(train: Any, test: Any, *, step: str, beta2: Any, clip: Any, cap: Any, seed: Any) -> Any:
        tx = optimizer(config, step, beta2, clip, cap)
        return train_one(config, lab.images, train, test, tx, seed)

    return _swept(config, lab, "training", run, {"step": STEPS}, {"cap": caps(config)})


def shift(config: Config, lab: Lab) -> "xr.Dataset":
    """Train at the paper's cap; half-way, every class takes the label of the next one."""

    def run(train: Any, test: Any, *, beta2: Any, clip: Any, seed: Any) -> dict[str, jax.Array]:
        tx = optimizer(config, "relative", beta2, clip, CAP)
        return train_one(config, lab.images, train, test, tx, seed, shifts=True)

    return _swept(config, lab, "shift", run, {}, {})


def factored(config: Config, lab: Lab) -> "xr.Dataset":
    """Return the second moment of both layers of a trained network, a row for each input."""

    def run(train: Any, *, seed: Any) -> dict[str, jax.Array]:
        _, problem = classified(config, lab.images, train)
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        tx = optimizer(config, "relative", BETAS.index(PAPER), CLIPS[0], CAP)
        trained = nj.rollout(tx, problem, key, config.steps).params

        def squares(key: jax.Array) -> dict[str, jax.Array]:
            batch, _ = problem.observe(problem.draw(key), None)
            gradients = jax.grad(problem.loss)(trained, batch)
            layers = {name: gradients[leaf]["kernel"] for name, leaf in LAYERS.items()}
            return {name: jnp.square(jnp.asarray(g, float)) for name, g in layers.items()}

        keys = jax.random.split(jax.random.fold_in(key, config.steps), BATCHES)
        return jax.tree.map(lambda x: x.mean(0), jax.lax.map(squares, keys))

    train = lab.images.train_images, lab.images.train_labels
    return lab.sweep("factored", Partial(run, train), nj.Grid(seed=range(config.seeds)))


def classified(config: Config, images: Images, train: Any) -> tuple[models.Model, nj.Problem]:
    """Return the small network and the problem of learning images."""
    model = models.mlp(images.train_images.shape[1], (config.hidden,), images.classes)
    size = config.batch_size
    return model, nj.classification(model.apply, model.init, *train, batch_size=size)


def caps(config: Config) -> np.ndarray:
    """Return the caps of the relative step, the paper's among them."""
    return CAP * np.sqrt(10.0) ** np.arange(-1, config.caps - 1)


def _swept(
    config: Config, lab: Lab, part: str, run: Callable[..., Any], before: Any, after: Any
) -> "xr.Dataset":
    """Sweep decays, clipping and seeds, and the axes `before` and `after`."""
    images = lab.images
    train = images.train_images, images.train_labels
    test = images.test_images, images.test_labels
    axes = {**before, "beta2": range(len(BETAS)), "clip": CLIPS, **after}
    grid = nj.Grid(**axes, seed=range(config.seeds))
    results = lab.sweep(part, Partial(run, train, test), grid)
    for name in (*GAUGES, "loss"):
        results[name] = results[name].rename({f"{name}_0": "window" if name == "loss" else "t"})
    windows = (np.arange(POINTS) + 0.5) * (config.steps // POINTS)
    return results.assign_coords(beta2=[*BETAS], t=times(config), window=windows)


def times(config: Config) -> np.ndarray:
    """Return when gauges are reported: mostly early, and soon after the change of labels."""
    early, half = np.geomspace(1, config.steps, POINTS), config.steps // 2
    late = half + np.geomspace(1, half, POINTS // 2)
    return np.unique(np.concatenate([early, [half], late]).round().astype(int))


def train_one(
    config: Config, images: Images, train: Any, test: Any, tx: Any, seed: Any, shifts: bool = False
) -> dict[str, jax.Array]:
    """Return gauges and losses of one run, and its loss and error at the end."""
    model, base = classified(config, images, train)

    def observe(draws: Any, step: Any) -> tuple[Any, Any]:
        batch, _ = base.observe(draws, None)
        moved = (batch.labels + 1) % images.classes
        labels = jnp.where(step >= config.steps // 2, moved, batch.labels)
        return batch._replace(labels=labels if shifts else batch.labels), step + 1

    trace = nj.rollout(
        tx,
        base._replace(init=lambda key: (base.init(key)[0], jnp.int32(0)), observe=observe),
        jax.random.fold_in(jax.random.key(config.seed), seed),
        config.steps,
        stride=1,
        record=lambda params, opt_state: nj.metrics_of(opt_state),
    )
    at = times(config) - 1
    logits = model.apply(trace.params, test[0])
    return {
        **{name: getattr(trace.records, name)[at] for name in GAUGES},
        "loss": jnp.asarray(trace.loss_curve).reshape(POINTS, -1).mean(1),
        "train_loss": base.loss(trace.params, ClassificationBatch(*train)),
        "test_error": jnp.mean(logits.argmax(1) != test[1]),
    }
