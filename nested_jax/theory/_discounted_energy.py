r"""The discounted energy of an impulse response: sum over j >= 0 of e^(-g (j + 1)) (u^T A^j b)^2.

With S = A e^(-g / 2) it is e^-g u^T P u, where P = S P S^T + b b^T. Powers of S would not do: of
cascades whose outputs combine with opposed signs they grow by many digits before they shrink, and
their rounding errors with them. But for any p in the unit disc

    P(b) = (1 - |p|^2) y y^H + P((S - p) y),   y = (I - conj(p) S)^-1 b,

and with every p an eigenvalue of S nothing is left in the end. A filter that passes all
frequencies alike leads from b to (S - p) y: no vector on the way is larger than what A^j b add up
to. Since all terms are positive and any p is right, the p need not be accurate; those of a matrix
that is nearly defective are off by much, and a few rounds more make up for it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from nested_jax.theory._solving import solve

# Rounds over all p. Two do where the eigenvalues are accurate, six for 18 equal averages.
ROUNDS = 16


def discounted_energy(
    A: Float[Array, "n n"],
    b: Float[Array, " n"],
    u: Float[Array, " n"],
    eigenvalues: Complex[Array, " n"],
    growth: Float[Array, ""],
) -> Float[Array, ""]:
    """Return the sum; infinite if it is. `eigenvalues` are those of A, roughly."""
    eps = jnp.finfo(A.dtype).eps
    S = A * jnp.exp(-growth / 2)
    step, output, share = _filters(S, u, jax.lax.stop_gradient(eigenvalues * jnp.exp(-growth / 2)))

    def one(x, passed):
        step, output, share = passed
        y = output @ x
        return step @ x, share * (y.real**2 + y.imag**2)

    def unfinished(carry):
        i, _, total, more = carry
        return (i < ROUNDS) & (more > eps / 64 * total) & jnp.isfinite(total)

    def another(carry):
        i, x, total, _ = carry
        x, parts = jax.lax.scan(one, x, (step, output, share))
        more = jnp.sum(parts)
        return i + 1, x, total + more, more

    start = (0, b.astype(step.dtype), jnp.zeros_like(growth), jnp.full_like(growth, jnp.inf))
    _, _, total, more = jax.lax.while_loop(unfinished, another, start)
    energy = jnp.where(more <= 1024 * eps * total, total, jnp.inf) * jnp.exp(-growth)
    # NaN is what a transform that is refused leaves where it is traced.
    return jnp.where(jnp.any(jnp.isnan(A)), jnp.nan, energy)


def _filters(S, u, p):
    """Return (S - p) (I - conj(p) S)^-1, u^T (I - conj(p) S)^-1 and 1 - |p|^2 for every p."""
    size = jnp.abs(p)
    # An eigenvalue outside the unit disc is a rounding error, or its sum infinite, however cut.
    p = jnp.where(size < 1, p, p / jnp.where(size < 1, 1, size) ** 2)
    unit = jnp.eye(u.size)
    inverse = jax.vmap(lambda pole: solve(unit - pole.conj() * S, unit + 0 * pole))(p)
    step = (S - p[:, None, None] * unit) @ inverse
    return step, u @ inverse, 1 - (p.real**2 + p.imag**2)
