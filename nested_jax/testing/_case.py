"""The description of a transform under test, and the small trees that checks run on."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nested_jax._core.checks import check_callable, check_choice, check_flag
from nested_jax._core.extras import needs

with needs("nested_jax.testing", "testing"):
    import chex

# Both sides of a comparison are one recurrence in float32 over a few steps, fused differently.
RTOL = 1e-5
# Concrete hyperparameters may be used in float64; traced, 1 - 0.999 is off by 6e-5.
TRACED_RTOL = 1e-3

REACHES = ("entry", "leaf", "tree")
# What a gradient may do to an update: nothing bad, be seen in it as inf or NaN, or either.
OUTCOMES = ("finite", "seen", "any")
EXTREMES = {
    "zero": "finite",
    "tiny": "finite",
    "large": "finite",
    "huge": "finite",
    "inf": "seen",
    "nan": "seen",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A transform under test.

    Attributes:
        name: What messages call it.
        make: Keyword arguments to an `optax.GradientTransformation`; static choices are closed
            over.
        hyperparams: By name, two values of each numeric hyperparameter (numbers, or arrays of
            one shape) that give different updates. Most checks use the first
            values. Give a decay one value as slow as in practice (0.999): it reveals a state
            that freezes in bfloat16.
        needs_params: Whether `update` needs `params`.
        reach: How far one entry of a gradient reaches: to its own "entry" of the update, to its
            "leaf", or through the whole "tree".
        extremes: What differs from `EXTREMES`: by kind of gradient "finite" (the update must
            be), "seen" (it must not be, where the gradient was extreme: an error is not hidden)
            or "any".
    """

    name: str
    make: Callable[..., optax.GradientTransformation]
    hyperparams: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    needs_params: bool = False
    reach: str = "entry"
    extremes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise TypeError(f"`name` must be a string, got {self.name!r}.")
        check_callable("make", self.make)
        check_flag("needs_params", self.needs_params)
        for name, value in (("hyperparams", self.hyperparams), ("extremes", self.extremes)):
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise TypeError(f"`{name}` must be a dict by name, got {value!r}.")
        for name, pair in self.hyperparams.items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                rule = f"`hyperparams[{name!r}]` must be two values, such as (0.9, 0.999)"
                raise TypeError(f"{rule}, got {pair!r}.")
        check_choice("reach", self.reach, REACHES)
        for kind, outcome in self.extremes.items():
            check_choice("extremes", kind, EXTREMES)
            check_choice(f"extremes[{kind!r}]", outcome, OUTCOMES)

    @property
    def values(self) -> dict[str, Any]:
        """The first value of each hyperparameter."""
        return {name: pair[0] for name, pair in self.hyperparams.items()}

    @property
    def others(self) -> dict[str, Any]:
        """The second value of each hyperparameter."""
        return {name: pair[1] for name, pair in self.hyperparams.items()}

    def build(self, values: Mapping[str, Any] | None = None) -> Any:
        """Return the transform, of the first values unless others are given."""
        return self.make(**(self.values if values is None else values))

    def factory(self) -> Callable[..., optax.GradientTransformation]:
        """Return `make` with a signature that names the hyperparameters, whatever its own."""

        def factory(**hyperparams):
            return self.make(**hyperparams)

        factory.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in self.hyperparams]
        )
        return factory


def fail(case: Case, what: str) -> None:
    """Raise an AssertionError that names the transform."""
    raise AssertionError(f"{case.name}: {what}")


@contextlib.contextmanager
def explained(case: Case, what: str) -> Iterator[None]:
    """Turn any error into an AssertionError that names the transform and the check."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{case.name}: {what}: {error}") from error
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise AssertionError(
            f"{case.name}: {what} raised {type(error).__name__}: {reason}"
        ) from error


def example(dtype: Any = np.float32, seed: int = 0, rows: int = 4) -> Any:
    """Return a tree of a matrix, a vector and a scalar, the same for the same seed."""
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        # Nothing near 0, where a relative comparison would mean little.
        sign = rng.choice([-1.0, 1.0], shape)
        return jnp.asarray(sign * rng.uniform(0.5, 1.5, shape), dtype)

    return {"bias": leaf(3), "weight": leaf(rows, 3), "scale": leaf()}


def stream(steps: int, dtype: Any = np.float32, rows: int = 4) -> list[Any]:
    """Return the gradients of `steps` steps."""
    return [example(dtype, seed, rows) for seed in range(1, steps + 1)]


def run(tx: Any, params: Any, gradients: list[Any], *, jit: bool = False) -> list[Any]:
    """Return the updates for `gradients`; the parameters stay.

    Without jit on purpose where the compiled program is not the matter: single operations are
    compiled once for all transforms, which makes the contract several times faster.
    """
    update, state, updates = jax.jit(tx.update) if jit else tx.update, tx.init(params), []
    for gradient in gradients:
        out, state = update(gradient, state, params)
        updates.append(out)
    return updates


def scan(tx: Any, params: Any, gradients: Any) -> Any:
    """Return the updates for `gradients` (time first), stacked likewise; the parameters stay."""

    def step(state, gradient):
        update, state = tx.update(gradient, state, params)
        return state, update

    return jax.lax.scan(step, tx.init(params), gradients)[1]


def traced(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as arrays with strong dtypes, unlike Python numbers."""
    return {name: jnp.array(np.asarray(value)) for name, value in values.items()}


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by the path to them."""
    return {
        jax.tree_util.keystr(path) or "the only leaf": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_structure(case: Case, what: str, actual: Any, expected: Any) -> None:
    """Raise unless two trees have the same structure."""
    with explained(case, what):
        chex.assert_trees_all_equal_structs(actual, expected)


def assert_shapes(case: Case, what: str, actual: Any, expected: Any) -> None:
    """Raise unless two trees agree in structure and shapes."""
    with explained(case, what):
        chex.assert_trees_all_equal_shapes(actual, expected)


def assert_avals(case: Case, what: str, actual: Any, expected: Any) -> None:
    """Raise unless two trees agree in structure, shapes, dtypes and weak types."""
    with explained(case, what):
        chex.assert_trees_all_equal_comparator(
            lambda new, old: describe(new) == describe(old),
            lambda new, old: f"turned from {describe(old)} into {describe(new)}",
            actual,
            expected,
        )


def describe(leaf: Any) -> str:
    """Return shape, dtype and weak type in words."""
    aval = jax.typeof(leaf) if isinstance(leaf, jax.Array) else leaf
    if not hasattr(aval, "dtype"):
        return f"a {type(leaf).__name__}"
    return f"{'weak ' if getattr(aval, 'weak_type', False) else ''}{aval.dtype}{aval.shape}"


def assert_close(case: Case, what: str, actual: Any, expected: Any, rtol: float = RTOL) -> None:
    """Raise unless two trees are equal to `rtol` of the largest entry of each leaf."""
    assert_shapes(case, what, actual, expected)
    pairs = zip(named_leaves(actual).items(), jax.tree.leaves(expected), strict=True)
    for (path, x), y in pairs:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        size = np.max(np.abs(y), initial=0, where=np.isfinite(y))
        if not np.allclose(x, y, rtol=rtol, atol=rtol * size, equal_nan=True):
            fail(case, f"{what}: {path} is {x.ravel()[:4]}, not {y.ravel()[:4]} (first entries)")


def assert_finite(case: Case, what: str, tree: Any) -> None:
    """Raise unless every entry of a tree is finite."""
    with explained(case, what):
        chex.assert_tree_all_finite(tree)
