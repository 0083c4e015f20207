"""Rules that stop some of a sweep's runs between two stages."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nested_jax._core.checks import check_choice, check_static_count, is_traced, keeps

# Results that a rule adds to a sweep's.
STOPPED_AT, STOPPED_BECAUSE = "stopped_at", "stopped_because"
# Why a run stopped; its place here is its code. The first one: it did not.
REASONS = ("", "not finite", "above the bound", "halving")


@dataclasses.dataclass(frozen=True)
class Stopping:
    """A rule for `sweep(..., stop=)`, as `diverged` and `halving` return it.

    Attributes:
        by: Name of the result that decides.
        bound: Largest value with which a run goes on.
        factor: One in how many goes on after 1, `factor`, `factor`², ... stages; None for all.
        mode: "min" or "max", for `factor`.
        over: Axes along which runs are averaged, and go on or stop together.
    """

    by: str
    bound: float
    factor: int | None
    mode: str
    over: tuple[str, ...]

    def reasons(self, values: np.ndarray, done: int, stages: int, cells: int) -> np.ndarray:
        """Return why each cell stops after a stage, as a place in `REASONS`.

        Args:
            values: The result `by` of the cells still running: cells, then the axes in `over`.
            done: Stages so far.
            stages: Number of stages.
            cells: Number of cells at the beginning.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            means = values.reshape(len(values), -1).astype(np.float64).mean(1)
        codes = np.where(np.isfinite(means), np.where(means > self.bound, 2, 0), 1)
        if self.factor is not None and done < stages and _is_power(done, self.factor):
            # A stable sort: of two equal cells the first in the grid goes on.
            order = np.argsort(means if self.mode == "min" else -means, kind="stable")
            order = order[codes[order] == 0]
            codes[order[-(-cells // (self.factor * done)) :]] = 3
        return codes


def diverged(by: str, *, bound: float = np.inf, over: str | Sequence[str] = ()) -> Stopping:
    """Stop runs that are lost: those whose result is not finite or above a bound.

    The bits of the other runs do not change. The result is read after every stage.

    Args:
        by: Name of the result to read, one number per run, such as "loss".
        bound: Largest value with which a run goes on, in the unit of the result.
        over: Numeric axes along which runs are averaged, and go on or stop together. Work that does
            not depend on the other axes, such as the data stream of a seed, is then still shared.

    Returns:
        A rule for `sweep(..., stop=)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `bound` is NaN.

    Example:
        >>> import nested_jax as nj
        >>> nj.sweeps.diverged("loss", bound=1e6, over="seed").over
        ('seed',)
    """
    if is_traced(bound):
        raise TypeError(f"`bound` must be a number, known when tracing, got {bound}.")
    keeps("bound", bound, "not be NaN", lambda x: x == x)
    return Stopping(_checked(by), float(bound), None, "min", _axes(over))


def halving(
    by: str, *, factor: int = 3, mode: str = "min", over: str | Sequence[str] = ()
) -> Stopping:
    """Stop all but the best: successive halving (Jamieson and Talwalkar, 2016).

    With n cells and a factor of f, ⌈n / f⌉ cells go on after the first stage, ⌈n / f²⌉ after f
    stages, ⌈n / f³⌉ after f² stages, and so on. A cell whose result is not finite stops after
    any stage. Of two cells with the same result the first in the grid goes on.

    With N stages, the work is 1/N, plus (1 - 1/f)/N for each power of f below N,
    counting f⁰, instead of 1: 9 stages and a factor of 3 take 0.26.

    Args:
        by: Name of the result to compare, one number per run, such as "loss".
        factor: One cell in `factor` goes on, at least 2.
        mode: "min" or "max".
        over: Numeric axes, such as seeds, to average over. All runs of a cell, which is a
            combination of the other axes, go on or stop together.

    Returns:
        A rule for `sweep(..., stop=)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `factor` is less than 2 or `mode` is unknown.

    Example:
        >>> import nested_jax as nj
        >>> def run(rate):
        ...     return nj.Stages(
        ...         lambda: 1.0, lambda x, stage: x - rate * x, lambda x: {"loss": x**2}, stages=4
        ...     )
        >>> grid = nj.Grid(rate=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
        >>> results = nj.sweep(run, grid, stop=nj.sweeps.halving("loss", factor=3))
        >>> results.stopped_at.values.tolist()
        [1, 1, 1, 1, 1, 1, 3, 3, 4]
    """
    check_static_count("factor", factor, 2)
    check_choice("mode", mode, ("min", "max"))
    return Stopping(_checked(by), np.inf, int(factor), mode, _axes(over))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _checked(by: object) -> str:
    if not isinstance(by, str):
        raise TypeError(f"`by` must be the name of a result, got {by!r}.")
    return by


def _axes(over: object) -> tuple[str, ...]:
    names = [over] if isinstance(over, str) else over
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`over` must be names of axes, got {over!r}.")
    return tuple(names)
