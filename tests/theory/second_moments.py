"""Oracles of the mean square under online regression: all second moments, recurrences."""

import decimal
import itertools
import math

import numpy as np


def linear_map(step, size):
    """Return the matrix of a linear function of a vector, column by column."""
    return np.array([step(unit) for unit in np.eye(size)]).T


def one_step(decays, data_decays, rate, dim, chance, leak):
    """Return the map of one step on (w, momenta, W, 1), from the recurrences as they are printed.

    `chance` is (x, noise, drift): numbers. The last entry of the vector is the constant 1.
    """
    x, noise, drift = chance
    k, d, n = len(decays), len(data_decays), dim + 1
    features = np.append(x, 1.0)

    def step(vector):
        w, momenta = vector[:n], vector[n : n * (k + 1)].reshape(k, n)
        levels, one = vector[n * (k + 1) : -1].reshape(d, dim), vector[-1]
        inflow, fresh_levels = drift * one, []
        for a, level in zip(data_decays[::-1], levels[::-1], strict=True):
            inflow = a * level + (1 - a) * inflow
            fresh_levels.append(inflow)
        target = (inflow @ x if d else 0.0) + noise * one
        inflow, fresh = 2 * (features @ w - target) * features, []
        for a, momentum in zip(decays[::-1], momenta[::-1], strict=True):
            inflow = a * momentum + (1 - a) * inflow
            fresh.append(inflow)
        return np.concatenate(
            [(1 - leak) * w - rate * inflow, *fresh[::-1], *fresh_levels[::-1], [one]]
        )

    return linear_map(step, n * (k + 1) + d * dim + 1), target_row(data_decays, dim, k, chance)


def target_row(data_decays, dim, k, chance):
    """Return the row that makes the residual of a step from (w, momenta, W, 1)."""
    x, noise, drift = chance
    n, row = dim + 1, [np.append(x, 1.0), np.zeros((dim + 1) * k)]
    # W_1 after the step is a sum over the levels before it, and the drift.
    share, shares = 1.0, []
    for a in data_decays:
        shares.append(share * a)
        share *= 1 - a
    row += [-part * x for part in shares]
    last = -noise - (share * (drift @ x) if data_decays else 0.0)
    assert n == len(row[0])
    return np.concatenate([*row, [last]])


def moments(decays, data_decays, rate, dim, noise_std, leak=0.0):
    """Return the mean of step (x) step, and the loss as a row on second moments.

    The mean is taken over three points a number, which is exact up to fifth powers of each. All
    numbers but the inputs enter linearly, so that two points, -1 and 1, are enough for them.
    """
    points = np.array([-math.sqrt(3), 0, math.sqrt(3)])
    weights = np.array([1, 4, 1]) / 6
    signs = list(itertools.product([-1.0, 1.0], repeat=1 + (dim if data_decays else 0)))
    total, loss = 0.0, 0.0
    for index in itertools.product(range(3), repeat=dim):
        for sign in signs:
            drift = np.array(sign[1:]) if data_decays else np.zeros(dim)
            chance = points[list(index)], noise_std * sign[0], drift
            weight = np.prod(weights[list(index)]) / len(signs)
            step, row = one_step(decays, data_decays, rate, dim, chance, leak)
            total = total + weight * np.kron(step, step)
            loss = loss + weight * np.kron(row, row)
    return total, loss


def exact_growth(decays, rate, dim):
    total, _ = moments(decays, [], rate, dim, 0.0)
    size = math.isqrt(len(total))
    # Without the constant: the homogeneous part.
    kept = [i * size + j for i in range(size - 1) for j in range(size - 1)]
    return np.log(np.max(np.abs(np.linalg.eigvals(total[np.ix_(kept, kept)]))))


def exact_loss(decays, data_decays, rate, dim, noise_std, leak=0.0):
    total, loss = moments(decays, data_decays, rate, dim, noise_std, leak)
    # The second moment of the constant is 1; all others settle.
    rest, source = total[:-1, :-1], total[:-1, -1]
    settled = np.linalg.lstsq(np.eye(len(rest)) - rest, source, rcond=None)[0]
    return loss @ np.append(settled, 1.0)


def lyapunov_growth(stages, rate, weights, decay=0.95):
    """Return the growth from the two coupled maps P and Q as a matrix, for many inputs."""
    k = stages

    def step(vector, noise):
        e, momenta = vector[0], vector[1:]
        inflow, fresh = e + noise, []
        for momentum in momenta[::-1]:
            inflow = decay * momentum + (1 - decay) * inflow
            fresh.append(inflow)
        return np.array([e - 2 * rate * inflow, *fresh[::-1]])

    A = linear_map(lambda vector: step(vector, 0.0), k + 1)
    b = step(np.zeros(k + 1), 1.0)
    keep, add = np.kron(A, A), np.zeros(((k + 1) ** 2,) * 2)
    add[:, 0] = np.kron(b, b)
    whole = np.kron(np.eye(len(weights)), keep) + np.kron(weights, add)
    return np.log(np.max(np.abs(np.linalg.eigvals(whole))))


def zero_lag_growth(stages, rate, weight, decay="0.95"):
    """Return the growth from the recurrence of the levels itself, run with 40 digits."""
    steps = 120_000 // (stages + 1)
    with decimal.localcontext() as context:
        context.prec = 40
        keep, rate, blow_up = (decimal.Decimal(x) for x in (decay, rate, "1.017"))
        signed = [(-1) ** j * math.comb(stages, j + 1) for j in range(stages)]
        # The first gradient is half the noise alone, of size 1. What is summed is blown up, so that
        # nothing underflows.
        averages, error, half_gradient, grown, squares = [0] * stages, 0, 1, 1, []
        for _ in range(steps):
            inflow, combined = half_gradient, 0
            for j, sign in enumerate(signed):
                inflow = averages[j] = keep * averages[j] + (1 - keep) * inflow
                combined += sign * inflow
            half_gradient = error = error - 2 * rate * combined
            grown *= blow_up
            squares.append(float((error * grown) ** 2))
    squares, ages = np.array(squares), np.arange(1, steps + 1)
    blown_up = 2 * math.log(1.017)
    bracket = low, high = -0.04, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        terms = weight * squares * np.exp(-(middle + blown_up) * ages)
        low, high = (middle, high) if terms.sum() > 1 else (low, middle)
    assert bracket[0] < low < high < bracket[1]
    assert terms[-1000:].sum() < 1e-10  # The rest may be left out.
    return low


def with_bias(dim):
    return np.array([[dim + 1.0, dim], [1.0, 0.0]])
