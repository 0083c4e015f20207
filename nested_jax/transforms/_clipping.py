"""Clipping of each leaf by its root mean square."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nested_jax._core.checks import check_positive, is_traced
from nested_jax._core.dtypes import (
    check_arrays,
    root_mean_square,
    transformation,
    widened,
    widened_real,
)
from nested_jax._core.types import ScalarLike

# Number of scalars that XLA may compare in one program.
GROUP = 64


class ClipByBlockRmsState(NamedTuple):
    """State of `clip_by_block_rms`: measurements of the last update, for `with_metrics`.

    Attributes:
        rms: The largest root mean square of a leaf before clipping; 0 before the first update.
        factor: The smallest factor applied to a leaf; 1 if nothing was clipped.
    """

    rms: jax.Array
    factor: jax.Array


def clip_by_block_rms(threshold: ScalarLike) -> optax.GradientTransformation:
    r"""Shrink each leaf whose root mean square exceeds a threshold.

    .. math:: u \leftarrow \frac{u}{\max(1, \mathrm{RMS}(u) / d)}, \quad
        \mathrm{RMS}(u)^2 = \frac{1}{n} \sum_{i=1}^n |u_i|^2,

    separately for each leaf. Afterwards every root mean square is at most d, and leaves below d are
    unchanged. The update equals `optax.clip_by_block_rms`; the state also records what was clipped.
    After `scale_by_factored_rms`, the root mean square shows whether the second moment lags behind
    the gradients (1 is healthy, above 1 is stale). A very large threshold, such as 1e30, only
    measures. The state holds two scalars.

    Args:
        threshold: d > 0, may be traced. Numbers beyond float32 act as its largest number.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used. The root mean square of a leaf of size 0 is 0.

    Raises:
        TypeError: If `threshold` is not a number, or an array does not have a floating dtype.
        ValueError: If a concrete `threshold` is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.clip_by_block_rms(2.0)
        >>> updates = {"low": jnp.array([1.0, -1.0]), "high": jnp.array([4.0, -4.0])}
        >>> updates, state = tx.update(updates, tx.init(updates))
        >>> updates["low"], updates["high"]
        (Array([ 1., -1.], dtype=float32), Array([ 2., -2.], dtype=float32))
        >>> float(state.rms), float(state.factor)
        (4.0, 0.5)

    References:
        Shazeer & Stern (2018), section 6 and Algorithm 4, doi:10.48550/arXiv.1804.04235; they
        take d = 1.
    """
    threshold = check_positive("threshold", threshold)
    if not is_traced(threshold):
        # NumPy warns of numbers beyond float32.
        threshold = min(float(threshold), float(np.finfo(np.float32).max))

    def init_fn(params):
        check_arrays(params)
        # Widen first: float8 and float32 have no common dtype.
        dtypes = [widened_real(p.dtype) for p in jax.tree.leaves(params)]
        dtype = jnp.result_type(jnp.float32, *dtypes)
        return ClipByBlockRmsState(rms=jnp.zeros((), dtype), factor=jnp.ones((), dtype))

    def update_fn(updates, state, params):
        del params
        check_arrays(updates)
        leaves, treedef = jax.tree.flatten(updates)
        clipped = [_clip(u, threshold) for u in leaves]
        values = [rms.astype(state.rms.dtype) for _, rms in clipped]
        rms = _largest(values, jnp.zeros_like(state.rms))
        # The factor falls with the root mean square, so the largest RMS has the smallest factor.
        fresh = ClipByBlockRmsState(rms=rms, factor=_factor(rms, threshold))
        return treedef.unflatten([u for u, _ in clipped]), fresh

    return transformation(init_fn, update_fn, ClipByBlockRmsState)


def _largest(values, least):
    """Return the largest of some scalars, at least `least`."""
    # XLA fuses a chain of maxima into one program, at a cost quadratic in their number: 2,048
    # leaves of Adafactor take 1.5 times as long to compile, and 7 GB. It fuses nothing into a loop.
    while len(values) > GROUP:
        groups = [jnp.stack(values[i : i + GROUP]) for i in range(0, len(values), GROUP)]
        values = [
            jax.lax.fori_loop(0, x.shape[0], lambda i, most, x=x: jax.lax.max(most, x[i]), least)
            for x in groups
        ]
    return functools.reduce(jax.lax.max, values, least)


def _factor(rms, threshold):
    # The quotient d / max(d, RMS) is 1 / max(1, RMS / d) with one division.
    # A threshold beyond the dtype acts as its largest number, one below as its smallest normal.
    limits = jnp.finfo(rms.dtype)
    threshold = jnp.clip(jnp.asarray(threshold, rms.dtype), limits.tiny, limits.max)
    return threshold / jnp.maximum(threshold, rms)


# Jitted separately, so that all leaves of one shape share one trace.
@jax.jit
def _clip(u, threshold):
    rms = root_mean_square(u)
    return (u.astype(widened(u.dtype)) * _factor(rms, threshold)).astype(u.dtype), rms
