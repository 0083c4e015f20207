"""Adafactor, its parts, and Adafactor with AdamW's normalized decay."""

import math
from collections.abc import Sequence

import numpy as np

from tests.oracles._schedules import multiplier
from tests.oracles._trees import Array, Rate, Tree, at, per_tensor


def rms(x: Array) -> float:
    """Return the root of the mean of squares."""
    return math.sqrt(np.mean(x**2))


def clip_by_block_rms(u: Array, threshold: float | None) -> Array:
    """Return U / max(1, RMS(U) / d) (Shazeer & Stern 2018, Alg. 4); None does not clip."""
    return u if threshold is None else u / max(1.0, rms(u) / threshold)


def dims_to_factor(shape: tuple[int, ...], smallest: int, which: str) -> tuple[int, int] | None:
    """Return the two axes to factor over, or None if one of them has fewer than `smallest` entries.

    "largest": the two largest dimensions, the later one of equals (as optax); "last": the last two.
    """
    order = {"largest": lambda axis: (shape[axis], axis), "last": lambda axis: axis}[which]
    chosen = sorted(range(len(shape)), key=order)[-2:]
    fits = len(chosen) == 2 and all(shape[axis] >= smallest for axis in chosen)
    return (chosen[0], chosen[1]) if fits else None


def factored_directions(
    gradients: Sequence[Array],
    *,
    decay_rate: float = 0.8,
    b2: float | None = None,
    b2_cap: float | None = None,
    eps1: float = 1e-30,
    factored: bool = True,
    min_dim_size_to_factor: int = 2,
    factored_dims: str = "largest",
) -> list[Array]:
    """Return U_t = g / sqrt(V_t), unclipped (Shazeer & Stern 2018, Alg. 4 and 5).

    beta2_t = 1 - t^-c with c = `decay_rate` (section 7.2), or the constant `b2`; at most `b2_cap`.
    There is no bias correction. With the schedule none is needed, because beta2_1 = 0; with a
    constant b2 the paper has none.
    """
    dims = dims_to_factor(np.shape(gradients[0]), min_dim_size_to_factor, factored_dims)
    row = col = v = 0.0
    directions = []
    for t, g in enumerate(gradients, start=1):
        beta2 = 1 - t**-decay_rate if b2 is None else b2
        beta2 = beta2 if b2_cap is None else min(beta2, b2_cap)
        square = g**2 + eps1
        if factored and dims is not None:
            i, j = dims
            # R, C are means, so V_ij = R_i C_j / mean(R); further axes are a batch of matrices.
            row = beta2 * row + (1 - beta2) * square.mean(axis=j, keepdims=True)
            col = beta2 * col + (1 - beta2) * square.mean(axis=i, keepdims=True)
            v = row * col / row.mean(axis=i, keepdims=True)
        else:
            v = beta2 * v + (1 - beta2) * square
        directions.append(g / np.sqrt(v))
    return directions


def relative_rate(step: int, learning_rate: Rate | None = None, warmup_init: bool = False) -> float:
    """Return rho_t = min(cap, 1 / sqrt(t)), t = step + 1 (Shazeer & Stern 2018, Alg. 6).

    The cap is `learning_rate`, 1e-2 where that is None. `warmup_init` puts 1e-6 t under the minimum
    too: by default min(1e-6 t, 1 / sqrt(t)), as the two cross at t = 1e4, where rho = 1e-2.
    """
    t = step + 1
    rho = min(1e-2 if learning_rate is None else at(learning_rate, step), 1 / math.sqrt(t))
    return min(rho, 1e-6 * t) if warmup_init else rho


@per_tensor
def adafactor(
    theta,
    gradients,
    learning_rate=None,
    *,
    b1=0.0,
    clip_threshold=1.0,
    relative_step=True,
    warmup_init=False,
    scale_by_parameter=True,
    eps2=1e-3,
    momentum_of="update",
    weight_decay=0.0,
    normalized=False,
    mask=True,
    schedule=None,
    **options,
):
    """Run Adafactor (Shazeer & Stern 2018, Alg. 4 and 5) with the options of mathematics.md, §6.

    In this order: U = g / sqrt(V) (`options`: those of `factored_directions`); clip; average if
    `momentum_of` is "update"; times alpha_t = max(eps2, RMS(theta)) rho_t, theta before the step;
    average if `momentum_of` is "step"; then theta <- theta - eta_t (step + lambda_t theta).

    The average, m <- b1 m + (1 - b1) u, has no bias correction. With `relative_step`, rho_t is
    `relative_rate`, capped by `learning_rate`; without it, rho_t is `learning_rate`. lambda_t, not
    multiplied by alpha_t, is as in `adamw`.
    """
    assert momentum_of in ("update", "step")
    m = np.zeros_like(theta)
    for step, u in enumerate(factored_directions(gradients, **options)):
        u = clip_by_block_rms(u, clip_threshold)
        if momentum_of == "update":
            u = m = b1 * m + (1 - b1) * u
        capped = relative_rate(step, learning_rate, warmup_init)
        rho = capped if relative_step else at(learning_rate, step)
        u = u * (max(eps2, rms(theta)) * rho if scale_by_parameter else rho)
        if momentum_of == "step":
            u = m = b1 * m + (1 - b1) * u
        lam = weight_decay if mask else 0.0
        lam = lam / math.sqrt(schedule.cycle_steps(step)) if normalized else lam
        theta = theta - multiplier(schedule, step) * (u + lam * theta)
        yield theta


def factored_adamw(params, gradients, learning_rate, weight_decay, **options) -> list[Tree]:
    """Run Adafactor with AdamW's normalized decay and b1 = .9 (mathematics.md, §7).

    theta <- theta - eta_t (alpha_t m + lambda_t theta), m the average of the clipped U, alpha_t =
    max(eps2, RMS(theta)) min(learning_rate, 1 / sqrt(t)), lambda_t as in `adamw`.
    """
    options = {"b1": 0.9, "normalized": True, "weight_decay": weight_decay} | options
    return adafactor(params, gradients, learning_rate, **options)
