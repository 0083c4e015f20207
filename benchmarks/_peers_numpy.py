"""The level sweep in NumPy, all runs at once: what one would write."""

import time

import numpy as np

from benchmarks._task import DECAY, DIM, FEATURES, LEVELS, NOISE_STD, RATE, Peer, Task

NAME = "NumPy, all runs at once, scaled"


def peers(task: Task, part: int) -> dict[str, Peer]:
    """Return the peer, which runs `part` steps; its time is scaled up to all of them."""
    short = task.first(part)

    def timed():
        started = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):
            sweep(short)
        # Fewer steps are another sweep, whose losses cannot be compared here.
        return (time.perf_counter() - started) * task.steps / short.steps, None

    return {NAME: timed}


def sweep(task: Task) -> np.ndarray:
    """Return the losses [model level, data level]."""
    draws = task.draws
    level = np.arange(1, LEVELS + 1)
    inner = np.arange(LEVELS)[:, None, None]
    keep_model = np.where(inner[:-1] < level[:, None] - 1, DECAY, 0.0)[:, :, :, None]
    keep_data = np.where(inner < level[:, None], DECAY, 0.0)
    world = np.repeat(draws["world"][:, None], LEVELS, axis=1)
    momenta = np.zeros((LEVELS - 1, LEVELS, LEVELS, FEATURES))
    w = np.broadcast_to(2 * draws["model"], (LEVELS, LEVELS, FEATURES)).copy()
    total = np.zeros((LEVELS, LEVELS))
    for t in range(task.steps):
        flow = np.broadcast_to(draws["drift"][t], (LEVELS, DIM))
        for i in reversed(range(LEVELS)):
            flow = world[i] = keep_data[i] * world[i] + (1 - keep_data[i]) * flow
        features = np.append(draws["inputs"][t], 1.0)
        error = w @ features - (world[0] @ draws["inputs"][t] + NOISE_STD * draws["noise"][t])
        flow = 2 * error[..., None] * features
        for i in reversed(range(LEVELS - 1)):
            flow = momenta[i] = keep_model[i] * momenta[i] + (1 - keep_model[i]) * flow
        w -= RATE * flow
        if t >= task.warmup:
            total += error**2
    return total / (task.steps - task.warmup)
