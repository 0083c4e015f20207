"""A cascade of averages whose stages change only every so many steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nested_jax._core.cascade import average, handed_on
from nested_jax._core.checks import (
    as_scalars,
    check_count,
    check_int_fits,
    is_traced,
    on_host,
    or_nan,
)
from nested_jax._core.dtypes import zeros_widened
from nested_jax._core.types import Params, ScalarLike, Updates


class Periods(NamedTuple):
    """What stages with periods remember beside their averages; each has one entry per stage.

    Attributes:
        phases: How many inputs came since the stage changed last, int32.
        means: The mean of those inputs, shaped like the parameters. With `debias`, inputs are
            weighted by their gains.
        weights: With `debias`, the mean of their gains, in units of the gain that the stage inside
            has now; else empty.
    """

    phases: tuple[jax.Array, ...]
    means: tuple[Updates, ...]
    weights: tuple[jax.Array, ...]


def check_periods(periods: Any, decays: Sequence[ScalarLike]) -> tuple[list, list]:
    """Check periods; return those to use, and the decays.

    A stage of decay 0 passes its input on whatever its period, which is therefore taken to be 1.
    If a traced number is out of range, all periods are 1 and all decays NaN, so that the first
    output shows it.
    """
    scalars = as_scalars("periods", periods)
    if len(scalars) != len(decays):
        rule = "`periods` must have one entry for each of `decays`"
        raise ValueError(f"{rule}, got {len(scalars)} for {len(decays)}.")
    valid: Any = True
    for i, period in enumerate(scalars):
        valid &= check_count(f"periods[{i}]", period, 1)
        check_int_fits(f"periods[{i}]", period)
    for decay in filter(is_traced, decays):
        valid &= decay == decay  # NaN where it is out of range.

    def kept(period, decay):
        if valid is True:
            return 1 if on_host(decay) == 0 else period
        return jnp.where(valid & (decay != 0), period, 1)

    pairs = zip(scalars, decays, strict=True)
    return [kept(*pair) for pair in pairs], [or_nan(valid, decay) for decay in decays]


def rested(params: Params, stages: int, debias: bool) -> Periods:
    """Return the memory of stages that have seen nothing."""
    means = tuple(zeros_widened(params) for _ in range(stages))
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(means))
    return Periods(
        phases=tuple(jnp.zeros((), jnp.int32) for _ in range(stages)),
        means=means,
        weights=tuple(jnp.zeros((), dtype) for _ in range(stages)) if debias else (),
    )


def periodic_cascade(
    decays: Sequence[ScalarLike],
    takes: Sequence[ScalarLike],
    periods: Sequence[ScalarLike],
    momenta: Sequence[Updates],
    gains: Sequence[jax.Array],
    memory: Periods,
    inflow: Updates,
) -> tuple[tuple[Updates, ...], tuple[jax.Array, ...], Periods]:
    """Advance every stage by one step, innermost (last) first, and its gain if it has one.

    In every step a stage takes the new value of the stage inside into its mean. In every period-th
    step it changes by that mean, and the mean starts anew.
    """
    stages, phases, means = [], [], []
    ledger = _Ledger(gains, memory.weights)
    for i in reversed(range(len(momenta))):
        starts, count = memory.phases[i] == 0, memory.phases[i] + 1
        fires = count == periods[i]
        if gains:
            keep, take, share = ledger.advance(i, decays[i], takes[i], count, fires)
        else:
            keep, take, share = decays[i], takes[i], 1 / count.astype(float)
        # The first input is the mean itself, with no rounding.
        mean = average(1 - share, share, memory.means[i], inflow)
        mean = handed_on(jnp.where(starts, 0.0, 1.0), mean, inflow)
        changed = handed_on(keep, average(keep, take, momenta[i], mean), mean)
        inflow = jax.tree.map(lambda x, m, f=fires: jnp.where(f, x, m), changed, momenta[i])
        stages.append(inflow)
        phases.append(jnp.where(fires, 0, count))
        means.append(mean)
    memory = Periods(tuple(phases[::-1]), tuple(means[::-1]), tuple(ledger.weights))
    return tuple(stages[::-1]), tuple(ledger.gains), memory


class _Ledger:
    r"""The gains of all stages: their responses c to the constant 1, as ratios.

    With c' the gains after this step, the stages hold :math:`M_i / c_i`, and of each stage

    .. math:: r_i = c_i / c_{i+1}, \quad q_i = \operatorname{mean} c_{i+1} / c_{i+1}'

    over its inputs since it changed last. Where it changes,
    :math:`r_i' = a r_i\, c_{i+1} / c_{i+1}' + (1 - a)\, q_i`. A gain is 0 until the stage first
    changes after the one inside did.
    """

    def __init__(self, gains: Sequence[jax.Array], weights: Sequence[jax.Array]):
        self.gains, self.weights = list(gains), list(weights)
        # Of the stage inside: c / c', and whether c' is above 0. Both are 1 for the input.
        self.shrink: Any = 1.0
        self.lives: Any = True

    def advance(self, i, decay, take, count, fires):
        """Advance stage i; return the weights of its value, of its mean, and of the new input.

        The input is the count-th since the last change.
        """
        gain, dtype = self.gains[i], self.gains[i].dtype
        a, b = jnp.asarray(decay, dtype), jnp.asarray(take, dtype)
        inputs = count.astype(dtype)
        weight = (self.weights[i] * self.shrink * (inputs - 1) + self.lives) / inputs
        share = self.lives / jnp.where(weight > 0, inputs * weight, 1)
        b = b * weight
        fresh = a * gain * self.shrink + b
        divisor = jnp.where(fresh > 0, fresh, 1)
        keep, take = a * gain * self.shrink / divisor, b / divisor
        self.gains[i] = jnp.where(fires, fresh, gain * self.shrink)
        self.weights[i] = weight
        # A gain that was 0 and is 0 has not shrunk.
        lived = jnp.where(fresh > 0, gain / divisor * self.shrink, 1)
        self.shrink = jnp.where(fires, lived, 1)
        self.lives = self.gains[i] > 0
        return keep, take, share
