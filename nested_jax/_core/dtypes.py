"""Precision rules: state is float32 or wider; updates keep the dtype they came in."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nested_jax._core.checks import is_traced
from nested_jax._core.types import ScalarLike


def complement(decay: ScalarLike) -> ScalarLike:
    """Return 1 - decay, computed in float64 on the host if `decay` is concrete.

    In float32, 1 - 0.9999 has a relative error of 1.7e-4.
    """
    return 1 - decay if is_traced(decay) else 1 - np.float64(decay)


def widened(dtype: Any, where: str = "") -> Any:
    """Return `dtype`, or float32 if that is wider: bfloat16 rounds a decay of 0.999 to 1."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)  # Without x64, float64 is float32.
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"Arrays must be of a floating dtype, got {dtype}{where}.")
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def widened_real(dtype: Any) -> Any:
    """Return the real dtype for magnitudes of `widened(dtype)`, which may be complex."""
    return jnp.finfo(widened(dtype)).dtype


def transformation(
    init_fn: Callable[[Any], Any],
    update_fn: Callable[..., tuple[Any, Any]],
    kind: type = object,
    reads: tuple[str, ...] = (),
) -> optax.GradientTransformationExtraArgs:
    """Return a transform that accepts the same inputs as optax transforms.

    Leaves may be Python numbers. `update` ignores extra arguments other than `reads`, so a chain
    can pass all its links an argument that only one needs.

    Args:
        init_fn: parameters -> state.
        update_fn: (updates, state, parameters or None, **reads) -> (updates, state).
        kind: The class of the state.
        reads: The extra arguments passed to `update_fn`; one that is missing is None.
    """

    def init(params):
        return init_fn(with_arrays(params))

    def update(updates, state, params=None, **extra_args):
        if not isinstance(state, kind):
            rule = f"`state` must be the {kind.__name__} that `init` returned"
            raise TypeError(f"{rule}, got a {type(state).__name__}.")
        read = {name: extra_args.get(name) for name in reads}
        return update_fn(with_arrays(updates), state, with_arrays(params), **read)

    return optax.GradientTransformationExtraArgs(init, update)


def with_arrays(tree: Any) -> Any:
    """Replace Python numbers in `tree` by arrays of JAX's default floating dtype."""
    if not any(map(_is_python_number, jax.tree.leaves(tree))):
        return tree
    return jax.tree.map(lambda x: _as_array(x) if _is_python_number(x) else x, tree)


def _is_python_number(x: Any) -> bool:
    if isinstance(x, int | float | complex):
        return not isinstance(x, bool)
    # Under jit a Python integer is an integer array with a weak type.
    return getattr(x, "weak_type", False) and jnp.issubdtype(x.dtype, jnp.integer)


def _as_array(x: Any) -> jax.Array:
    return jnp.asarray(x, complex if isinstance(x, complex) else float)


def check_arrays(tree: Any) -> None:
    """Raise unless all leaves are arrays with floating dtypes, real or complex."""
    # Most trees have one dtype, so this check is almost free.
    dtypes = {getattr(x, "dtype", None) for x in jax.tree.leaves(tree)}
    if not all(dtype is not None and jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        jax.tree.map_with_path(_check_array, tree)


def check_updates(updates: Any, like: Any) -> None:
    """Raise unless `updates` are floating arrays with the shapes of `like`, real where it is."""
    leaves, treedef = jax.tree.flatten(like)
    found, structure = jax.tree.flatten(updates)
    check_structure(structure, treedef)
    # Paths are the most expensive part, so they are computed only if something differs.
    if not all(map(_is_alike, found, leaves)):
        jax.tree.map_with_path(check_update, like, updates)


def check_structure(found: Any, wanted: Any) -> None:
    """Raise unless the structure `found` of the updates is that of the parameters."""
    if found != wanted:
        rule = "`updates` must have the structure of the parameters"
        raise ValueError(f"{rule}, got {found} for {wanted}.")


def _is_alike(u: Any, x: Any) -> bool:
    return hasattr(u, "dtype") and u.dtype == x.dtype and u.shape == x.shape


def place(path: Any) -> str:
    """Return the part of an error message that locates a leaf in its tree."""
    return f" at {jax.tree_util.keystr(path)}" if path else ""


def _check_array(path: Any, x: Any) -> None:
    if not hasattr(x, "dtype"):
        raise TypeError(f"Leaves must be arrays, got {x!r}{place(path)}.")
    widened(x.dtype, place(path))


def check_update(path: Any, like: Any, u: Any) -> None:
    """Raise unless `u` is a floating array with the shape of `like`, and real if `like` is."""
    if _is_alike(u, like):
        return
    _check_array(path, u)
    if jnp.iscomplexobj(u) != jnp.iscomplexobj(like):
        kind = "complex" if jnp.iscomplexobj(like) else "real"
        raise TypeError(f"Updates must be {kind} like the parameters, got {u.dtype}{place(path)}.")
    if u.shape != like.shape:
        rule = f"Updates must have the shapes of the parameters, here {like.shape}"
        raise ValueError(f"{rule}, got {u.shape}{place(path)}.")


def cast(x: Any, dtype: Any) -> Any:
    """Return `x.astype(dtype)`, almost free in tracing if nothing changes."""
    # A weak type does change: it becomes strong.
    if isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type:
        return x
    widened(x.dtype)  # Raises for integers: an update must not be rounded silently.
    return x.astype(dtype)


def in_dtype(*numbers: Any) -> Callable[[Any], tuple[jax.Array, ...]]:
    """Return a function from a dtype to `numbers` in that dtype, cast once for all leaves."""
    return functools.cache(lambda dtype: tuple(jnp.asarray(x, dtype) for x in numbers))


def zeros_widened(params: Any, widen: Callable[[Any], Any] = widened) -> Any:
    """Return zeros shaped like `params`, in each leaf's dtype or float32 if that is wider."""
    check_arrays(params)
    return jax.tree.map(lambda p: jnp.zeros_like(p, widen(p.dtype)), params)


def narrowed(tree: Any, like: Any) -> Any:
    """Cast each leaf of `tree` to the dtype of the corresponding leaf of `like`."""
    # Transforms widen and narrow by themselves. A wrapper that does both for every link takes 9 %
    # longer to trace in `adafactor` with 768 leaves, and the hyperparameters, which need the dtype
    # of each leaf, would still be cast in the formulas.
    return jax.tree.map(lambda x, y: cast(x, jax.dtypes.canonicalize_dtype(y.dtype)), tree, like)


def incremented(count: jax.Array) -> jax.Array:
    """Return `count` + 1, or `count` if that would overflow."""
    return jnp.asarray(optax.safe_increment(count))


def squared(x: jax.Array) -> jax.Array:
    """Return the squared magnitude of each entry, which is real. Widen x before."""
    # `lax` functions trace in two thirds of the time of `jnp` functions.
    square = jax.lax.square
    return square(x.real) + square(x.imag) if x.dtype.kind == "c" else square(x)


def root(x: jax.Array) -> jax.Array:
    """Return the square root, with derivative 0 at 0 instead of infinity."""
    # Not `x > 0`, which would hide a NaN.
    nothing = x == 0
    return jnp.where(nothing, 0, jnp.sqrt(jnp.where(nothing, 1, x)))


def positive_root(x: jax.Array) -> jax.Array:
    """Return the root of x or of the smallest normal number if larger; cheaper than `root`."""
    return jax.lax.sqrt(jax.lax.max(x, jnp.finfo(x.dtype).tiny))


def root_mean_square(x: jax.Array) -> jax.Array:
    """Return the root of the mean of squares, in float32 or wider; 0 for an array of size 0.

    Its derivative is 0, not NaN, where all of x is 0.
    """
    return root(jnp.sum(squared(cast(x, widened(x.dtype)))) / float(max(x.size, 1)))


def floating_dtype(dtype: Any) -> np.dtype:
    """Return the dtype for an argument `dtype`: JAX's default float if it is None."""
    try:
        found = jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
    except TypeError:  # Its message does not name the argument.
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"`dtype` must be floating, got {found or repr(dtype)}.")
    return found
