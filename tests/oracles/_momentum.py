"""Momentum in one buffer: heavy ball, Nesterov, AggMo, QHM."""

import numpy as np

from tests.oracles._schedules import multiplier
from tests.oracles._trees import at, per_tensor


@per_tensor
def momentum(theta, gradients, learning_rate, decay=0.9, *, schedule=None):
    """Accumulate s <- rho_t s + g, then theta <- theta - eta_t alpha_t s (mathematics.md, §1)."""
    s = np.zeros_like(theta)
    for step, g in enumerate(gradients):
        s = at(decay, step) * s + g
        theta = theta - multiplier(schedule, step) * at(learning_rate, step) * s
        yield theta


@per_tensor
def aggmo(theta, gradients, learning_rate, decays):
    """Run AggMo: v_i <- beta_i v_i - g, theta <- theta + gamma / K sum v_i.

    Lucas et al. 2019, eq. 3.
    """
    velocities = [np.zeros_like(theta) for _ in decays]
    for step, g in enumerate(gradients):
        velocities = [beta * v - g for beta, v in zip(decays, velocities, strict=True)]
        theta = theta + at(learning_rate, step) / len(decays) * sum(velocities)
        yield theta


@per_tensor
def qhm(theta, gradients, learning_rate, decay, nu):
    """Run QHM: m <- beta m + (1 - beta) g, theta <- theta - alpha [(1 - nu) g + nu m].

    Ma & Yarats 2019, eq. 3 and 4.
    """
    m = np.zeros_like(theta)
    for step, g in enumerate(gradients):
        m = decay * m + (1 - decay) * g
        theta = theta - at(learning_rate, step) * ((1 - nu) * g + nu * m)
        yield theta


def nesterov_lookahead(params, gradient_fn, steps, learning_rate, decay=0.9, *, schedule=None):
    """Run Nesterov's method in its look-ahead form (Sutskever et al. 2013, eq. 3 and 4).

    s <- rho_t s - eta_t grad(theta + rho_t s), theta <- theta + s, s_0 = 0; `gradient_fn` maps a
    dict to a dict. Returns theta_1 ... theta_T, and p_1 ... p_T with p_t = theta_t + rho_{t+1} s_t,
    where step t + 1 differentiates (p_0 = theta_0); so the decay is asked at `steps` too.
    """
    theta = {n: np.asarray(value, np.float64) for n, value in params.items()}
    s = {n: np.zeros_like(value) for n, value in theta.items()}
    thetas, points = [], []
    for step in range(steps):
        eta, rho = multiplier(schedule, step) * at(learning_rate, step), at(decay, step)
        g = gradient_fn({n: theta[n] + rho * s[n] for n in theta})
        s = {n: rho * s[n] - eta * g[n] for n in theta}
        theta = {n: theta[n] + s[n] for n in theta}
        thetas.append(theta)
        points.append({n: theta[n] + at(decay, step + 1) * s[n] for n in theta})
    return thetas, points


@per_tensor
def nesterov(theta, gradients, learning_rate, decay=0.9, *, schedule=None, iterate=False):
    """Run the recast form (mathematics.md, §3), gradients being taken at the parameters p.

    u = -eta_t g, s' = rho_t s + u, p' = p + rho_{t+1} s' + u. Returns p_1 ... p_T, which a user
    holds as parameters, or with `iterate` Nesterov's own theta_t = p_t - rho_{t+1} s_t.
    """
    p, s = theta, np.zeros_like(theta)
    for step, g in enumerate(gradients):
        u = -multiplier(schedule, step) * at(learning_rate, step) * g
        s = at(decay, step) * s + u
        p = p + at(decay, step + 1) * s + u
        yield p - at(decay, step + 1) * s if iterate else p
