"""Products and norms of matrices, shared by the transforms that see a leaf as one."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from nested_jax._core.dtypes import root, squared

# Of a step c0 X + (c1 A + c2 A A) X with A = X X^H. The cubic converges to singular values of 1;
# the quintic, which is Muon's, keeps them near 1 but grows small ones faster.
ITERATIONS = {"quintic": (3.4445, -4.7750, 2.0315), "cubic": (1.5, -0.5, 0.0)}


def product(
    a: jax.Array,
    b: jax.Array,
    like: jax.Array | None = None,
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Return a @ b, sharded as `like` or held whole on each device."""
    sharding = jax.typeof(a).sharding
    if like is None:
        # An entry for each axis: vmap inserts its own at any place of them.
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*[None] * jnp.ndim(a)))
    else:
        sharding = jax.typeof(like).sharding
    return jnp.matmul(a, b, precision=precision, out_sharding=sharding)


def adjoint(x: jax.Array) -> jax.Array:
    """Return the conjugate transpose of the last two axes."""
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def normalized(g: jax.Array, *, by_matrix: bool) -> jax.Array:
    """Return g divided by its norm, or by that of each matrix; 0 where g is 0."""
    axes = (-2, -1) if by_matrix and g.ndim > 2 else None
    # Divide by the largest entry first: the square of a gradient may be 0 or infinite.
    largest = jnp.max(jnp.abs(g), axis=axes, keepdims=True, initial=0)
    g = g / jax.lax.stop_gradient(jnp.where(largest == 0, 1, largest))
    norm = root(jnp.sum(squared(g), axis=axes, keepdims=True))
    return g / jnp.where(norm == 0, 1, norm)


@functools.partial(jax.jit, static_argnames=("steps", "iteration"))  # Traced once for each shape.
def orthogonalized(x: jax.Array, *, steps: int, iteration: str) -> jax.Array:
    """Return a matrix after Newton-Schulz steps, which move its singular values towards 1.

    optax has the same iteration in its Muon but does not export it. This one does not depend on
    the scale of x, however small, and has a finite derivative at 0.
    """
    linear, cubic, quintic = ITERATIONS[iteration]
    x = normalized(x, by_matrix=True)
    wide = x if x.shape[0] <= x.shape[1] else adjoint(x)  # So that A is the smaller square.
    for _ in range(steps):
        square = product(wide, adjoint(wide))
        factor = cubic * square
        if quintic:
            factor += quintic * product(square, square)
        wide = linear * wide + product(factor, wide, like=wide)
    return wide if x.shape[0] <= x.shape[1] else adjoint(wide)
