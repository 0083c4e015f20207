"""The published level sweep as a task that every peer is given: the same draws, the same losses."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

LEVELS, DIM, DECAY, RATE, NOISE_STD = 19, 10, 0.95, 0.01, 0.1
FEATURES = DIM + 1
# Losses differ by rounding, and where they diverge by what 30,000 steps make of it; besides, some
# peers add up all losses of a run one by one, which in float32 loses digits.
RTOL = {"float64": 1e-9, "float32": 5e-3}

# Losses beyond are close to float32's end, or over it.
LARGEST = 1e36
# In which C and numba take the draws.
ORDER = ("inputs", "noise", "drift", "world", "model")

# One call of a peer: its seconds, and its losses [model level, data level] or, where it draws its
# own numbers or runs fewer steps, None.
Peer = Callable[[], tuple[float, np.ndarray | None]]


class Task(NamedTuple):
    """All combinations of levels, on recorded draws.

    Attributes:
        steps: Steps of each run.
        warmup: First steps, which the mean loss leaves out.
        draws: Standard normals by name: inputs, noise and drift with a leading axis of steps, and
            the initial weights of the world and (to be doubled) of the model.
    """

    steps: int
    warmup: int
    draws: Mapping[str, np.ndarray]

    @property
    def dtype(self) -> np.dtype:
        """Type of all numbers."""
        return self.draws["model"].dtype

    def first(self, steps: int) -> "Task":
        """Return the same task cut off after `steps`, for peers that are slow."""
        steps = min(steps, self.steps)
        cut = {name: self.draws[name][:steps] for name in ORDER[:3]}
        return Task(steps, steps // 10, {**self.draws, **cut})


def task(steps: int, dtype: str) -> Task:
    """Return the sweep of so many steps; the same draws wherever it is called."""
    rng = np.random.default_rng(0)
    shapes = {
        "inputs": (steps, DIM),
        "noise": (steps,),
        "drift": (steps, DIM),
        "world": (LEVELS, DIM),
        "model": (FEATURES,),
    }
    draws = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return Task(steps, steps // 10, draws)


def compare(name: str, losses: np.ndarray, reference: np.ndarray) -> None:
    """Raise unless two peers came to the same losses.

    In float32 the worst runs leave the range of numbers; they have to do so in both.
    """
    inside = reference < LARGEST
    rtol = RTOL[str(losses.dtype)]
    np.testing.assert_allclose(losses[inside], reference[inside], rtol=rtol, err_msg=name)
    assert not np.any(losses[~inside] < LARGEST / 2), f"{name} stays within the range of numbers."
