"""`Stages`: a run that can be looked at before it ends."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nested_jax._core.checks import check_callable, check_static_count


@dataclasses.dataclass(frozen=True)
class Stages:
    """A run in stages: what it starts from, how a stage is computed, and what it reports.

    c_0 = init(), c_{s+1} = advance(c_s, s) for s = 0, ..., `stages` - 1, and report(c_s) is the
    result after s stages. A function swept by `sweep` may return it in place of a dict of results.
    Without a stopping rule the sweep returns the last report. With `sweep(..., stop=)` the rule
    reads the reports of all runs after every stage and stops some of them.

    Args:
        init: () -> carry, a tree of arrays.
        advance: (carry, stage) -> carry of the same structure, shapes and dtypes. `stage` is a
            traced int32.
        report: carry -> dict of arrays by name.
        stages: Number of stages, static, at least 1.

    Raises:
        TypeError: If one of the functions cannot be called, or `stages` is not an integer.
        ValueError: If `stages` is less than 1.

    Example:
        Gradient descent on x², looked at every 10 steps:

        >>> import jax, nested_jax as nj
        >>> def run(rate):
        ...     def advance(x, stage):
        ...         return jax.lax.fori_loop(0, 10, lambda i, x: x - rate * 2 * x, x)
        ...     return nj.Stages(lambda: 1.0, advance, lambda x: {"loss": x**2}, stages=5)
        >>> results = nj.sweep(run, nj.Grid(rate=[0.1, 5.0]), stop=nj.sweeps.diverged("loss"))
        >>> results.stopped_at.values.tolist()
        [5, 3]
    """

    init: Callable[[], Any]
    advance: Callable[[Any, Any], Any]
    report: Callable[[Any], Mapping[str, Any]]
    stages: int = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        for name in ("init", "advance", "report"):
            check_callable(name, getattr(self, name))
        check_static_count("stages", self.stages, 1)


def started(run: Stages) -> Any:
    """Return the first carry, as arrays of definite dtypes."""
    # A Python number is weakly typed: the second stage would be traced with another type.
    carry = jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), run.init())
    if not jax.tree.leaves(carry):
        raise TypeError(f"`init` must return a tree of arrays, got {carry!r}.")
    return carry


def advanced(run: Stages, carry: Any, stage: Any) -> Any:
    """Return the carry after a stage.

    Raises:
        TypeError: If it has another structure, shape or dtype than the one before.
    """
    after = jax.tree.map(jnp.asarray, run.advance(carry, stage))
    old, new = _described(carry), _described(after)
    if old != new:
        rule = "`advance` must return a carry of the structure, shapes and dtypes that it took"
        raise TypeError(f"{rule}, got {new} for {old}.")
    return after


def in_one_go(run: Stages) -> Mapping[str, Any]:
    """Return the last report, without a look in between."""

    def advance(carry: Any, stage: Any) -> tuple[Any, None]:
        return advanced(run, carry, stage), None

    stages = jnp.arange(int(run.stages), dtype=jnp.int32)
    return run.report(jax.lax.scan(advance, started(run), stages)[0])


def _described(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([f"{leaf.dtype}{[*leaf.shape]}" for leaf in leaves])
