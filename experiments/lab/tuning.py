"""Tuning alike: methods with the ranges of their hyperparameters, tried at points spread evenly.

`values` maps points of the unit cube to hyperparameters, `tuned` finds the best point.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import optax

CLOSER = 1 / 4
"""Each round of tuning covers this share of the ranges of the one before, around its best."""
NONE: Mapping[str, float] = MappingProxyType({})


class Range(NamedTuple):
    """What is tried for a hyperparameter: from `low` to `high`, at equal ratios.

    With `complement`, this is the range of 1 − the hyperparameter, as for decays; above 1, the
    hyperparameter is 0.
    """

    low: float
    high: float
    complement: bool = False


class Method(NamedTuple):
    """A method.

    Attributes:
        label: Its name in figures and tables.
        make: Its hyperparameters, by name -> the transform. Each may be traced.
        tuned: The ranges of the hyperparameters that are tuned.
        fixed: The values of the others. Methods that share `make` share a compiled program.
        needs_inputs: Whether it reads the inputs and not only the gradient.
    """

    label: str
    make: Callable[..., optax.GradientTransformation]
    tuned: Mapping[str, Range]
    fixed: Mapping[str, float] = NONE
    needs_inputs: bool = False


def trials(method: Method, count: int) -> np.ndarray:
    """Return points of the unit cube of the tuned hyperparameters, spread evenly.

    Returns:
        Shape (count, number of tuned hyperparameters): the beginning of a Sobol sequence.
    """
    from scipy.stats import qmc

    exponent = int(np.ceil(np.log2(count)))
    points = qmc.Sobol(len(method.tuned), scramble=False).random_base2(exponent)[:count]
    return points + 0.5 / 2**exponent  # The sequence starts in a corner.


def values(method: Method, points: np.ndarray) -> dict[str, Any]:
    """Return the hyperparameters at points of the unit cube.

    Args:
        method: A method.
        points: Shape (..., number of tuned hyperparameters), in [0, 1].

    Returns:
        All hyperparameters by name, each of shape points.shape[:-1].
    """
    found: dict[str, Any] = {
        name: np.full(points.shape[:-1], float(value)) for name, value in method.fixed.items()
    }
    for i, (name, (low, high, complement)) in enumerate(method.tuned.items()):
        tried = low * (high / low) ** points[..., i]
        found[name] = np.maximum(1 - tried, 0) if complement else tried
    return dict(sorted(found.items()))


def tuned(
    method: Method,
    losses: Callable[[int, np.ndarray], np.ndarray],
    *,
    cases: int,
    count: int,
    rounds: int,
) -> np.ndarray:
    """Return the best tried point of a method's unit cube for each case.

    Args:
        method: A method.
        losses: (round from 0, points of shape (count, cases, hyperparameters)) -> the loss of each,
            of shape (count, cases). One that is not finite loses.
        cases: For how many cases to tune, each on its own.
        count: Points tried for each case in a round.
        rounds: The second and further ones try points around the best of those before.

    Returns:
        Shape (cases, hyperparameters).
    """
    spread = trials(method, count)[:, None]
    points = np.broadcast_to(spread, (count, cases, len(method.tuned)))
    tried, found = [], []
    for turn in range(rounds):
        loss = losses(turn, points)
        tried.append(points)
        found.append(np.where(np.isfinite(loss), loss, np.inf))
        points = np.clip(best(tried, found) + CLOSER ** (turn + 1) * (spread - 0.5), 0, 1)
    return best(tried, found)


def best(tried: list[np.ndarray], losses: list[np.ndarray]) -> np.ndarray:
    """Return the points of the smallest losses, of shape (cases, hyperparameters)."""
    points, loss = np.concatenate(tried), np.concatenate(losses)
    chosen = loss.argmin(0)
    return points[chosen, np.arange(points.shape[1])]
