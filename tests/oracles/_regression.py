"""Online regression on weights that drift."""

from collections.abc import Sequence

import numpy as np

from tests.oracles._nested import advance
from tests.oracles._trees import Array


def drifting_regression(
    model_init: Array,
    data_init: Array,
    drift: Array,
    inputs: Array,
    noise: Array,
    *,
    decays: Sequence[float] = (),
    learning_rate: float = 0.01,
    data_decay: float = 0.95,
    noise_std: float = 0.1,
    warmup: int = 0,
) -> tuple[Array, float]:
    """Regress on weights that drift, by nested momentum (mathematics.md, §8).

    The five arrays are standard normals, for w (D + 1,) with the bias last, W_1 ... W_d (d, D),
    delta (T, D), x (T, D) and epsilon (T,); the scales 2 (of w) and `noise_std` are applied here.
    `decays` are those of the m - 1 stages of the model, outermost first. Returns the loss of each
    step, before its update, (T,), and its mean without the first `warmup` of these T steps.
    """
    w, world = 2.0 * model_init, [*data_init, None]
    levels, losses = [np.zeros_like(w)] * (len(decays) + 1), []
    # Divergence is a result of this experiment, so an overflow is not a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        for delta, x, epsilon in zip(drift, inputs, noise, strict=True):
            world = advance(world, [data_decay] * len(data_init), delta)
            features = np.append(x, 1.0)
            error = w @ features - (x @ world[0] + noise_std * epsilon)
            losses.append(error**2)
            levels = advance(levels, decays, 2 * error * features)
            w = w - learning_rate * levels[0]
        return np.array(losses), float(np.mean(losses[warmup:]))
