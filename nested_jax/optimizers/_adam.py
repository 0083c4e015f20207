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
    r"""Build Adam, or AMSGrad.

    .. math:: \theta \leftarrow \theta
        - \eta_t \alpha_t \frac{\hat m}{\sqrt{\hat v} + \varepsilon} .

    Equals `optax.adam`, and `optax.amsgrad` with `amsgrad`; see `scale_by_adam`, whose state
    starts at 0. The defaults are the paper's.

    `mu_dtype`, `eps_root` and `nesterov` are not offered; use `optax.adam` for them.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        b1: :math:`\beta_1 \in [0, 1)`; may be traced.
        b2: :math:`\beta_2 \in [0, 1)`; may be traced.
        eps: :math:`\varepsilon \ge 0`; may be traced.
        amsgrad: Whether to divide by the root of the largest second moment so far; static.
        schedule: A function of the step (from 0) that multiplies the learning rate; 1 if not given.

    Returns:
        An optimizer; add its updates to the parameters.

    Raises:
        TypeError: If an argument has the wrong type.
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
    r"""Build AdamW, whose weight decay is not multiplied by the learning rate, unlike optax's.

    .. math:: \theta \leftarrow \theta - \eta_t
        \left( \alpha_t \frac{\hat m}{\sqrt{\hat v} + \varepsilon} + \lambda_t \theta \right) .

    The moments start at 0. The schedule scales both the step and the decay; the learning rate
    scales only the step, as in the paper. With `decay_times_rate`, :math:`\lambda_t` is
    :math:`\alpha_t` times `weight_decay`, and the optimizer equals
    `optax.adamw(learning_rate, weight_decay=weight_decay)`. With `normalized`, `weight_decay` is
    the paper's :math:`\lambda_\text{norm}` (0.025 to 0.05 there) and is divided by the square
    root of the number of steps in the schedule's cycle. See `add_decoupled_weight_decay`.

    `mu_dtype`, `eps_root` and `nesterov` are not offered; use `optax.adamw` for them.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step; may be traced.
        weight_decay: :math:`\lambda \ge 0`; may be traced.
        b1: :math:`\beta_1 \in [0, 1)`; may be traced.
        b2: :math:`\beta_2 \in [0, 1)`; may be traced.
        eps: :math:`\varepsilon \ge 0`; may be traced.
        normalized: Whether to divide the decay by the root of the steps in the schedule's cycle;
            static.
        decay_times_rate: Whether the learning rate multiplies the decay, as in optax and torch;
            static.
        mask: Which parameters decay: a tree of bools, or a function from the parameters to such a
            tree.
        schedule: A function of the step that multiplies both step and decay; `normalized` needs
            one with a `cycle_steps` method.

    Under `optax.inject_hyperparams`, a `schedule` and a `mask` that is a function are static: name
    them in ``static_args=("mask", "schedule")``, because optax calls other functions with the step.

    Returns:
        An optimizer; add its updates to the parameters. Its `update` needs `params`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range.

    Example:
        Each step shrinks the parameters by a fraction of 1e-4, whatever the learning rate:

        >>> import nested_jax as nj, optax
        >>> tx = nj.adamw(1e-3, weight_decay=1e-4)

        In `optax.adamw` the fraction is learning rate times decay, here 1e-7. These are equal:

        >>> theirs = optax.adamw(1e-3, weight_decay=1e-4)
        >>> ours = nj.adamw(1e-3, weight_decay=1e-4, decay_times_rate=True)
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
