"""Metrics of an optimizer, kept next to its state."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import check_transformation
from nested_jax._core.dtypes import cast, in_dtype, root, squared, widened, with_arrays
from nested_jax._core.states import find, find_one
from nested_jax._core.types import OptState
from nested_jax.transforms._adam import ScaleByAdamState
from nested_jax.transforms._clipping import ClipByBlockRmsState
from nested_jax.transforms._delta_gradient_descent import DeltaGradientDescentState
from nested_jax.transforms._nesterov import ScaleByNesterovMomentumState
from nested_jax.transforms._rate import ScaleByLearningRateState
from nested_jax.transforms._relative_step import ScaleByRelativeStepState
from nested_jax.transforms._weight_decay import AddDecoupledWeightDecayState

RATE_STATES = (
    DeltaGradientDescentState,
    ScaleByLearningRateState,
    ScaleByNesterovMomentumState,
    ScaleByRelativeStepState,
)
INJECTED_STATES = (optax.InjectStatefulHyperparamsState, optax.InjectHyperparamsState)


class Metrics(NamedTuple):
    r"""Metrics of the last update: float32 scalars, NaN where a metric does not apply.

    Attributes:
        gradient_norm: Euclidean norm of all incoming gradients.
        update_rms: Largest root mean square of a leaf before `clip_by_block_rms`.
        clip_factor: Smallest factor that `clip_by_block_rms` applied to a leaf.
        step_rms: Root mean square of all entries of the returned updates: the effective step.
        signal_to_noise: Mean over all entries of :math:`|\hat m| / \sqrt{\hat v}` in
            `scale_by_adam`, 0 where both are 0; with `amsgrad` it also uses v, not its maximum.
        rate: The current learning rate, schedule included.
        decay: The fraction of the parameters that `add_decoupled_weight_decay` subtracted.
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
        inner: State of the measured optimizer.
        metrics: Metrics of its last update; all NaN before the first.
    """

    inner: OptState
    metrics: Metrics


def with_metrics(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Measure an optimizer: keep its updates and add `Metrics` to its state.

    With g the incoming gradients and u the returned updates, n entries in all,

    .. math::

        \mathrm{gradient\_norm} = \sqrt{\textstyle\sum |g|^2}, \quad
        \mathrm{step\_rms} = \sqrt{\textstyle\sum |u|^2 / n} .

    The other metrics are read from the new state of `tx`. The transforms of this library are found
    at any depth: in chains, `optax.masked`, `optax.partition`, `optax.MultiSteps` and so on. If
    several transforms have a metric, the extreme is reported: the largest `update_rms`, `rate` and
    `decay`, the smallest `clip_factor`. `signal_to_noise` is a mean over all their entries. If no
    transform of this library has a learning rate, `rate` is the `learning_rate` of
    `optax.inject_hyperparams`, if any. A transform that did not run (inside `optax.MultiSteps`,
    between its steps) keeps its last values.

    Args:
        tx: The whole optimizer. Wrappers around the result are not measured.

    Returns:
        A transformation of the same trees as `tx`. It needs `params` and takes extra arguments if
        `tx` does. Its state is that of `tx` plus seven scalars, with a fixed structure, so
        `lax.scan` can carry it and `rollout` can record it with `metrics_of`. Squares are summed in
        float32 or wider; the norm of float32 gradients beyond 1.8e19 is inf. The NaN of metrics
        that do not apply triggers `jax_debug_nans`: to find another NaN, unwrap the optimizer.

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
        The root mean square as a sign of a stale second moment: Shazeer & Stern (2018), section
        5, doi:10.48550/arXiv.1804.04235. The signal-to-noise ratio: Kingma & Ba (2015), section
        2.1, doi:10.48550/arXiv.1412.6980. Departure: there it is signed; here its magnitude is
        averaged.
    """
    check_transformation("tx", tx)
    tx = optax.with_extra_args_support(tx)

    def init_fn(params):
        # Allocate each NaN separately: a buffer that appears twice cannot be donated.
        nothing = (jnp.full((), jnp.nan, jnp.float32) for _ in Metrics._fields)
        return WithMetricsState(inner=tx.init(params), metrics=Metrics(*nothing))

    def update_fn(updates, state, params=None, **extra_args):
        if not isinstance(state, WithMetricsState):
            rule = "`state` must be the WithMetricsState that `init` returned"
            raise TypeError(f"{rule}, got a {type(state).__name__}.")
        updates = with_arrays(updates)
        steps, inner = tx.update(updates, state.inner, params, **extra_args)
        return steps, WithMetricsState(inner=inner, metrics=_measure(updates, steps, inner))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def metrics_of(state: OptState) -> Metrics:
    """Return the metrics from the state of a `with_metrics` optimizer.

    Args:
        state: The state; it may be nested in that of `optax.chain`, `masked`, `MultiSteps` etc.

    Returns:
        The metrics of the last update, with the leading axes of a vmapped state. In the `opt_state`
        of `flax.nnx.Optimizer` they are variables: unwrap them with `nnx.as_pure`.

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
    """Return the sum of all entries of `measure` applied to the leaves."""
    return sum(
        (jnp.sum(x) for x in jax.tree.leaves(jax.tree.map(measure, *trees))),
        start=jnp.zeros((), jnp.float32),
    )


def _squares(x):
    return squared(cast(x, widened(x.dtype)))


def _entries(tree):
    # An empty tree has no mean: 0 / NaN is NaN without a division by 0.
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
