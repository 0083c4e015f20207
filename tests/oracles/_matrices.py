"""Methods whose memory is a matrix: the delta rule, Newton-Schulz iteration, M3."""

import numpy as np

from tests.oracles._schedules import multiplier
from tests.oracles._trees import Array, at


def delta_momentum_directions(gradients, decay, erasure, reading, normalize) -> list[Array]:
    """Return m <- beta m - rho (m recalled by the keys) + g (mathematics.md, §11), per gradient.

    The factor of the memory is formed as a matrix, or as the number it is for the "scalar" reading.
    """
    m = np.zeros(np.shape(gradients[0]), np.result_type(gradients[0]))
    directions = []
    for g in gradients:
        norm = np.sqrt(np.sum(np.abs(g) ** 2))
        key = g / norm if normalize and norm > 0 else g
        if reading == "scalar":
            m = (decay - erasure * np.sum(np.abs(key) ** 2)) * m + g
        elif reading == "vector" or np.ndim(g) < 2:
            k = np.reshape(key, (-1, 1))
            factor = decay * np.eye(len(k)) - erasure * (k @ k.conj().T)
            m = np.reshape(factor @ np.reshape(m, (-1, 1)), np.shape(g)) + g
        else:
            m = m @ (decay * np.eye(g.shape[1]) - erasure * (key.conj().T @ key)) + g
        directions.append(m)
    return directions


def newton_schulz(x, coefficients, steps) -> Array:
    """Return X after steps X <- c0 X + c1 A X + c2 A A X, A = X X^H, from X / |X|."""
    c0, c1, c2 = coefficients
    norm = np.sqrt(np.sum(np.abs(x) ** 2))
    x = x / norm if norm > 0 else x
    for _ in range(steps):
        A = x @ x.conj().T
        x = c0 * x + c1 * A @ x + c2 * A @ A @ x
    return x


def m3_directions(
    gradients, b1, b2, b3, slow_weight, period, eps, coefficients, steps, reading
) -> list[Array]:
    """Return M3's direction for each gradient of a matrix (mathematics.md, §11), block by block."""
    zeros = np.zeros(np.shape(gradients[0]), np.result_type(gradients[0]))
    M, S, V = zeros, zeros, np.zeros(zeros.shape)
    directions = []
    for k, start in enumerate(range(0, len(gradients), period)):
        corrected = S / (1 - b3**k) if k and reading == "ema" else S
        slow = newton_schulz(corrected, coefficients, steps)
        block = gradients[start : start + period]
        for t, g in enumerate(block, start + 1):
            if reading == "accumulate":
                M, V = M + b1 * g, V + b2 * np.abs(g) ** 2
                fast, d = newton_schulz(M, coefficients, steps), np.sqrt(V) + eps
            else:
                M, V = b1 * M + (1 - b1) * g, b2 * V + (1 - b2) * np.abs(g) ** 2
                v = V / (1 - b2**t)
                fast = newton_schulz(M / (1 - b1**t), coefficients, steps)
                d = np.maximum(1, (np.sqrt(v) + eps) / (np.sqrt(v.mean()) + eps))
            directions.append((fast + slow_weight * slow) / d)
        total = np.sum(block, axis=0)
        S = S + b3 * total if reading == "accumulate" else b3 * S + (1 - b3) * total
    return directions


def delta_gradient_descent(theta, gradients, inputs, learning_rate, schedule=None) -> list[Array]:
    """Step W <- W (I - eta' x x^T) - eta' g, eta' = eta / (1 + eta |x|^2) (mathematics.md, §11).

    `theta` has rows of the length of each of the `inputs`; a scalar is a row of one.
    """
    W, rows = np.reshape(theta, (-1, np.size(inputs[0]))), []
    for step, (g, x) in enumerate(zip(gradients, inputs, strict=True)):
        eta = multiplier(schedule, step) * at(learning_rate, step)
        x = np.reshape(x, (-1, 1))
        eta = eta / (1 + eta * (x.T @ x).item())
        W = W @ (np.eye(len(x)) - eta * (x @ x.T)) - eta * np.reshape(g, W.shape)
        rows.append(np.reshape(W, np.shape(theta)))
    return rows
