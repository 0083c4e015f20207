"""Regression with drifting true weights: the problem of the published level sweep."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nested_jax._core.cascade import cascade, check_levels, stage_decays
from nested_jax._core.checks import check_length, check_non_negative, or_nan
from nested_jax._core.dtypes import complement, floating_dtype, widened
from nested_jax._core.types import ScalarLike
from nested_jax.problems._problem import Problem

MODEL_INIT_STD = 2.0  # From the published experiment; large, so that learning is visible.


class DriftingRegressionDraws(NamedTuple):
    """The random draws of one step: independent standard normals.

    Attributes:
        drift: The input to the innermost level of the true weights.
        inputs: The regressors x.
        noise: The noise of the target before scaling.
    """

    drift: Float[Array, " dim"]
    inputs: Float[Array, " dim"]
    noise: Float[Array, " "]


class DriftingRegressionWorld(NamedTuple):
    """The moving state of the problem.

    Attributes:
        weights: The levels of the true weights, outermost first; the outermost makes the target.
    """

    weights: tuple[Float[Array, " dim"], ...]


class RegressionBatch(NamedTuple):
    """One example.

    Attributes:
        features: (x, 1); the last entry belongs to the bias.
        target: y.
    """

    features: Float[Array, " features"]
    target: Float[Array, " "]


def drifting_regression(
    dim: int = 10,
    *,
    data_levels: ScalarLike = 1,
    decay: ScalarLike = 0.95,
    noise_std: ScalarLike = 0.1,
    max_levels: int | None = None,
    dtype: Any = None,
) -> Problem:
    r"""Build a linear regression, one example a step, with true weights drifting at d levels.

    The levels :math:`W_1, \dots, W_d \in \mathbf R^D` start standard normal. Each step draws
    :math:`\delta, x \sim N(0, I_D)` and :math:`\epsilon \sim N(0, \sigma^2)`, and

    .. math::

        W_d &\leftarrow a W_d + (1 - a) \delta, \qquad
        W_i \leftarrow a W_i + (1 - a) W_{i+1} \;\; (i = d - 1, \dots, 1), \\
        y &= x \cdot W_1 + \epsilon .

    The model is :math:`\hat y = w \cdot (x, 1)` with loss :math:`(\hat y - y)^2`. Its weights,
    of which the last is the bias, start as :math:`N(0, 2^2)`.

    Args:
        dim: D >= 1, static.
        data_levels: d >= 1, an integer; may be traced if `max_levels` is given.
        decay: :math:`a \in [0, 1)`; may be traced.
        noise_std: :math:`\sigma \ge 0`, a standard deviation; may be traced.
        max_levels: The number of levels the state has room for, static; `data_levels` if not given.
        dtype: The dtype of draws, batches and parameters; JAX's default float if not given. 64-bit
            types become 32-bit if JAX does not allow them. The true weights are float32 or wider.

    Returns:
        A problem whose parameters have shape (dim + 1,), with `DriftingRegressionDraws` (all
        standard normal; `observe` scales them), `DriftingRegressionWorld` and
        `RegressionBatch`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import jax, nested_jax as nj
        >>> problem = nj.drifting_regression(dim=3, data_levels=2)
        >>> params, world = problem.init(jax.random.key(0))
        >>> batch, world = problem.observe(problem.draw(jax.random.key(1)), world)
        >>> params.shape, batch.features.shape, problem.loss(params, batch).shape
        ((4,), (4,), ())
    """
    check_length("dim", dim)
    dim = int(dim)
    noise_std = check_non_negative("noise_std", noise_std)
    max_levels, valid, decay = check_levels(
        "data_levels", data_levels, decay, "max_levels", max_levels
    )
    decays = or_nan(valid, stage_decays(data_levels, decay, max_levels))
    keeps = [decays[i] for i in range(max_levels)]
    takes = [complement(keep) for keep in keeps]
    dtype = floating_dtype(dtype)

    def init(key):
        # One call, not two: starting and compiling the generator dominates the cost.
        z = jax.random.normal(key, (dim + 1 + max_levels * dim,), dtype)
        weights = z[dim + 1 :].reshape(max_levels, dim).astype(widened(dtype))
        world = DriftingRegressionWorld(weights=tuple(weights))
        return MODEL_INIT_STD * z[: dim + 1], world

    def draw(key):
        # One call, not three: on CPU, starting the generator dominates the cost of a draw.
        z = jax.random.normal(key, (2 * dim + 1,), dtype)
        return DriftingRegressionDraws(drift=z[:dim], inputs=z[dim:-1], noise=z[-1])

    def observe(draws, world):
        weights = cascade(keeps, takes, world.weights, draws.drift)
        noise = jnp.asarray(noise_std, dtype) * draws.noise
        batch = RegressionBatch(
            features=jnp.append(draws.inputs, jnp.ones((), dtype)),
            target=(jnp.sum(draws.inputs * weights[0]) + noise).astype(dtype),
        )
        return batch, DriftingRegressionWorld(weights=weights)

    def loss(params, batch):
        # A sum of products, which XLA fuses; a vmapped dot becomes a separate call.
        return jnp.square(jnp.sum(params * batch.features) - batch.target)

    return Problem(init=init, draw=draw, observe=observe, loss=loss)
