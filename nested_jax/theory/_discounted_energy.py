r"""The discounted energy of an impulse response: sum over j >= 0 of e^(-g (j + 1)) (u^T A^j b)^2.

With S = A e^(-g / 2), the energy is e^-g u^T P u, where P = S P S^T + b b^T. Summing powers of S
is inaccurate: for cascades whose outputs combine with opposite signs, the powers and their rounding
errors grow by many digits before they shrink. Instead, for any p in the unit disc,

    P(b) = (1 - |p|^2) y y^H + P((S - p) y),   y = (I - conj(p) S)^-1 b,

and nothing remains once p has been every eigenvalue of S. The step from b to (S - p) y is an
all-pass filter, so no intermediate vector is larger than the sum of the A^j b. All terms are
positive and the identity holds for any p, so p need not be accurate. The computed eigenvalues of a
nearly defective matrix are far off, and a few more rounds make up for it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from nested_jax.theory._solving import solve

# Rounds over all p. Two are enough for accurate eigenvalues, six for 18 equal averages.
ROUNDS = 16


def discounted_energy(
    A: Float[Array, "n n"],
    b: Float[Array, " n"],
    u: Float[Array, " n"],
    eigenvalues: Complex[Array, " n"],
    growth: Float[Array, ""],
) -> Float[Array, ""]:
    """Return the sum, infinite if it diverges; `eigenvalues` approximate those of A."""
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
    # A refused transform gives NaN when it is traced.
    return jnp.where(jnp.any(jnp.isnan(A)), jnp.nan, energy)


def _filters(S, u, p):
    """Return (S - p) (I - conj(p) S)^-1, u^T (I - conj(p) S)^-1 and 1 - |p|^2 for every p."""
    size = jnp.abs(p)
    # An eigenvalue outside the unit disc is a rounding error, or the sum is infinite anyway.
    p = jnp.where(size < 1, p, p / jnp.where(size < 1, 1, size) ** 2)
    unit = jnp.eye(u.size)
    inverse = jax.vmap(lambda pole: solve(unit - pole.conj() * S, unit + 0 * pole))(p)
    step = (S - p[:, None, None] * unit) @ inverse
    return step, u @ inverse, 1 - (p.real**2 + p.imag**2)
