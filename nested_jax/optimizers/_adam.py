"""Adam and AdamW."""

from collections.abc import Callable
from typing import Any

import optax

from nested_jax._core.checks import (
    check_flag,
)
from nested_jax._core.types import Params, ScalarLike, ScalarOrSchedule, Schedule
from nested_jax.transforms import (
    add_decoupled_weight_decay,
    scale_by_adam,
    scale_by_learning_rate,
)


def adam(
    learning_rate: ScalarOrSchedule = 1e-3,
    *,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-8,
    amsgrad: bool = False,
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Adam, or AMSGrad.

    .. math:: \theta \leftarrow \theta
        - \eta_t \alpha_t \frac{\hat m}{\sqrt{\hat v} + \varepsilon} .

    It is `optax.adam` (`optax.amsgrad`); see `scale_by_adam`. Defaults are the paper's.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        b1: :math:`\beta_1 \in [0, 1)`; may be traced.
        b2: :math:`\beta_2 \in [0, 1)`; may be traced.
        eps: :math:`\varepsilon \ge 0`; may be traced.
        amsgrad: Whether to divide by the largest second moment so far; static.
        schedule: A multiplier of the rate, a function of the step.

    Returns:
        An optimizer whose updates are to be added to the parameters.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.adam(3e-4, b2=0.99, amsgrad=True)
    """
    return optax.chain(
        scale_by_adam(b1, b2=b2, eps=eps, amsgrad=amsgrad),
        scale_by_learning_rate(learning_rate, schedule=schedule),
    )


def adamw(
    learning_rate: ScalarOrSchedule = 1e-3,
    *,
    weight_decay: ScalarLike = 1e-4,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-8,
    normalized: bool = False,
    decay_times_rate: bool = False,
    mask: Any | Callable[[Params], Any] | None = None,
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Adam with decoupled weight decay, as its paper has it.

    .. math:: \theta \leftarrow \theta - \eta_t
        \left( \alpha_t \frac{\hat m}{\sqrt{\hat v} + \varepsilon} + \lambda_t \theta \right) .

    The schedule scales step and decay alike, and the rate only the step. With `decay_times_rate`
    it is `optax.adamw(learning_rate, weight_decay=weight_decay)`, in which
    :math:`\lambda_t = \alpha_t` times `weight_decay`. With `normalized`, `weight_decay` is
    :math:`\lambda_\text{norm}`, of .025 to .05 in the paper, and is divided by the root of the
    steps in the schedule's cycle. See `add_decoupled_weight_decay`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        weight_decay: :math:`\lambda \ge 0`; may be traced.
        b1: :math:`\beta_1 \in [0, 1)`; may be traced.
        b2: :math:`\beta_2 \in [0, 1)`; may be traced.
        eps: :math:`\varepsilon \ge 0`; may be traced.
        normalized: Whether the schedule's cycle sets the scale of the decay; static.
        decay_times_rate: Whether the rate multiplies the decay, as in optax and torch; static.
        mask: Which parameters decay: a tree of bools, or a function from the parameters to one.
        schedule: A multiplier of step and decay, a function of the step; with `normalized` one
            that has `cycle_steps`.

    Returns:
        An optimizer whose updates are to be added to the parameters; its `update` needs `params`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.adamw(1e-3, weight_decay=1e-4)
    """
    check_flag("decay_times_rate", decay_times_rate)
    return optax.chain(
        scale_by_adam(b1, b2=b2, eps=eps),
        scale_by_learning_rate(learning_rate, schedule=schedule),
        add_decoupled_weight_decay(
            weight_decay,
            learning_rate=learning_rate if decay_times_rate else None,
            schedule=schedule,
            normalized=normalized,
            mask=mask,
        ),
    )
