"""The level sweep in numba: the plain loops of a run, and all runs in series or in parallel.

With fastmath, as one would compile them who wants speed. Only float64, where nothing overflows:
fastmath takes it that no number is infinite.
"""

import importlib.util
import time

import numpy as np

from benchmarks._task import DECAY, DIM, FEATURES, LEVELS, NOISE_STD, ORDER, RATE, Peer, Task

SERIAL, PARALLEL = "numba, 1 thread", "numba, all cores"


def peers(task: Task) -> dict[str, Peer]:
    """Return both peers, compiled; none where numba is missing."""
    if importlib.util.find_spec("numba") is None:
        return {}
    return {SERIAL: _peer(task, _sweep(False)), PARALLEL: _peer(task, _sweep(True))}


def _peer(task: Task, sweep) -> Peer:
    draws = [task.draws[name] for name in ORDER]
    sweep(*[task.first(10).draws[name] for name in ORDER], 1)  # Compiles.

    def timed():
        started = time.perf_counter()
        losses = sweep(*draws, task.warmup)
        return time.perf_counter() - started, losses

    return timed


def _sweep(parallel: bool):
    import numba  # pyright: ignore[reportMissingImports]

    run = numba.njit(fastmath=True)(_run)

    def sweep(inputs, noise, drift, world, model, warmup):
        losses = np.empty((LEVELS, LEVELS))
        # Odd steps through an odd number of runs: each thread gets long ones and short ones.
        for i in numba.prange(LEVELS * LEVELS):
            q = i * 2 % (LEVELS * LEVELS)
            m, d = q // LEVELS, q % LEVELS
            losses[m, d] = run(m + 1, d + 1, inputs, noise, drift, world, model, warmup)
        return losses

    return numba.njit(fastmath=True, parallel=parallel)(sweep)


def _run(m, d, inputs, noise, drift, world, model, warmup):
    """Return the loss of one run: m levels of momentum, d of drift."""
    W, M, w = world.copy(), np.zeros((LEVELS, FEATURES)), 2 * model
    total = 0.0
    for t in range(len(noise)):
        for k in range(DIM):
            W[d - 1, k] = DECAY * W[d - 1, k] + (1 - DECAY) * drift[t, k]
        for i in range(d - 2, -1, -1):
            for k in range(DIM):
                W[i, k] = DECAY * W[i, k] + (1 - DECAY) * W[i + 1, k]
        error = w[DIM] - NOISE_STD * noise[t]
        for k in range(DIM):
            error += inputs[t, k] * (w[k] - W[0, k])
        for k in range(DIM):
            M[m - 1, k] = 2 * error * inputs[t, k]
        M[m - 1, DIM] = 2 * error
        for i in range(m - 2, -1, -1):
            for k in range(FEATURES):
                M[i, k] = DECAY * M[i, k] + (1 - DECAY) * M[i + 1, k]
        for k in range(FEATURES):
            w[k] -= RATE * M[0, k]
        if t >= warmup:
            total += error * error
    return total / (len(noise) - warmup)
