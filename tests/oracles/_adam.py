"""Adam, AMSGrad and AdamW."""

import math

import numpy as np

from tests.oracles._schedules import multiplier, walk
from tests.oracles._trees import Array, at, per_tensor


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
