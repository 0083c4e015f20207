"""Reference optimizers and schedules in float64 NumPy, written from the papers.

Nothing here imports nested_jax, jax or optax, and nothing is fast: each line is meant to be checked
against the equation named above it.

No method here couples tensors, so each is written for one array. `per_tensor` makes of it
`method(params, gradients, ...)` for a dict of arrays and a list (over time) of dicts; it returns
the parameters after each step, theta_1 ... theta_T. Functions on lists of arrays (`cascade`,
`adam_directions`, `factored_directions`) give what a transform gives; `by_name` lifts them.

Papers count t = 1, 2, ...; schedules and callable rates are asked with the 0-based `step` = t - 1,
as in optax. `learning_rate` is alpha, a number or a function of the step; `schedule` is the
multiplier eta_t of Loshchilov & Hutter (AdamW 2019), which scales step and weight decay alike.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray  # float64 throughout
Tree = dict[str, Array]
Rate = float | Callable[[int], float]


def at(rate: Rate, step: int) -> float:
    """Return the value of a number or of a function of the 0-based step."""
    return rate(step) if callable(rate) else rate


def rows(columns: dict[str, list[Array]]) -> list[Tree]:
    """Turn a dict of lists over time into a list of dicts."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def by_name(method: Callable[..., list], gradients: list[Tree], *args: Any, **options: Any) -> list:
    """Apply a method for a list of arrays to a list of dicts, tensor by tensor."""
    return rows({n: method([g[n] for g in gradients], *args, **options) for n in gradients[0]})


def per_tensor(method: Callable[..., Iterable[Array]]) -> Callable[..., list[Tree]]:
    """Lift a method for one array to dicts; `mask` then is a dict of bools, one a tensor."""

    @functools.wraps(method)
    def lifted(params, gradients, *args, mask=None, **options):
        columns = {}
        for name, theta in params.items():
            own = options if mask is None else options | {"mask": mask[name]}
            gs = [np.asarray(g[name], np.float64) for g in gradients]
            columns[name] = list(method(np.asarray(theta, np.float64), gs, *args, **own))
        return rows(columns)

    return lifted


class Schedule(NamedTuple):
    """A multiplier eta(step) that knows how many steps the cycle of `step` has."""

    multiplier: Callable[[int], float]
    cycle_steps: Callable[[int], float]

    def __call__(self, step: int) -> float:
        """Return eta at the 0-based step."""
        return self.multiplier(step)


def multiplier(schedule: Schedule | None, step: int) -> float:
    """Return eta at the step; no schedule is eta = 1."""
    return 1.0 if schedule is None else schedule(step)


def constant(total: int) -> Schedule:
    """Return eta = 1 for a run of `total` steps."""
    return Schedule(lambda step: 1.0, lambda step: float(total))


def step_drop(total: int, drops=(0.3, 0.6, 0.8), factor: float = 0.1) -> Schedule:
    """Multiply by `factor` at each of `drops`, fractions of the run (AdamW 2019, section 4.1).

    A drop takes effect at the first integer step with step >= drop * total. The product is exact,
    the drop being the decimal it is written as (0.3 is 3/10, not the nearest binary number).
    """
    boundaries = [Fraction(str(drop)) * total for drop in drops]
    return Schedule(
        lambda step: math.prod([factor for boundary in boundaries if step >= boundary], start=1.0),
        lambda step: float(total),
    )


def half_cosine(fraction: float, floor: float) -> float:
    """Return floor + (1 - floor) (1 + cos(pi fraction)) / 2 (SGDR 2017, eq. 5)."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction))


def cosine(total: int, floor: float = 0.0) -> Schedule:
    """Fall from 1 to `floor` along half a cosine; `floor` from step `total` on."""
    return Schedule(lambda step: half_cosine(min(1.0, step / total), floor), lambda _: float(total))


def warm_restarts(first_cycle: int, growth: float = 1.0, floor: float = 0.0) -> Schedule:
    """Restart the cosine, cycle i having T_i = T_0 growth^i steps (SGDR 2017, eq. 5).

    Cycle i holds the steps with start_i <= step < start_i + T_i: step T_0 is the first of the next.
    Lengths are exact rationals, never rounded to whole steps; `growth` is the decimal it is written
    as (T_0 = 100 and 1.1 restart at 210, where float64 says 210.00000000000003).
    """
    assert growth >= 1, "Shrinking cycles would never reach late steps."

    def cycle(step):  # T_cur / T_i and T_i
        start, length = Fraction(0), Fraction(str(first_cycle))
        while step >= start + length:
            start += length
            length *= Fraction(str(growth))
        return float((step - start) / length), float(length)

    return Schedule(lambda step: half_cosine(cycle(step)[0], floor), lambda step: cycle(step)[1])


def warmup_linear_decay(total: int, *, warmup_steps: int, floor: float = 0.0) -> Schedule:
    """Rise to 1 in `warmup_steps`, then fall to `floor` at step `total` (BERT 2019, A.2).

    The rise is (step + 1) / `warmup_steps`, which is not 0 at step 0, and the fall begins at step
    `warmup_steps`.
    """

    def eta(step):
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if step >= total:
            return floor
        return floor + (1 - floor) * (total - step) / (total - warmup_steps)

    return Schedule(eta, lambda _: float(total))


def with_warmup(schedule: Schedule, steps: int) -> Schedule:
    """Multiply a schedule by min(1, (step + 1) / steps); `steps` = 0 is no warm-up.

    The ramp starts at 1/steps, not at 0, and is 1 first at step `steps` - 1. The inner schedule is
    not delayed: both clocks start at step 0, and the cycle is the inner one's.
    """
    ramp = (lambda step: min(1.0, (step + 1) / steps)) if steps else (lambda step: 1.0)
    return Schedule(lambda step: ramp(step) * schedule(step), schedule.cycle_steps)


def walk(theta, directions, learning_rate, schedule) -> Iterator[Array]:
    """Step theta <- theta - eta_t alpha_t u_t along given directions."""
    for step, u in enumerate(directions):
        theta = theta - multiplier(schedule, step) * at(learning_rate, step) * u
        yield theta


@per_tensor
def sgd(theta, gradients, learning_rate, *, schedule=None):
    """Step theta <- theta - eta_t alpha_t g."""
    return walk(theta, gradients, learning_rate, schedule)


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


def nested_decays(levels: int, decay: float, max_levels: int | None = None) -> Array:
    """Return `levels` - 1 equal decays, then zeros (which pass their input): (max_levels - 1,)."""
    decays = np.zeros((levels if max_levels is None else max_levels) - 1)
    decays[: levels - 1] = decay
    return decays


def matched_delay_decays(levels: int, decay: float, max_levels: int | None = None) -> Array:
    """Return k = levels - 1 decays d/(k + d), d = a/(1 - a), then zeros: delay d for every k."""
    k, d = levels - 1, decay / (1 - decay)
    return nested_decays(levels, d / (k + d) if k else 0.0, max_levels)


def advance(levels: list, decays: Sequence[float], inflow: Any) -> list:
    """Return M_1 ... M_m after one step: M_m <- inflow, M_i <- a_i M_i + (1 - a_i) M_{i+1}."""
    levels = [*levels[:-1], inflow]
    for i in reversed(range(len(decays))):
        levels[i] = decays[i] * levels[i] + (1 - decays[i]) * levels[i + 1]
    return levels


def cascade(inputs: Sequence[Any], decays: Sequence[Rate], debias: bool = False) -> list:
    """Return M_1 of exponential averages in a row, starting at 0 (mathematics.md, §2), per input.

    `decays` is (a_1 ... a_K), outermost first. With `debias`, M_1 is divided by what the same
    cascade makes of the constant 1, found by running a second one on it.
    """
    moments = responses = [0.0] * (len(decays) + 1)
    outputs = []
    for step, u in enumerate(inputs):
        now = [at(decay, step) for decay in decays]
        moments = advance(moments, now, u)
        responses = advance(responses, now, 1.0)
        outputs.append(moments[0] / responses[0] if debias else moments[0])
    return outputs


def periodic_cascade(inputs, decays, periods, debias=False):
    """Return M_1 of averages that change in every C_i-th step, by the mean of C_i inputs.

    As in `cascade`; until M_1 first changes it is 0.
    """

    def outputs(inputs):
        levels, seen, found = [0.0 * inputs[0]] * len(decays), [[] for _ in decays], []
        for t, value in enumerate(inputs, 1):
            for i in reversed(range(len(decays))):
                a, period = decays[i], periods[i] if decays[i] else 1
                seen[i].append(value)
                if t % period == 0:
                    levels[i] = a * levels[i] + (1 - a) * np.mean(seen[i][-period:], 0)
                value = levels[i]
            found.append(value)
        return found

    if not debias:
        return outputs(inputs)
    responses = outputs([1.0] * len(inputs))
    pairs = zip(outputs(inputs), responses, strict=True)
    return [y / c if c else 0 * y for y, c in pairs]


@per_tensor
def nested_momentum(theta, gradients, learning_rate, decays, *, debias=False, schedule=None):
    """Step theta <- theta - eta_t alpha_t M_1 (mathematics.md, §2)."""
    return walk(theta, cascade(gradients, decays, debias), learning_rate, schedule)


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


def adam_directions(gradients, b1=0.9, b2=0.999, eps=1e-8, *, amsgrad=None) -> list[Array]:
    """Return m-hat / (sqrt(v-hat) + eps), the step without its rate (Kingma & Ba 2015, Alg. 1).

    `amsgrad` is None for Adam, else it says which v gives way to its largest value so far:
    "debiased": v / (1 - b2^t), as optax.amsgrad; "raw": v, the largest then divided by 1 - b2^t, as
    torch.optim.Adam(amsgrad=True); "paper": v, neither m nor v being corrected (Reddi et al. 2018,
    Alg. 2, whose eps is 0).
    """
    assert amsgrad in (None, "debiased", "raw", "paper")
    m, v, largest = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), 0.0
    directions = []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        if amsgrad == "debiased":
            largest = v_hat = np.maximum(largest, v_hat)
        elif amsgrad == "raw":
            largest = np.maximum(largest, v)
            v_hat = largest / (1 - b2**t)
        elif amsgrad == "paper":
            largest = v_hat = np.maximum(largest, v)
            m_hat = m
        directions.append(m_hat / (np.sqrt(v_hat) + eps))
    return directions


@per_tensor
def adam(theta, gradients, learning_rate=1e-3, *args, schedule=None, **options):
    """Step theta <- theta - eta_t alpha_t u_t, u of `adam_directions`, whose options follow."""
    return walk(theta, adam_directions(gradients, *args, **options), learning_rate, schedule)


@per_tensor
def adamw(
    theta,
    gradients,
    learning_rate=1e-3,
    weight_decay=1e-4,
    *,
    normalized=False,
    decay_times_rate=False,
    mask=True,
    schedule=None,
    **options,
):
    """Step theta <- theta - eta_t (alpha_t m-hat / (sqrt(v-hat) + eps) + lambda theta).

    AdamW 2019, Alg. 2, line 12. lambda is `weight_decay`, 0 where the mask is False; `normalized`
    makes it lambda_norm sqrt(b/(BT)), BT/b being the steps of this cycle of the schedule (App.
    B.1); `decay_times_rate` multiplies it by alpha_t, as torch and optax do. Other options are
    those of `adam_directions`.
    """
    for step, u in enumerate(adam_directions(gradients, **options)):
        alpha = at(learning_rate, step)
        lam = weight_decay if mask else 0.0
        lam = lam / math.sqrt(schedule.cycle_steps(step)) if normalized else lam
        lam = lam * alpha if decay_times_rate else lam
        theta = theta - multiplier(schedule, step) * (alpha * u + lam * theta)
        yield theta


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
    There is no bias correction: beta2_1 = 0 makes it needless, and a constant b2 goes without.
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


def drifting_regression(
    model_init: Array,
    data_init: Array,
    drift: Array,
    inputs: Array,
    noise: Array,
    *,
    decays: Sequence[float] = (),
    learning_rate: float = 0.01,
    data_decay: float = 0.95,
    noise_std: float = 0.1,
    warmup: int = 0,
) -> tuple[Array, float]:
    """Regress on weights that drift, by nested momentum (mathematics.md, §8).

    The five arrays are standard normals, for w (D + 1,) with the bias last, W_1 ... W_d (d, D),
    delta (T, D), x (T, D) and epsilon (T,); the scales 2 (of w) and `noise_std` are applied here.
    `decays` are those of the m - 1 stages of the model, outermost first. Returns the loss of each
    step, before its update, (T,), and its mean without the first `warmup` of these T steps.
    """
    w, world = 2.0 * model_init, [*data_init, None]
    levels, losses = [np.zeros_like(w)] * (len(decays) + 1), []
    # Divergence is a result of this experiment, so overflow is no warning.
    with np.errstate(over="ignore", invalid="ignore"):
        for delta, x, epsilon in zip(drift, inputs, noise, strict=True):
            world = advance(world, [data_decay] * len(data_init), delta)
            features = np.append(x, 1.0)
            error = w @ features - (x @ world[0] + noise_std * epsilon)
            losses.append(error**2)
            levels = advance(levels, decays, 2 * error * features)
            w = w - learning_rate * levels[0]
        return np.array(losses), float(np.mean(losses[warmup:]))
