"""What all oracles share: types, rates that may be functions of the step, dicts of arrays."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Array = np.ndarray  # float64 throughout
Tree = dict[str, Array]
Rate = float | Callable[[int], float]


def at(rate: Rate, step: int) -> float:
    """Return the value of a number or of a function of the 0-based step."""
    return rate(step) if callable(rate) else rate


def rows(columns: dict[str, list[Array]]) -> list[Tree]:
    """Turn a dict of lists over time into a list of dicts."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def by_name(method: Callable[..., list], gradients: list[Tree], *args: Any, **options: Any) -> list:
    """Apply a method for a list of arrays to a list of dicts, tensor by tensor."""
    return rows({n: method([g[n] for g in gradients], *args, **options) for n in gradients[0]})


def per_tensor(method: Callable[..., Iterable[Array]]) -> Callable[..., list[Tree]]:
    """Lift a method for one array to dicts; `mask` then is a dict of bools, one a tensor."""

    @functools.wraps(method)
    def lifted(params, gradients, *args, mask=None, **options):
        columns = {}
        for name, theta in params.items():
            own = options if mask is None else options | {"mask": mask[name]}
            gs = [np.asarray(g[name], np.float64) for g in gradients]
            columns[name] = list(method(np.asarray(theta, np.float64), gs, *args, **own))
        return rows(columns)

    return lifted
