"""The runs of the Adafactor experiment: trainings with their gauges, and what states weigh."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments import _data, _models
from nested_jax.problems import ClassificationBatch

if TYPE_CHECKING:
    import xarray as xr

    from experiments.adafactor import Config

BETAS = ("1 − t⁻⁰·⁵", "1 − t⁻⁰·⁸", "1 − t⁻¹", ".99", ".999", ".999, corrected")
"""Decays of the second moment, the paper's being the second; "corrected" as Adam does."""
PAPER = 1
CLIPS = (1.0, 1e30)
"""Thresholds: the paper's, and one that only measures."""
STEPS = ("relative", "ramp-up", "ramp-up and decay")
"""The paper's step; the same rising over the first tenth; and then falling as a cosine."""
POINTS = 50
"""Times at which gauges are reported, at equal ratios, and losses, at equal distances."""
GAUGES = ("update_rms", "clip_factor", "step_rms", "rate")
CAP = 1e-2
"""The paper's cap of the relative step, at which gauges are looked at."""


def simulate(config: "Config", images: _data.Images) -> dict[str, "xr.Dataset"]:
    """Run every part; return name -> results."""
    results = {"training": training(config, images), "shift": shift(config, images)}
    for part in results.values():
        part.attrs["origin"] = images.origin
    return {**results, "memory": memory(config, images)}


def beta2(kind: jax.Array) -> Any:
    """Return the decay of the second moment as a function of the step; `kind` may be traced."""

    def at(count):
        t = jnp.asarray(count, float) + 1
        corrected = 0.999 * (1 - 0.999 ** (t - 1)) / (1 - 0.999**t)
        powers = [1 - t**-0.5, 1 - t**-0.8, 1 - 1 / t]
        constants = [jnp.full_like(t, 0.99), jnp.full_like(t, 0.999)]
        return jnp.stack([*powers, *constants, corrected])[kind]

    return at


def optimizer(config: "Config", step: str, kind: Any, clip: Any, cap: Any) -> Any:
    """Return Adafactor with these choices, measured."""
    ramp = max(config.steps // 10, 1)
    schedules = {
        "relative": None,
        "ramp-up": nj.with_warmup(nj.constant(config.steps), ramp),
        "ramp-up and decay": nj.with_warmup(nj.cosine(config.steps), ramp),
    }
    tx = nj.adafactor(cap, b2=beta2(kind), clip_threshold=clip, schedule=schedules[step])
    return nj.with_metrics(tx)


def training(config: "Config", images: _data.Images) -> "xr.Dataset":
    """Train with every combination of decay, clipping, step and cap."""

    def run(train, test, *, step, beta2, clip, cap, seed):
        tx = optimizer(config, step, beta2, clip, cap)
        return train_one(config, images, train, test, tx, seed)

    axes = {"beta2": range(len(BETAS)), "clip": CLIPS, "cap": caps(config)}
    return _swept(config, images, run, nj.Grid(step=STEPS, **axes, seed=range(config.seeds)))


def shift(config: "Config", images: _data.Images) -> "xr.Dataset":
    """Train at the paper's cap; half-way every class takes the next one's name."""

    def run(train, test, *, beta2, clip, seed):
        tx = optimizer(config, "relative", beta2, clip, CAP)
        return train_one(config, images, train, test, tx, seed, shifts=True)

    axes = {"beta2": range(len(BETAS)), "clip": CLIPS}
    return _swept(config, images, run, nj.Grid(**axes, seed=range(config.seeds)))


def caps(config: "Config") -> np.ndarray:
    """Return the caps of the relative step, the paper's among them."""
    return CAP * np.sqrt(10.0) ** np.arange(-1, config.caps - 1)


def _swept(config, images, run, grid):
    train = images.train_images, images.train_labels
    test = images.test_images, images.test_labels
    results = nj.sweep(Partial(run, train, test), grid, progress=False)
    for name in (*GAUGES, "loss"):
        dim = "window" if name == "loss" else "t"
        results[name] = results[name].rename({f"{name}_0": dim})
    windows = (np.arange(POINTS) + 0.5) * (config.steps // POINTS)
    return results.assign_coords(beta2=[*BETAS], t=times(config), window=windows)


def times(config: "Config") -> np.ndarray:
    """Return when gauges are reported: early, when much happens, and after half of the steps."""
    early = np.geomspace(1, config.steps, POINTS)
    half = config.steps // 2
    late = half + np.geomspace(1, half, POINTS // 2)
    return np.unique(np.concatenate([early, [half], late]).round().astype(int))


def train_one(config, images, train, test, tx, seed, shifts=False) -> dict[str, jax.Array]:
    """Return gauges and losses of one run, and its loss and error at the end."""
    model = _models.mlp(images.train_images.shape[1], (config.hidden,), images.classes)
    base = nj.classification(
        model.apply, model.init, train[0], train[1], batch_size=config.batch_size
    )

    def observe(draws, step):
        batch, _ = base.observe(draws, None)
        moved = (batch.labels + 1) % images.classes
        labels = jnp.where(step >= config.steps // 2, moved, batch.labels)
        return batch._replace(labels=labels if shifts else batch.labels), step + 1

    problem = base._replace(
        init=lambda key: (base.init(key)[0], jnp.zeros((), jnp.int32)), observe=observe
    )
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    trace = nj.rollout(
        tx,
        problem,
        key,
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


OPTIMIZERS = {
    "momentum": lambda: nj.momentum(1e-2),
    "Adam": nj.adam,
    "AMSGrad": lambda: nj.adam(amsgrad=True),
    "Adafactor": nj.adafactor,
    "Adafactor, not factored": lambda: nj.adafactor(factored=False),
    "Adafactor, β₁ = .9": lambda: nj.adafactor(b1=0.9),
}


def shapes(config: "Config", images: _data.Images) -> dict[str, Any]:
    """Return models by name, as trees of shapes."""
    pixels = images.train_images.shape[1]
    key = jax.eval_shape(lambda: jax.random.key(0))

    def trained(*sizes):
        return jax.eval_shape(_models.mlp(*sizes).init, key)

    def arrays(**sizes):
        return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}

    square, wide = (512, 512), (512, 2048)
    block = arrays(q=square, k=square, v=square, o=square, up=wide, down=wide[::-1], bias=(2048,))
    return {
        f"MLP {pixels}-{config.hidden}-{images.classes} (trained here)": trained(
            pixels, (config.hidden,), images.classes
        ),
        "MLP 784-256-256-10": trained(784, (256, 256), 10),
        "transformer block, width 512": block,
        "matrix 4096 × 4096": arrays(w=(4096, 4096)),
    }


def memory(config: "Config", images: _data.Images) -> "xr.Dataset":
    """Weigh states: the bytes of the arrays, and what XLA says of a compiled update."""
    import xarray as xr

    models = shapes(config, images)
    names = ("params", "state", "xla_state", "xla_temporary")
    table = np.zeros((len(names), len(models), len(OPTIMIZERS)), np.int64)
    for i, params in enumerate(models.values()):
        for j, make in enumerate(OPTIMIZERS.values()):
            table[:, i, j] = weights(make(), params)
    coordinates = {"model": [*models], "optimizer": [*OPTIMIZERS]}
    dims = ("model", "optimizer")
    return xr.Dataset({n: (dims, part) for n, part in zip(names, table, strict=True)}, coordinates)


def weights(tx: Any, shapes: Any) -> tuple[int, int, int, int]:
    """Return the bytes of parameters and state, and of XLA's state and temporaries of an update."""
    # The real arrays: what a formula would say is not the question.
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    state = tx.init(params)
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    update = jax.jit(tx.update, donate_argnums=(0, 1), keep_unused=True)
    told: Any = update.lower(params, state, params).compile().memory_analysis()
    # Gradients and parameters come in beside the state.
    return size, held, told.argument_size_in_bytes - 2 * size, told.temp_size_in_bytes
