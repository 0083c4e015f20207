"""Curvature of a loss: Hessian-vector products, eigenvalues, condition, Jacobian singular values.

Everything is a pure function of the parameters and works under `jax.jit` and `jax.vmap`. It can
therefore run along a training run as the `record` of `rollout`, or afterwards, vmapped over
recorded parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from nested_jax._core.checks import check_callable, check_key, check_reals, check_static_count
from nested_jax._core.extras import needs
from nested_jax._core.types import Params

ITERATIONS = 64
"""Default number of matrix products: exact up to this size, and enough for most spectra's ends."""
MOST_ENTRIES = 2**31
"""Most entries of a matrix that is formed: 8 GiB in float32."""


class Curvature(NamedTuple):
    """Extremes of a Hessian's spectrum.

    Attributes:
        largest: The largest eigenvalue, or sharpness. Gradient descent on a quadratic is stable for
            learning rates below 2 / largest.
        smallest: The smallest eigenvalue, negative if the loss is not convex.
        condition: The largest over the smallest modulus of an eigenvalue; infinite if the Hessian
            is singular up to rounding.
    """

    largest: Float[Array, ""]
    smallest: Float[Array, ""]
    condition: Float[Array, ""]


def hessian_vector_product(loss: Callable[[Params], Any], params: Params, vector: Params) -> Params:
    r"""Return the Hessian of a loss times a vector, without forming the Hessian.

    .. math:: \nabla^2 R(\theta) \, v = \partial_t \nabla R(\theta + t v) \big|_{t = 0} ,

    computed by forward-over-reverse differentiation. It costs about four evaluations of the loss,
    whatever the size of `params`.

    Args:
        loss: A twice differentiable function from the parameters to a scalar.
        params: :math:`\theta`, a tree of float arrays.
        vector: :math:`v`, with the structure, shapes and dtypes of `params`.

    Returns:
        A tree like `params`.

    Raises:
        TypeError: If `loss` is not callable, `params` is not floating, or `vector` does not have
            its dtypes.
        ValueError: If `vector` does not have the structure and shapes of `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nested_jax import theory
        >>> loss = lambda p: jnp.sum(p**3)  # its Hessian is diag(6 p)
        >>> theory.hessian_vector_product(loss, jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0]))
        Array([  6., -12.], dtype=float32)

    References:
        Pearlmutter (1994), Fast exact multiplication by the Hessian,
        doi:10.1162/neco.1994.6.1.147.
    """
    check_callable("loss", loss)
    _check_params("params", params)
    _check_params("vector", vector)
    if jax.tree.map(jnp.shape, vector) != jax.tree.map(jnp.shape, params):
        rule = "`vector` must have the structure and shapes of `params`"
        raise ValueError(f"{rule}, got {vector!r} for {params!r}.")
    dtypes, wanted = (jax.tree.map(jnp.result_type, tree) for tree in (vector, params))
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in jax.tree.leaves(wanted)):
        raise TypeError(f"`params` must be floating, got {wanted}.")
    if dtypes != wanted:
        raise TypeError(f"`vector` must have the dtypes of `params`, got {dtypes} for {wanted}.")
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def hessian_eigenvalues(
    loss: Callable[[Params], Any],
    params: Params,
    count: int = 1,
    *,
    iterations: int = ITERATIONS,
    key: jax.Array | None = None,
) -> Float[Array, " count"]:
    r"""Return the largest eigenvalues of a Hessian, the largest first.

    With at most `iterations` parameters, the Hessian is formed and its eigenvalues are exact. With
    more, the result is the Ritz values of `iterations` steps of the Lanczos method with full
    reorthogonalisation. Ritz values approach the ends of the spectrum first and from within, and
    contain fewer copies of a multiple eigenvalue.

    Args:
        loss: A twice differentiable function from the parameters to a scalar.
        params: A tree of float arrays.
        count: Number of eigenvalues; static, at most `iterations` and the number of parameters. If
            it is the number of parameters, the result is the whole spectrum.
        iterations: Maximum number of Hessian-vector products; static.
        key: Key for the start vector of the Lanczos method; `jax.random.key(0)` by default.

    Returns:
        Shape (count,), in JAX's default precision, in which `loss` is evaluated too. NaN if the
        Hessian is not finite.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `params` is empty, or `count` or `iterations` is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from nested_jax import theory
        >>> loss = lambda p: p["a"] ** 2 + 3 * p["a"] * p["b"] + p["b"] ** 2
        >>> theory.hessian_eigenvalues(loss, {"a": 1.0, "b": 2.0}, count=2)
        Array([ 5., -1.], dtype=float32)

    References:
        Lanczos (1950), doi:10.6028/jres.045.026, as implemented in the package matfree.
    """
    function, vector = flattened("loss", loss, params)
    check_sizes(vector.size, count, iterations)
    return spectrum(function, vector, iterations, key)[::-1][:count]


def curvature(
    loss: Callable[[Params], Any],
    params: Params,
    *,
    iterations: int = ITERATIONS,
    key: jax.Array | None = None,
) -> Curvature:
    r"""Return the ends of a Hessian's spectrum and its condition number.

    With at most `iterations` parameters, all three are exact. With more, `largest` and `smallest`
    lie within the spectrum (see `hessian_eigenvalues`). For a definite Hessian, `condition` is then
    a lower bound; for an indefinite one, it is only a guess.

    Args:
        loss: A twice differentiable function from the parameters to a scalar.
        params: A tree of float arrays.
        iterations: Maximum number of Hessian-vector products; static.
        key: Key for the start vector of the Lanczos method; `jax.random.key(0)` by default.

    Returns:
        A `Curvature` of scalars in JAX's default precision; NaN if the Hessian is not finite.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `params` is empty or `iterations` is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, nested_jax as nj
        >>> from nested_jax import theory
        >>> problem = nj.quadratic([1.0, 100.0])
        >>> along = lambda params, opt_state: theory.curvature(
        ...     lambda p: problem.loss(p, None), params
        ... )
        >>> tx = nj.momentum(0.01)
        >>> trace = nj.rollout(tx, problem, jax.random.key(0), 20, stride=5, record=along)
        >>> trace.records.condition
        Array([100., 100., 100., 100.], dtype=float32)
    """
    function, vector = flattened("loss", loss, params)
    check_sizes(vector.size, 1, iterations)
    found = spectrum(function, vector, iterations, key)
    sizes = jnp.abs(found)
    low, high = jnp.min(sizes), jnp.max(sizes)
    # Eigenvalues below this are rounding errors: the matrix is numerically singular.
    rounding = vector.size * jnp.finfo(vector.dtype).eps * high
    singular = low <= jnp.maximum(rounding, 1e3 * _least(vector.dtype))
    return Curvature(
        largest=found[-1],
        smallest=found[0],
        condition=jnp.where(singular, jnp.inf, high / low),
    )


def condition_number(
    loss: Callable[[Params], Any],
    params: Params,
    *,
    iterations: int = ITERATIONS,
    key: jax.Array | None = None,
) -> Float[Array, ""]:
    r"""Return the condition number :math:`\max |\lambda| / \min |\lambda|` of a Hessian.

    It determines the number of steps that reduce the error by a factor e: about :math:`\kappa` for
    gradient descent and :math:`\sqrt\kappa` with momentum.

    Args:
        loss: A twice differentiable function from the parameters to a scalar.
        params: A tree of float arrays.
        iterations: Maximum number of Hessian-vector products; static. The result is exact up to
            this many parameters; see `curvature`.
        key: Key for the start vector of the Lanczos method; `jax.random.key(0)` by default.

    Returns:
        A scalar in JAX's default precision; infinite if the Hessian is singular up to rounding, NaN
        if it is not finite.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `params` is empty or `iterations` is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from nested_jax import theory
        >>> theory.condition_number(lambda p: p[0] ** 2 - 4 * p[1] ** 2, jnp.ones(2))
        Array(4., dtype=float32)
    """
    return curvature(loss, params, iterations=iterations, key=key).condition


def jacobian_singular_values(
    function: Callable[[Params], Any],
    params: Params,
    count: int = 1,
    *,
    iterations: int = ITERATIONS,
    key: jax.Array | None = None,
) -> Float[Array, " count"]:
    r"""Return the largest singular values of a Jacobian, the largest first.

    If `function` maps parameters to a model's outputs at all inputs, the squares of the singular
    values are the eigenvalues of the Gauss-Newton matrix of a squared loss: they show how fast each
    direction can be learned. With at most `iterations` rows or columns, the Jacobian is formed.
    Otherwise, the ends of its spectrum are found by Golub-Kahan bidiagonalisation.

    Args:
        function: A differentiable function from the parameters to a tree of float arrays.
        params: A tree of float arrays.
        count: Number of singular values; static, at most `iterations`, the number of parameters
            and the number of outputs.
        iterations: Maximum number of products with the Jacobian, and with its transpose; static.
        key: Key for the start vector of the method; `jax.random.key(0)` by default.

    Returns:
        Shape (count,), in JAX's default precision. NaN if the Jacobian is not finite.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `params` is empty, or `count` or `iterations` is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from nested_jax import theory
        >>> x = jnp.array([[3.0, 0.0], [0.0, 1.0], [4.0, 0.0]])
        >>> theory.jacobian_singular_values(lambda w: x @ w, jnp.zeros(2), count=2)
        Array([5., 1.], dtype=float32)

    References:
        Golub & Kahan (1965), doi:10.1137/0702016, as implemented in the package matfree.
    """
    function, vector = flattened("function", function, params)
    rows = jax.eval_shape(function, vector).size
    size = min(rows, vector.size)
    check_sizes(size, count, iterations)
    if size <= iterations:
        wide = rows < vector.size
        jacobian = (jax.jacrev if wide else jax.jacfwd)(function)(vector)
        return jnp.linalg.svd(jacobian, compute_uv=False)[:count]

    linear = jax.linearize(function, vector)[1]

    def product(v):
        image = linear(v)
        return image + _nudge(image, jnp.resize(v, image.shape))

    with needs("nested_jax.theory.jacobian_singular_values", "theory"):
        from matfree import decomp
    found = decomp.bidiag(iterations)(product, _start(key, vector))
    return jnp.linalg.svd(jnp.asarray(found.J_small), compute_uv=False)[:count]


def spectrum(function, vector, iterations, key):
    """Return all eigenvalues, or `iterations` Ritz values, the smallest first."""
    if vector.size <= iterations:
        return jnp.linalg.eigvalsh(jax.hessian(function)(vector))
    linear = jax.linearize(jax.grad(function), vector)[1]

    def product(v):
        image = linear(v)
        return image + _nudge(image, v)

    with needs("nested_jax.theory.curvature", "theory"):
        from matfree import decomp
    lanczos = decomp.tridiag_sym(iterations, custom_vjp=False)
    return jnp.linalg.eigvalsh(lanczos(product, _start(key, vector)).J_small)


def _nudge(image, v):
    """Return the rolled `v`, scaled to the level of rounding; its derivative is linear in `v`.

    Once the range of a low-rank matrix is exhausted, its image has no component outside the
    directions found so far, and matfree divides by that 0. The nudge keeps such a component, a new
    direction to continue in. The weights differ because a roll alone is undone by its transpose.
    """
    size = jnp.finfo(image.dtype).eps * jnp.linalg.norm(image) + _least(image.dtype)
    weights = jnp.linspace(1, 2, image.size, dtype=image.dtype)
    return jax.lax.stop_gradient(size) * weights * jnp.roll(v, 1)


def _least(dtype):
    """Return a size far below any curvature whose square does not underflow."""
    return float(jnp.finfo(dtype).tiny) ** 0.4


def _start(key, vector):
    if key is not None:
        check_key("key", key)
    key = jax.random.key(0) if key is None else key
    return jax.random.normal(key, vector.shape, vector.dtype)


def flattened(name, function, params):
    """Return `function` as a map from vector to vector or scalar, and `params` as a vector.

    Both use JAX's default precision: matfree does not mix dtypes, and a bfloat16 Hessian has no
    accurate digits.
    """
    check_callable(name, function)
    _check_params("params", params)
    wide = jax.tree.map(lambda p: jnp.asarray(p, float), params)
    vector, unravel = ravel_pytree(wide)
    if not vector.size:
        raise ValueError("`params` must hold at least one number, got none.")

    shape = jax.eval_shape(function, wide)
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(shape)):
        raise TypeError(f"`{name}` must return floating numbers, got {shape}.")
    if name == "loss":
        if getattr(shape, "shape", None) != ():
            raise ValueError(f"`loss` must return a scalar, got {shape}.")
        return lambda v: jnp.asarray(function(unravel(v)), vector.dtype), vector
    return lambda v: ravel_pytree(function(unravel(v)))[0].astype(vector.dtype), vector


def _check_params(name, params):
    for path, leaf in jax.tree.leaves_with_path(params):
        check_reals(f"{name}{jax.tree_util.keystr(path)}", leaf)


def check_sizes(size, count, iterations):
    check_static_count("iterations", iterations, 1)
    if MOST_ENTRIES < size**2 <= int(iterations) ** 2:
        rule = f"`iterations` must be less than the {size} parameters of so large a matrix"
        need = f"would need {4 * size**2 / 2**30:.3g} GiB"
        raise ValueError(f"{rule}, got {iterations}: the whole matrix {need}.")
    check_static_count("count", count, 1)
    most = min(size, int(iterations))
    if int(count) > most:
        raise ValueError(f"`count` must be at most {most} here, got {count}.")
