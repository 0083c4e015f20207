"""Gradient descent with momentum, accumulated, nested or looking ahead."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from nested_jax._core.types import ScalarLike, ScalarOrSchedule, Schedule
from nested_jax.transforms import (
    nested_decays,
    scale_by_accumulated_momentum,
    scale_by_learning_rate,
    scale_by_nested_momentum,
    scale_by_nesterov_momentum,
)


def momentum(
    learning_rate: ScalarOrSchedule, *, decay: ScalarLike = 0.9, schedule: Schedule | None = None
) -> optax.GradientTransformation:
    r"""Gradient descent with accumulated momentum (heavy ball).

    .. math:: s \leftarrow \rho s + g, \quad \theta \leftarrow \theta - \eta_t \alpha_t s,
        \quad s_0 = 0.

    It is `optax.sgd(learning_rate, momentum=decay)`. Under a constant gradient the parameters
    reach the terminal velocity :math:`-\alpha g / (1 - \rho)` a step; with decay 0 this is
    plain gradient descent. For the averaged convention, whose gain is 1, see `nested_momentum`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        decay: :math:`\rho \in [0, 1)`; may be traced.
        schedule: A multiplier of the rate, a function of the step.

    Returns:
        An optimizer whose updates are to be added to the parameters.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.momentum(0.1, decay=0.5)
        >>> state = tx.init(jnp.zeros(()))
        >>> for _ in range(3):
        ...     update, state = tx.update(jnp.ones(()), state)
        >>> round(float(update), 4)  # -0.1 (1 + 0.5 + 0.25), on its way to -0.2
        -0.175
    """
    return optax.chain(
        scale_by_accumulated_momentum(decay),
        scale_by_learning_rate(learning_rate, schedule=schedule),
    )


def nested_momentum(
    learning_rate: ScalarOrSchedule,
    *,
    levels: ScalarLike = 2,
    decay: ScalarLike = 0.95,
    max_levels: int | None = None,
    decays: Sequence[ScalarLike] | np.ndarray | jax.Array | None = None,
    debias: bool = False,
    readout: str = "last",
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Gradient descent along m levels of averaged momentum.

    .. math::

        M_m \leftarrow g, \quad M_i \leftarrow a M_i + (1 - a) M_{i+1} \;\;
        (i = m - 1, \dots, 1), \quad \theta \leftarrow \theta - \eta_t \alpha_t M_1 .

    One level is plain gradient descent; two are `momentum` with the rate multiplied by 1 - a.
    The gain is 1 and the delay (m - 1) a / (1 - a) steps: with equal decays and many levels the
    largest stable rate falls steeply. See `scale_by_nested_momentum`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        levels: m >= 1; may be traced if `max_levels` is given.
        decay: :math:`a \in [0, 1)`; may be traced.
        max_levels: The most levels the state has room for; static.
        decays: The decays outermost first, in place of `levels`, `decay` and `max_levels`, for
            instance `matched_delay_decays(levels)`.
        debias: Whether to divide by the cascade's response to the constant 1.
        readout: ``"last"`` to descend along :math:`M_1`, ``"zero_lag"`` along the combination of
            the averages that has no delay (three levels: DEMA, four: TEMA), ``"mean"`` along the
            mean of the levels; static.
        schedule: A multiplier of the rate, a function of the step.

    Returns:
        An optimizer whose updates are to be added to the parameters.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.nested_momentum(1e-2, levels=4)
        >>> tx = nj.nested_momentum(1e-2, decays=nj.matched_delay_decays(19))
    """
    if decays is None:
        decays = nested_decays(levels, decay=decay, max_levels=max_levels)
    return optax.chain(
        scale_by_nested_momentum(decays, debias=debias, readout=readout),
        scale_by_learning_rate(learning_rate, schedule=schedule),
    )


def nesterov(
    learning_rate: ScalarOrSchedule,
    *,
    decay: ScalarOrSchedule = 0.9,
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Nesterov's accelerated gradient, exact under a scheduled rate and decay.

    .. math:: s \leftarrow \rho_t s - \eta_t \alpha_t \nabla R(\theta + \rho_t s), \quad
        \theta \leftarrow \theta + s, \quad s_0 = 0.

    The parameters are :math:`p = \theta + \rho_t s`, where the next gradient is due;
    `nesterov_iterate(params, state)` gives :math:`\theta`. For constant rate and decay it is
    `optax.sgd(learning_rate, momentum=decay, nesterov=True)`; see `scale_by_nesterov_momentum`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        decay: :math:`\rho \in [0, 1)`, or a function of the step; may be traced.
        schedule: A multiplier of the rate, a function of the step.

    Returns:
        An optimizer whose updates are to be added to the parameters.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.nesterov(0.01, decay=lambda step: step / (step + 3))
    """
    return scale_by_nesterov_momentum(learning_rate, decay=decay, schedule=schedule)
