"""Adafactor, and AdamW with Adafactor's second moment."""

from collections.abc import Callable
from typing import Any

import optax

from nested_jax._core.checks import (
    check_choice,
    check_non_negative,
    check_positive,
    check_unit_interval,
)
from nested_jax._core.types import Params, ScalarLike, ScalarOrSchedule, Schedule
from nested_jax.transforms import (
    add_decoupled_weight_decay,
    clip_by_block_rms,
    scale_by_factored_rms,
    scale_by_nested_momentum,
    scale_by_relative_step,
)


def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    *,
    b1: ScalarLike | None = None,
    decay_rate: ScalarLike = 0.8,
    b2: ScalarOrSchedule | None = None,
    b2_cap: ScalarLike | None = None,
    clip_threshold: ScalarLike | None = 1.0,
    relative_step: bool = True,
    warmup_init: bool = False,
    scale_by_parameter: bool = True,
    eps1: ScalarLike = 1e-30,
    eps2: ScalarLike = 1e-3,
    factored: bool = True,
    min_dim_size_to_factor: int = 2,
    factored_dims: str = "largest",
    momentum_of: str = "update",
    weight_decay: ScalarLike = 0.0,
    normalized: bool = False,
    mask: Any | Callable[[Params], Any] | None = None,
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Build Adafactor: sublinear memory, clipped updates, steps relative to the parameters.

    With V the factored second moment (`scale_by_factored_rms`) and m an average, both starting at
    0, for each leaf

    .. math::

        u = g / \sqrt V, \quad \hat u = \frac{u}{\max(1, \mathrm{RMS}(u) / d)}, \quad
        \alpha_t = \rho_t \max(\epsilon_2, \mathrm{RMS}(\theta)), \\
        m \leftarrow b_1 m + (1 - b_1) \hat u, \quad
        \theta \leftarrow \theta - \eta_t (\alpha_t m + \lambda_t \theta).

    The defaults are the paper's. `b1=None` means no momentum and saves its memory; `b1=0` computes
    the same with a buffer, because a number never changes the shape of the state.

    With a number, `momentum_of` chooses what is averaged: "update", as above and in big_vision, or
    "step", :math:`\alpha_t \hat u`, as in tensor2tensor (by the paper's authors), transformers and
    timm. The paper does not specify it. With "update", as in Adam, a change of the learning rate
    (such as a warm restart) acts at once, not 1 / (1 - b1) steps later. In both cases the schedule
    multiplies the output of the average.

    In float32 the square of a gradient entry beyond 1.8e19 is infinite and makes its whole matrix
    NaN permanently (`scale_by_factored_rms`). Clip before if such entries can occur.

    Args:
        learning_rate: The cap of :math:`\rho_t = \min(\text{cap}, 1 / \sqrt t)`, 1e-2 if not
            given. Without `relative_step` it is :math:`\rho_t` itself and required. A number, may
            be traced, or a function of the step.
        b1: The decay of the average, in [0, 1), may be traced; None: no average.
        decay_rate: c in :math:`\beta_{2,t} = 1 - t^{-c}`; may be traced.
        b2: Replaces it: a constant in [0, 1), may be traced, or a function of the step.
        b2_cap: The upper limit of :math:`\beta_{2,t}`, in [0, 1]; may be traced; None: no limit.
        clip_threshold: d > 0; may be traced; None: no clipping.
        relative_step: Whether :math:`1 / \sqrt t` bounds :math:`\rho_t`; static.
        warmup_init: Whether :math:`10^{-6} t` also bounds it; static.
        scale_by_parameter: Whether :math:`\mathrm{RMS}(\theta)` scales the step; static.
        eps1: Added to the squared gradient, > 0; may be traced.
        eps2: :math:`\epsilon_2 \ge 0`; may be traced.
        factored: Whether V is factored; static.
        min_dim_size_to_factor: Factor only if both axes have this size or more; static.
        factored_dims: Which axes to factor: the two "largest" or the "last" two; static.
        momentum_of: "update" or "step"; static.
        weight_decay: :math:`\lambda \ge 0`, not multiplied by :math:`\alpha_t`; may be traced.
        normalized: Whether to divide the decay by the root of the steps in the schedule's cycle, as
            in `adamw`; static.
        mask: Which parameters decay: a tree of bools, or a function from the parameters to such a
            tree.
        schedule: The multiplier :math:`\eta` of step and decay, a function of the step.

    Returns:
        An optimizer; add its updates to the parameters. Its `update` needs `params`.
        Its state holds n + m numbers for an n x m matrix, and n m more with a number for `b1`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range, or a required learning rate is missing.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.adafactor()
        >>> tx = nj.adafactor(1e-3, relative_step=False, b1=0.9, b2_cap=0.999)

    References:
        Shazeer & Stern (2018), Algorithms 4 to 6, doi:10.48550/arXiv.1804.04235; departures:
        a cap of :math:`\rho_t` other than 1e-2, momentum and weight decay are not in the paper.
        `optax.adafactor` differs: it has no relative step (without a learning rate its steps are as
        large as the parameters) and no constant or capped :math:`\beta_2`, it averages the step, it
        factors axes of at least 128, and it keeps statistics in the dtype of the parameters (in
        float16 zero gradients become NaN).
    """
    eps1 = check_positive("eps1", eps1)
    eps2 = check_non_negative("eps2", eps2)
    check_choice("momentum_of", momentum_of, ("update", "step"))
    if b1 is not None:
        b1 = check_unit_interval("b1", b1)
    if clip_threshold is not None:
        clip_threshold = check_positive("clip_threshold", clip_threshold)
    average = None if b1 is None else scale_by_nested_momentum([b1])
    of_steps = momentum_of == "step"
    step = scale_by_relative_step(
        learning_rate,
        relative_step=relative_step,
        warmup_init=warmup_init,
        scale_by_parameter=scale_by_parameter,
        eps=eps2,
        average=average if of_steps else None,
        schedule=schedule,
    )
    return optax.chain(
        scale_by_factored_rms(
            decay_rate,
            b2=b2,
            b2_cap=b2_cap,
            eps=eps1,
            factored=factored,
            min_dim_size_to_factor=min_dim_size_to_factor,
            factored_dims=factored_dims,
        ),
        *([] if clip_threshold is None else [clip_by_block_rms(clip_threshold)]),
        *([] if average is None or of_steps else [average]),
        step,
        add_decoupled_weight_decay(
            weight_decay, schedule=schedule, normalized=normalized, mask=mask
        ),
    )


def factored_adamw(
    learning_rate: ScalarOrSchedule | None = 1e-2,
    *,
    weight_decay: ScalarLike = 0.025,
    b1: ScalarLike | None = 0.9,
    decay_rate: ScalarLike = 0.8,
    b2: ScalarOrSchedule | None = None,
    b2_cap: ScalarLike | None = None,
    clip_threshold: ScalarLike | None = 1.0,
    relative_step: bool = True,
    warmup_init: bool = False,
    scale_by_parameter: bool = True,
    eps1: ScalarLike = 1e-30,
    eps2: ScalarLike = 1e-3,
    factored: bool = True,
    min_dim_size_to_factor: int = 2,
    factored_dims: str = "largest",
    momentum_of: str = "update",
    normalized: bool = True,
    mask: Any | Callable[[Params], Any] | None = None,
    schedule: Schedule | None,
) -> optax.GradientTransformation:
    r"""AdamW with Adafactor's second moment, clipping and relative step.

    .. math:: \theta \leftarrow \theta - \eta_t (\alpha_t m + \lambda_t \theta), \quad
        \alpha_t = \min(\text{learning\_rate}, 1 / \sqrt t) \max(\epsilon_2, \mathrm{RMS}(\theta)),
        \quad \lambda_t = \text{weight\_decay} / \sqrt{T},

    with m the average of the clipped :math:`g / \sqrt V` and T the steps of the schedule's cycle.
    It is `adafactor` with other defaults: Adam's momentum, which here costs one copy of the
    parameters where Adam holds two, and AdamW's normalized decay.

    Args:
        learning_rate: As in `adafactor`, whose cap is the default.
        weight_decay: :math:`\lambda_\text{norm} \ge 0`, or :math:`\lambda` itself if not
            `normalized`; may be traced. The default is the least of AdamW's paper (.025 to .05).
        b1: As in `adafactor`; the default is Adam's.
        decay_rate: As in `adafactor`, like all that follow but `normalized`.
        b2: As in `adafactor`.
        b2_cap: As in `adafactor`.
        clip_threshold: As in `adafactor`.
        relative_step: As in `adafactor`.
        warmup_init: As in `adafactor`.
        scale_by_parameter: As in `adafactor`.
        eps1: As in `adafactor`.
        eps2: As in `adafactor`.
        factored: As in `adafactor`.
        min_dim_size_to_factor: As in `adafactor`.
        factored_dims: As in `adafactor`.
        momentum_of: As in `adafactor`.
        normalized: Whether the schedule's cycle sets the scale of the decay: with it, `schedule`
            must have `cycle_steps`; static.
        mask: As in `adafactor`.
        schedule: A multiplier :math:`\eta` of step and decay, a function of the step. Required,
            because `normalized` needs its cycle; None without `normalized` is 1.

    Returns:
        An optimizer whose updates are to be added to the parameters; its `update` needs `params`.

    Raises:
        TypeError: If an argument is of the wrong kind, or `normalized` comes without a schedule
            that knows its cycle.
        ValueError: If a concrete number is out of range, or a rate is missing.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax import schedules
        >>> tx = nj.factored_adamw(schedule=schedules.warm_restarts(100, growth=2.0))

    References:
        Shazeer & Stern (2018), doi:10.48550/arXiv.1804.04235; Loshchilov & Hutter (2019),
        Algorithm 2 and Appendix B.1, doi:10.48550/arXiv.1711.05101.
    """
    return adafactor(**locals())  # The names are the same; only the defaults differ.
