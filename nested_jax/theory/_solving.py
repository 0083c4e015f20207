"""Solve small systems of linear equations, and give roots their derivatives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact


@jax.jit
def solve(
    matrix: Inexact[Array, "n n"], right: Inexact[Array, "n right"]
) -> Inexact[Array, "n right"]:
    """Return X with matrix X = right; not finite if the matrix is singular.

    Gauss-Jordan elimination with partial pivoting, with the derivatives of the exact solution.
    `jnp.linalg.solve` is not used because it can deadlock: vmapped on CPU, its workers wait for
    other workers of the same pool (jaxlib 0.10), and two calls in one program can wait for each
    other.
    """
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x,
        right,
        solve=lambda _, b: _eliminated(matrix, b),
        transpose_solve=lambda _, b: _eliminated(matrix.T, b),
    )


def root_of(
    excess: Callable[[Float[Array, ""]], Float[Array, ""]], found: Float[Array, ""]
) -> Float[Array, ""]:
    """Return `found`, a root of `excess`, with the derivative of the implicit function.

    The derivative of the search that found it would be that of the interval in which it began, or
    of Newton's steps before they have settled. It is NaN where `excess` is not finite.
    """
    return jax.lax.custom_root(
        excess,
        jax.lax.stop_gradient(found),
        lambda _, found: found,
        lambda slope, y: y / slope(jnp.ones_like(y)),
    )


def _eliminated(matrix: Array, right: Array) -> Array:
    size = len(matrix)
    if not size:
        return right
    rows = jnp.arange(size)[:, None]

    def eliminate(k, table):
        column = jax.lax.dynamic_index_in_dim(table, k, axis=1)
        chosen = jnp.argmax(jnp.where(rows >= k, jnp.abs(column), -1))
        # Masks instead of indices, because each system of a batch has a different pivot.
        is_chosen = rows == chosen
        pivot_row = jnp.where(is_chosen, table, 0).sum(axis=0)
        table = jnp.where(is_chosen, table[k], table)
        column = jax.lax.dynamic_index_in_dim(table, k, axis=1)
        pivot_row = pivot_row / jax.lax.dynamic_index_in_dim(pivot_row, k)
        return jnp.where(rows == k, pivot_row, table - column * pivot_row)

    table = jnp.concatenate([matrix, right], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, table)[:, size:]
