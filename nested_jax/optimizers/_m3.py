"""M3 for matrices, Adam for the rest."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.types import Params, ScalarLike, ScalarOrSchedule, Schedule
from nested_jax.transforms import scale_by_adam, scale_by_learning_rate, scale_by_m3


def m3(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ScalarLike = 0.95,
    b2: ScalarLike = 0.999,
    b3: ScalarLike = 0.9,
    slow_weight: ScalarLike = 0.5,
    period: ScalarLike = 32,
    eps: ScalarLike = 1e-8,
    ns_steps: int = 5,
    iteration: str = "quintic",
    reading: str = "ema",
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Build multi-scale momentum Muon for matrices, with Adam for all other leaves.

    A leaf of rank 2 takes :math:`\theta \leftarrow \theta - \eta_t u` with the direction u of
    `scale_by_m3` and :math:`\eta_t` the learning rate times the schedule. Every other leaf takes
    the direction of `scale_by_adam` with the same `b1`, `b2` and `eps`. `optax.contrib.muon`
    divides a tree by the same rule.

    A direction of an m x n matrix has a root mean square of about
    :math:`1 / \sqrt{\max(m, n)}` (:math:`1 + \alpha` times that once both memories agree), and
    that of Adam about 1. For other rules, such as Adam for embeddings, or for two learning rates,
    combine `scale_by_m3` and `scale_by_adam` in `optax.partition`.

    Args:
        learning_rate: At least 0, or a function of the step; may be traced.
        b1: :math:`\beta_1 \in [0, 1)` of the fast memory; may be traced.
        b2: :math:`\beta_2 \in [0, 1)` of the second moment; may be traced.
        b3: :math:`\beta_3 \in [0, 1)` of the slow memory; may be traced.
        slow_weight: The weight of the slow memory's direction, at least 0; may be traced.
        period: An integer of at least 1: how many steps the slow memory waits between its changes;
            may be traced.
        eps: :math:`\varepsilon \ge 0`; may be traced.
        ns_steps: The number of Newton-Schulz steps, at least 1; static.
        iteration: ``"quintic"`` or ``"cubic"``; static.
        reading: ``"ema"``, or ``"accumulate"`` for the printed form; static.
        schedule: A function of the step (from 0) that multiplies the learning rate; 1 if not given.

    Returns:
        An optimizer; add its updates to the parameters.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range, or a word is not one of its choices.

    Example:
        >>> import nested_jax as nj
        >>> tx = nj.m3(0.02, period=100)
    """
    of_matrices = scale_by_m3(
        b1,
        b2=b2,
        b3=b3,
        slow_weight=slow_weight,
        period=period,
        eps=eps,
        ns_steps=ns_steps,
        iteration=iteration,
        reading=reading,
    )
    links: dict[Hashable, Any] = {"m3": of_matrices, "adam": scale_by_adam(b1, b2=b2, eps=eps)}
    return optax.chain(
        optax.partition(links, _labels), scale_by_learning_rate(learning_rate, schedule=schedule)
    )


def _labels(params: Params) -> Any:
    """Return for each leaf who steps it."""
    return jax.tree.map(lambda p: "m3" if jnp.ndim(p) == 2 else "adam", params)
