"""Gradient descent with heavy-ball, nested or Nesterov momentum."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from nested_jax._core.cascade import check_levels
from nested_jax._core.checks import or_nan
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
    r"""Build gradient descent with accumulated (heavy-ball) momentum.

    .. math:: s \leftarrow \rho s + g, \quad \theta \leftarrow \theta - \eta_t \alpha_t s,
        \quad s_0 = 0.

    Equals `optax.sgd(learning_rate, momentum=decay)`, and plain gradient descent at decay 0. Under
    a constant gradient the velocity tends to :math:`-\alpha g / (1 - \rho)` per step. For
    averaged momentum, whose gain is 1, see `nested_momentum`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        decay: :math:`\rho \in [0, 1)`; may be traced.
        schedule: A function of the step (from 0) that multiplies the learning rate; 1 if not given.

    Returns:
        An optimizer; add its updates to the parameters.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.momentum(0.1, decay=0.5)
        >>> state = tx.init(jnp.zeros(()))
        >>> for _ in range(3):
        ...     update, state = tx.update(jnp.ones(()), state)
        >>> round(float(update), 4)  # -0.1 (1 + 0.5 + 0.25), tends to -0.2
        -0.175
    """
    return optax.chain(
        scale_by_accumulated_momentum(decay),
        scale_by_learning_rate(learning_rate, schedule=schedule),
    )


def nested_momentum(
    learning_rate: ScalarOrSchedule,
    *,
    levels: ScalarLike | None = None,
    decay: ScalarLike | None = None,
    max_levels: int | None = None,
    decays: Sequence[ScalarLike] | np.ndarray | jax.Array | None = None,
    periods: Sequence[ScalarLike] | np.ndarray | jax.Array | None = None,
    debias: bool = False,
    readout: str = "last",
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Build gradient descent with m levels of averaged momentum.

    .. math::

        M_m \leftarrow g, \quad M_i \leftarrow a M_i + (1 - a) M_{i+1} \;\;
        (i = m - 1, \dots, 1), \quad \theta \leftarrow \theta - \eta_t \alpha_t M_1 .

    All averages start at 0. One level is plain gradient descent; two levels are `momentum` with the
    learning rate multiplied by 1 - a. The gain is 1 and the delay is (m - 1) a / (1 - a) steps, so
    with equal decays the largest stable learning rate falls steeply with the number of levels.
    See `scale_by_nested_momentum`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        levels: m >= 1, 2 if not given; may be traced if `max_levels` is given.
        decay: :math:`a \in [0, 1)`, 0.95 if not given; may be traced.
        max_levels: The number of levels the state has room for; static.
        decays: The decays, outermost first. They replace `levels`, `decay` and `max_levels`; for
            example `matched_delay_decays(levels)`.
        periods: How many steps each average waits between its changes, outermost first: one integer
            for each of the max_levels - 1 averages, or for each of `decays`; may be traced. None
            stands for 1 everywhere.
        debias: Whether to divide by the cascade's response to the constant 1; static.
        readout: The direction of descent: ``"last"`` is :math:`M_1`, ``"zero_lag"`` the combination
            of averages without delay (DEMA at three levels, TEMA at four), ``"mean"`` the mean of
            the levels; static.
        schedule: A function of the step (from 0) that multiplies the learning rate; 1 if not given.

    Returns:
        An optimizer; add its updates to the parameters.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.nested_momentum(1e-2, levels=4)
        >>> tx = nj.nested_momentum(1e-2, decays=nj.matched_delay_decays(19))
    """
    if decays is None:
        levels, decay = 2 if levels is None else levels, 0.95 if decay is None else decay
        decays = nested_decays(levels, decay=decay, max_levels=max_levels)
        if not len(decays):
            # An empty vector cannot carry NaN. A stage of decay 0 can, and it is the identity.
            _, valid, _ = check_levels("levels", levels, decay, "max_levels", max_levels)
            decays = [] if valid is True else [or_nan(valid, 0.0)]
    elif any(given is not None for given in (levels, decay, max_levels)):
        raise ValueError("`decays` replaces `levels`, `decay` and `max_levels`: pass it alone.")
    return optax.chain(
        scale_by_nested_momentum(decays, periods=periods, debias=debias, readout=readout),
        scale_by_learning_rate(learning_rate, schedule=schedule),
    )


def nesterov(
    learning_rate: ScalarOrSchedule,
    *,
    decay: ScalarOrSchedule = 0.9,
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Build Nesterov's accelerated gradient, exact for scheduled learning rate and decay.

    .. math:: s \leftarrow \rho_t s - \eta_t \alpha_t \nabla R(\theta + \rho_t s), \quad
        \theta \leftarrow \theta + s, \quad s_0 = 0.

    The parameters hold :math:`p = \theta + \rho_t s`, the point of the next gradient;
    `nesterov_iterate(params, state)` returns :math:`\theta`. For a constant learning rate and decay
    this is `optax.sgd(learning_rate, momentum=decay, nesterov=True)`; see
    `scale_by_nesterov_momentum`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        decay: :math:`\rho \in [0, 1)`, or a function of the step; may be traced.
        schedule: A function of the step (from 0) that multiplies the learning rate; 1 if not given.

    Returns:
        An optimizer; add its updates to the parameters.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.nesterov(0.01, decay=lambda step: step / (step + 3))
    """
    return scale_by_nesterov_momentum(learning_rate, decay=decay, schedule=schedule)
