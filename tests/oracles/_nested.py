"""Averages in a row: the decays of levels, cascades, nested momentum."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.oracles._schedules import walk
from tests.oracles._trees import Array, Rate, at, per_tensor


def nested_decays(levels: int, decay: float, max_levels: int | None = None) -> Array:
    """Return `levels` - 1 equal decays, then zeros (which pass their input): (max_levels - 1,)."""
    decays = np.zeros((levels if max_levels is None else max_levels) - 1)
    decays[: levels - 1] = decay
    return decays


def matched_delay_decays(levels: int, decay: float, max_levels: int | None = None) -> Array:
    """Return k = levels - 1 decays d/(k + d), d = a/(1 - a), then zeros: delay d for every k."""
    k, d = levels - 1, decay / (1 - decay)
    return nested_decays(levels, d / (k + d) if k else 0.0, max_levels)


def advance(levels: list, decays: Sequence[float], inflow: Any) -> list:
    """Return M_1 ... M_m after one step: M_m <- inflow, M_i <- a_i M_i + (1 - a_i) M_{i+1}."""
    levels = [*levels[:-1], inflow]
    for i in reversed(range(len(decays))):
        levels[i] = decays[i] * levels[i] + (1 - decays[i]) * levels[i + 1]
    return levels


def cascade(inputs: Sequence[Any], decays: Sequence[Rate], debias: bool = False) -> list:
    """Return M_1 of exponential averages in a row, starting at 0 (mathematics.md, §2), per input.

    `decays` is (a_1 ... a_K), outermost first. With `debias`, M_1 is divided by what the same
    cascade makes of the constant 1, found by running a second one on it.
    """
    moments = responses = [0.0] * (len(decays) + 1)
    outputs = []
    for step, u in enumerate(inputs):
        now = [at(decay, step) for decay in decays]
        moments = advance(moments, now, u)
        responses = advance(responses, now, 1.0)
        outputs.append(moments[0] / responses[0] if debias else moments[0])
    return outputs


def periodic_cascade(inputs, decays, periods, debias=False):
    """Return M_1 of averages that change in every C_i-th step, by the mean of C_i inputs.

    As in `cascade`; until M_1 first changes it is 0.
    """

    def outputs(inputs):
        levels, seen, found = [0.0 * inputs[0]] * len(decays), [[] for _ in decays], []
        for t, value in enumerate(inputs, 1):
            for i in reversed(range(len(decays))):
                a, period = decays[i], periods[i] if decays[i] else 1
                seen[i].append(value)
                if t % period == 0:
                    levels[i] = a * levels[i] + (1 - a) * np.mean(seen[i][-period:], 0)
                value = levels[i]
            found.append(value)
        return found

    if not debias:
        return outputs(inputs)
    responses = outputs([1.0] * len(inputs))
    pairs = zip(outputs(inputs), responses, strict=True)
    return [y / c if c else 0 * y for y, c in pairs]


@per_tensor
def nested_momentum(theta, gradients, learning_rate, decays, *, debias=False, schedule=None):
    """Step theta <- theta - eta_t alpha_t M_1 (mathematics.md, §2)."""
    return walk(theta, cascade(gradients, decays, debias), learning_rate, schedule)
