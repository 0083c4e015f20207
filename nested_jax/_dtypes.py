"""How numbers keep their precision: state is float32 or wider, updates leave as they came in."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nested_jax._checks import is_traced
from nested_jax._types import ScalarLike


def complement(decay: ScalarLike) -> ScalarLike:
    """Return 1 - decay, in float64 on the host where the decay is concrete.

    In float32, 1 - 0.9999 is off by 1.7e-4 of its value.
    """
    return 1 - decay if is_traced(decay) else 1 - np.float64(decay)


def widened(dtype: Any) -> Any:
    """Return `dtype`, or float32 if that is wider: bfloat16 rounds a decay of 0.999 to 1."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)  # NumPy's float64 is float32 unless under x64.
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"Arrays must be of a floating dtype, got {dtype}.")
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def cast(x: Any, dtype: Any) -> Any:
    """Return `x.astype(dtype)`, at next to no cost in tracing where that changes nothing."""
    # A weak type is changed: it becomes one that is meant.
    done = isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type
    return x if done else x.astype(dtype)


def in_dtype(*numbers: Any) -> Callable[[Any], tuple[jax.Array, ...]]:
    """Return a function from a dtype to `numbers` in it, each cast once for all leaves."""
    return functools.cache(lambda dtype: tuple(jnp.asarray(x, dtype) for x in numbers))


def zeros_widened(params: Any) -> Any:
    """Return zeros shaped like `params`, each of its leaf's dtype or float32 if wider."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, widened(p.dtype)), params)


def narrowed(tree: Any, like: Any) -> Any:
    """Cast each leaf of `tree` to the dtype of the leaf of `like`."""
    return jax.tree.map(lambda x, y: cast(x, jax.dtypes.canonicalize_dtype(y.dtype)), tree, like)


def incremented(count: jax.Array) -> jax.Array:
    """Return `count` + 1, or `count` at its dtype's end, where it would wrap around."""
    return jnp.asarray(optax.safe_increment(count))


def root_mean_square(x: jax.Array) -> jax.Array:
    """Return the root of the mean of squares, in float32 or wider; 0 for an array of size 0.

    Its derivative is 0 where all of x is 0, and not NaN.
    """
    wide = x.astype(widened(x.dtype))
    mean = jnp.sum(wide * wide) / float(max(x.size, 1))
    return jnp.where(mean == 0, 0, jnp.sqrt(jnp.where(mean == 0, 1, mean)))
