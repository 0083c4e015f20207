"""What a run should report of its optimizer, kept beside the optimizer's own state."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import check_transformation
from nested_jax._core.dtypes import cast, in_dtype, root, squared, widened, with_arrays
from nested_jax._core.types import OptState
from nested_jax.transforms._adam import ScaleByAdamState
from nested_jax.transforms._clipping import ClipByBlockRmsState
from nested_jax.transforms._nesterov import ScaleByNesterovMomentumState
from nested_jax.transforms._rate import ScaleByLearningRateState
from nested_jax.transforms._relative_step import ScaleByRelativeStepState
from nested_jax.transforms._states import find, find_one
from nested_jax.transforms._weight_decay import AddDecoupledWeightDecayState

RATE_STATES = (ScaleByLearningRateState, ScaleByRelativeStepState, ScaleByNesterovMomentumState)
INJECTED_STATES = (optax.InjectStatefulHyperparamsState, optax.InjectHyperparamsState)


class Metrics(NamedTuple):
    r"""What the last update showed: float32 scalars, NaN where there is nothing to tell.

    Attributes:
        gradient_norm: Euclidean norm of all that came in.
        update_rms: Largest root mean square of a leaf before `clip_by_block_rms`.
        clip_factor: Smallest factor a leaf was multiplied by in `clip_by_block_rms`.
        step_rms: Root mean square, over all entries, of what left: the effective step.
        signal_to_noise: Mean over all entries of :math:`|\hat m| / \sqrt{\hat v}` in
            `scale_by_adam`, 0 where both are 0; also of the unmaximised v with `amsgrad`.
        rate: The rate in force, schedule included.
        decay: The fraction of the parameters that `add_decoupled_weight_decay` took off.
    """

    gradient_norm: jax.Array
    update_rms: jax.Array
    clip_factor: jax.Array
    step_rms: jax.Array
    signal_to_noise: jax.Array
    rate: jax.Array
    decay: jax.Array


class WithMetricsState(NamedTuple):
    """State of `with_metrics`.

    Attributes:
        inner: State of the optimizer that is measured.
        metrics: What its last update showed; all NaN before the first.
    """

    inner: OptState
    metrics: Metrics


def with_metrics(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Measure an optimizer: its updates are unchanged, its state also holds `Metrics`.

    With g the gradients that come in and u the updates that leave, n entries in all,

    .. math::

        \mathrm{gradient\_norm} = \sqrt{\textstyle\sum |g|^2}, \quad
        \mathrm{step\_rms} = \sqrt{\textstyle\sum |u|^2 / n} .

    The other numbers are read from the new state of `tx`, wherever in it the transforms of this
    library are: in chains, `optax.masked`, `optax.partition`, `optax.MultiSteps` and so on. Where
    several transforms tell one number, the extreme one counts: the largest `update_rms`, `rate`
    and `decay`, the smallest `clip_factor`; `signal_to_noise` is a mean over the entries of all.
    Without any transform here that has a rate, `rate` is the hyperparameter `learning_rate` of
    `optax.inject_hyperparams`, if there is one. A transform that was not run (by
    `optax.MultiSteps` inside, between its steps) tells what it last did.

    Args:
        tx: The optimizer, whole: what it is wrapped in again measures nothing of its own.

    Returns:
        A transformation of what `tx` transforms, which needs `params` and takes extra arguments
        if `tx` does. Its state is that of `tx` and seven scalars, of fixed structure: it can be
        carried by `lax.scan` and recorded by `rollout`, with `metrics_of`. Squares are summed in
        float32 or wider, so that the norm of float32 gradients beyond 1.8e19 reads as inf. The
        NaN of what there is nothing to tell trips `jax_debug_nans`: look for another NaN with the
        optimizer unwrapped.

    Raises:
        TypeError: If `tx` has no `init` and `update`.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.with_metrics(nj.momentum(0.5))
        >>> update, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
        >>> metrics = nj.metrics_of(state)
        >>> float(metrics.gradient_norm), float(metrics.rate), float(metrics.decay)
        (5.0, 0.5, nan)

    References:
        The root mean square as a gauge of stale second moments: Shazeer & Stern (2018), section
        5, doi:10.48550/arXiv.1804.04235. The signal-to-noise ratio: Kingma & Ba (2015), section
        2.1, doi:10.48550/arXiv.1412.6980, where it has its sign; here its size is averaged.
    """
    check_transformation("tx", tx)
    tx = optax.with_extra_args_support(tx)

    def init_fn(params):
        # Each NaN is a buffer of its own: one that appears twice cannot be donated.
        nothing = (jnp.full((), jnp.nan, jnp.float32) for _ in Metrics._fields)
        return WithMetricsState(inner=tx.init(params), metrics=Metrics(*nothing))

    def update_fn(updates, state, params=None, **extra_args):
        updates = with_arrays(updates)
        steps, inner = tx.update(updates, state.inner, params, **extra_args)
        return steps, WithMetricsState(inner=inner, metrics=_measure(updates, steps, inner))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def metrics_of(state: OptState) -> Metrics:
    """Return the metrics in the state of an optimizer that `with_metrics` measures.

    Args:
        state: The state, also inside that of `optax.chain`, `masked`, `MultiSteps` and the like.

    Returns:
        The metrics of the last update; with the leading axes of a state that was vmapped.

    Raises:
        ValueError: If `state` does not hold exactly one `Metrics`.

    Example:
        >>> import jax, nested_jax as nj
        >>> trace = nj.rollout(
        ...     nj.with_metrics(nj.momentum(1e-2)),
        ...     nj.drifting_regression(dim=3),
        ...     jax.random.key(0),
        ...     steps=100,
        ...     stride=10,
        ...     record=lambda params, opt_state: nj.metrics_of(opt_state),
        ... )
        >>> trace.records.step_rms.shape
        (10,)
    """
    return find_one(state, Metrics)


def _measure(updates, steps, inner) -> Metrics:
    clips, decays = find(inner, ClipByBlockRmsState), find(inner, AddDecoupledWeightDecayState)
    rates = [link.rate for link in find(inner, RATE_STATES)]
    if not rates:
        injected = [link.hyperparams for link in find(inner, INJECTED_STATES)]
        rates = [h["learning_rate"] for h in injected if "learning_rate" in h]
    numbers = {
        "gradient_norm": root(_total(_squares, updates)),
        "update_rms": _extreme(jnp.maximum, [clip.rms for clip in clips]),
        "clip_factor": _extreme(jnp.minimum, [clip.factor for clip in clips]),
        "step_rms": root(_total(_squares, steps) / _entries(steps)),
        "signal_to_noise": _signal_to_noise(find(inner, ScaleByAdamState)),
        "rate": _extreme(jnp.maximum, rates),
        "decay": _extreme(jnp.maximum, [link.decay for link in decays]),
    }
    return Metrics(**{name: jnp.asarray(x, jnp.float32) for name, x in numbers.items()})


def _extreme(choose, values):
    return functools.reduce(choose, values) if values else jnp.nan


def _total(measure, *trees):
    """Return the sum over all entries of what `measure` makes of the leaves."""
    return sum(
        (jnp.sum(x) for x in jax.tree.leaves(jax.tree.map(measure, *trees))),
        start=jnp.zeros((), jnp.float32),
    )


def _squares(x):
    return squared(cast(x, widened(x.dtype)))


def _entries(tree):
    # Nothing has no mean: 0 / NaN is NaN, and no division by 0.
    return sum(x.size for x in jax.tree.leaves(tree)) or jnp.nan


def _signal_to_noise(links):
    def ratio(gains, m, v):
        mu_gain, nu_gain = gains(v.dtype)
        m, v = m / mu_gain, v / nu_gain
        # Not `v > 0`, which would hide a NaN.
        nothing = v == 0
        return jnp.where(nothing, 0, jnp.abs(m) / jnp.sqrt(jnp.where(nothing, 1, v)))

    totals = [
        _total(functools.partial(ratio, in_dtype(link.mu_gain, link.nu_gain)), link.mu, link.nu)
        for link in links
    ]
    return sum(totals) / _entries([link.mu for link in links]) if links else jnp.nan
