"""A quadratic with given curvatures, for which convergence rates are known."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import as_scalars, check_finite, check_non_negative
from nested_jax._core.dtypes import floating_dtype
from nested_jax._core.types import ScalarLike
from nested_jax.problems._problem import Problem


def quadratic(
    eigenvalues: Sequence[ScalarLike] | np.ndarray | jax.Array,
    *,
    noise_std: ScalarLike | None = None,
    dtype: Any = None,
) -> Problem:
    r"""Build a quadratic loss with given curvatures, with or without gradient noise.

    .. math:: R(\theta) = \tfrac 1 2 \sum_i h_i \theta_i^2 + \sigma \, \xi \cdot \theta, \quad
        \xi \sim N(0, I) \text{ anew each step}, \qquad \theta_0 \sim N(0, I) .

    The gradient is :math:`h_i \theta_i + \sigma \xi_i`, the minimum without noise is at 0, and the
    condition number is the ratio of the extreme curvatures. The axes are the eigenvectors; a
    rotation would not change the behavior of any linear method.

    Args:
        eigenvalues: :math:`h_1, \dots, h_n`, finite: a sequence of scalars or an array of shape
            (n,), n >= 1. Negative values make a saddle. n is static; the values may be traced.
        noise_std: :math:`\sigma \ge 0`, may be traced; None for no noise and no draws.
        dtype: The dtype of draws and parameters; JAX's default float if not given. 64-bit types
            become 32-bit if JAX does not allow them.

    Returns:
        A problem whose parameters have shape (n,). Draws are standard normals of shape (n,) and
        batches the noise :math:`\sigma \xi`; both are None without noise. Nothing moves: the
        world is None.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range, or `eigenvalues` is empty.

    Example:
        >>> import jax, nested_jax as nj
        >>> problem = nj.quadratic([1.0, 100.0])
        >>> tx = nj.momentum(4 / 11**2, decay=(9 / 11) ** 2)  # optimal for condition number 100
        >>> trace = nj.rollout(tx, problem, jax.random.key(0), 200, stride=100)
        >>> bool(trace.loss_curve[1] < 1e-10 * trace.loss_curve[0])
        True
    """
    curvatures = as_scalars("eigenvalues", eigenvalues)
    if not curvatures:
        raise ValueError("`eigenvalues` must hold at least one number, got none.")
    curvatures = [check_finite(f"eigenvalues[{i}]", x) for i, x in enumerate(curvatures)]
    if noise_std is not None:
        noise_std = check_non_negative("noise_std", noise_std)
    dtype = floating_dtype(dtype)
    h = jnp.stack([jnp.asarray(curvature, dtype) for curvature in curvatures])

    def init(key):
        return jax.random.normal(key, h.shape, dtype), None

    def draw(key):
        return None if noise_std is None else jax.random.normal(key, h.shape, dtype)

    def observe(draws, world):
        return None if noise_std is None else jnp.asarray(noise_std, dtype) * draws, world

    def loss(params, batch):
        value = 0.5 * jnp.sum(h * jnp.square(params))
        return value if batch is None else value + jnp.sum(batch * params)

    return Problem(init=init, draw=draw, observe=observe, loss=loss)
