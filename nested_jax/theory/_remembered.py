"""Cache measurements of transforms."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import is_traced

T = TypeVar("T")

# Several functions are usually called on one transform, and each call would compile its programs
# again. Key: identities of the transform's functions and the dtype. Value: the transform, to keep
# it alive, and its results, by the function that measured them.
MOST_REMEMBERED = 16
_REMEMBERED: dict[
    tuple[Any, ...], tuple[optax.GradientTransformation, dict[Callable[..., Any], Any]]
] = {}


def remembered(
    measure: Callable[[optax.GradientTransformation], T],
) -> Callable[[optax.GradientTransformation], T]:
    """Measure each transform once per dtype; nothing is kept of what is traced."""

    @functools.wraps(measure)
    def lookup(tx: optax.GradientTransformation) -> T:
        # Under `jax.jit`, results are traced whether or not they were measured before: else an
        # error would be raised or not depending on earlier calls.
        if is_traced(jnp.zeros(())):
            return measure(tx)
        # Keyed by identity. The cached transform is kept alive, so no other can get the same id.
        # The dtype depends on x64.
        key = *map(id, tx), jnp.result_type(float)
        _, results = _REMEMBERED.get(key, (tx, {}))
        if measure in results:
            return results[measure]
        found = measure(tx)
        if not any(map(is_traced, jax.tree.leaves(found))):
            results[measure] = found
            _REMEMBERED[key] = tx, results
            while len(_REMEMBERED) > MOST_REMEMBERED:
                _REMEMBERED.pop(next(iter(_REMEMBERED)))
        return found

    return lookup
