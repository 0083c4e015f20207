"""Argument checks, made when a factory is called.

A wrong type raises `TypeError` and a value out of range `ValueError`. The message names the
argument, the rule and the value. For a tracer only dtype and shape are checked, because its value
is not known yet.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_traced(value: Any) -> bool:
    """Return whether `value` is a tracer, known only when the program runs."""
    return isinstance(value, jax.core.Tracer)


def on_host(value: Any) -> Any:
    """Return a concrete value as a NumPy scalar: under jit, JAX arithmetic is traced."""
    return value if is_traced(value) else np.asarray(value)[()]


def how_to_keep_static(name: str, value: Any) -> str:
    """Return a hint for errors on traced values: `optax.inject_hyperparams` traces numbers."""
    hint = f" (With `optax.inject_hyperparams`, pass static_args=({name!r},).)"
    return hint if is_traced(value) else ""


def as_scalars(name: str, values: Any) -> list:
    """Return the entries of a sequence or a vector; raise if `values` is neither."""
    if isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray):
        return list(values)
    if not isinstance(values, np.ndarray | jax.Array):
        raise TypeError(f"`{name}` must be a sequence of numbers or a vector, got {values!r}.")
    if values.ndim != 1:
        raise ValueError(f"`{name}` must be a vector, got an array of shape {values.shape}.")
    # Under jit, indexing a concrete JAX array gives tracers, which pass all checks.
    values = values if is_traced(values) else np.asarray(values)
    return [values[i] for i in range(values.shape[0])]


def check_number(name: str, value: Any, rule: str = "be a number") -> None:
    """Raise unless `value` is a real scalar, concrete or traced."""
    if not _is_real(value):
        raise TypeError(f"`{name}` must {rule}, got {value!r}.")
    if getattr(value, "ndim", 0):
        raise ValueError(f"`{name}` must {rule}, got an array of shape {value.shape}.")


def check_reals(name: str, values: Any, rule: str = "be real numbers") -> None:
    """Raise unless `values` is a real number, an array of them, or nested lists of both."""
    leaves = jax.tree.leaves(values, is_leaf=lambda x: not isinstance(x, list | tuple))
    if not all(map(_is_real, leaves)):
        raise TypeError(f"`{name}` must {rule}, got {values!r}.")
    for leaf in leaves:
        if isinstance(leaf, int):
            _as_float(name, leaf, rule)


def _is_real(value: Any) -> bool:
    """Return whether `value` is a number or an array of a real dtype; bools are not numbers."""
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    # JAX's dtype hierarchy, unlike NumPy's, includes bfloat16.
    return isinstance(value, np.generic | np.ndarray | jax.Array) and (
        jnp.issubdtype(value.dtype, np.integer) or jnp.issubdtype(value.dtype, np.floating)
    )


def _as_float(name: str, value: Any, rule: str) -> float:
    """Return a concrete number as a float, which also orders bfloat16; raise if it is too large."""
    try:
        return float(value)
    except OverflowError:
        # Python does not print integers of more than 4,300 digits.
        got = f"an integer of {value.bit_length()} bits"
        raise ValueError(f"`{name}` must {rule} and fit a float, got {got}.") from None


# Inside `recording`: pairs of a tracer and the rule that its value must satisfy.
_RECORDED: ContextVar[list[tuple[Any, Callable[[Any], Any]]] | None] = ContextVar(
    "recorded", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[list[tuple[Any, Callable[[Any], Any]]]]:
    """Collect the rules for traced values, so that concrete values can be checked later."""
    rules: list[tuple[Any, Callable[[Any], Any]]] = []
    token = _RECORDED.set(rules)
    try:
        yield rules
    finally:
        _RECORDED.reset(token)


def record(value: Any, rule: Callable[[Any], Any]) -> None:
    """Record that the traced `value` must satisfy `rule`, a function that raises."""
    rules = _RECORDED.get()
    if rules is not None:
        rules.append((value, rule))


# A concrete number that breaks its rule raises. A traced number that breaks its rule becomes NaN,
# so that nothing computed with it looks right. Checks of ranges return the number to use; checks
# of counts and `keeps` return whether the rule holds, for `or_nan`.


def keeps(name: str, value: Any, rule: str, holds: Callable[[Any], Any]) -> Any:
    """Raise unless a concrete number keeps a rule; return whether it does.

    Args:
        name: Of the argument.
        value: A number, concrete or traced.
        rule: In words, after "must".
        holds: Number to bool, or tracer to traced bool.

    Returns:
        True, or a traced bool.
    """
    check_number(name, value, rule)
    if is_traced(value):
        record(value, lambda concrete: keeps(name, concrete, rule, holds))
        return holds(value)
    if not holds(_as_float(name, value, rule)):
        raise ValueError(f"`{name}` must {rule}, got {value}.")
    return True


def or_nan(valid: Any, tree: Any) -> Any:
    """Return `tree`, with NaN in place of every number unless `valid`."""
    return tree if valid is True else jax.tree.map(lambda x: jnp.where(valid, x, jnp.nan), tree)


def _check_range(name: str, value: Any, rule: str, holds: Callable[[Any], Any]) -> Any:
    valid, value = keeps(name, value, rule, holds), in_32_bits(unwrapped(value))
    return or_nan(valid, float(value) if isinstance(value, int) else value)


def unwrapped(value: Any) -> Any:
    """Return a concrete number as a host number; under jit, arithmetic on JAX arrays is traced.

    Integers and weakly typed numbers become Python numbers: no conversion wraps a Python integer.
    """
    if is_traced(value) or isinstance(value, int | float):
        return value
    scalar = on_host(value)
    exact = scalar.dtype.kind in "iu" or getattr(value, "weak_type", False)
    return scalar.item() if exact else scalar


def in_32_bits(value: Any) -> Any:
    """Widen a traced number to 32 bits, where 1 - decay does not round and bounds fit."""
    if not is_traced(value) or value.dtype.itemsize >= 4:
        return value
    return value.astype(jnp.float32 if jnp.issubdtype(value.dtype, jnp.floating) else jnp.int32)


def check_unit_interval(name: str, value: Any) -> Any:
    """Check that 0 <= `value` < 1, as for a decay; return the number to use."""
    return _check_range(name, value, "lie in [0, 1)", lambda x: (x >= 0) & (x < 1))


def check_fraction(name: str, value: Any) -> Any:
    """Check that 0 <= `value` <= 1; return the number to use."""
    return _check_range(name, value, "lie in [0, 1]", lambda x: (x >= 0) & (x <= 1))


def check_positive(name: str, value: Any) -> Any:
    """Check that `value` is finite and positive; return the number to use."""
    return _check_range(name, value, "be positive and finite", lambda x: (x > 0) & (x < np.inf))


def check_non_negative(name: str, value: Any) -> Any:
    """Check that `value` is finite and non-negative; return the number to use."""
    rule = "be non-negative and finite"
    return _check_range(name, value, rule, lambda x: (x >= 0) & (x < np.inf))


def check_finite(name: str, value: Any) -> Any:
    """Check that `value` is finite; return the number to use."""
    return _check_range(name, value, "be finite", lambda x: abs(x) < np.inf)


def check_at_least(name: str, value: Any, low: float) -> Any:
    """Check that `value` is finite and at least `low`; return the number to use."""
    rule = f"be at least {low:g} and finite"
    return _check_range(name, value, rule, lambda x: (x >= low) & (x < np.inf))


def check_count(name: str, value: Any, low: int = 0, high: int | None = None) -> Any:
    """Check that `value` is an integer of at least `low` and at most `high`.

    Returns:
        Whether a traced value keeps the rule, as an array for `or_nan`; True for a concrete one.
    """
    rule = f"be an integer of at least {low}" + ("" if high is None else f" and at most {high}")
    check_number(name, value, rule)
    # Python integers are unbounded, and beyond 64 bits they have no dtype.
    if not isinstance(value, int) and not np.issubdtype(jnp.result_type(value), np.integer):
        raise TypeError(f"`{name}` must {rule}, got {value!r}.")
    if is_traced(value):
        record(value, lambda concrete: check_count(name, concrete, low, high))
        value = in_32_bits(value)
        return (value >= low) if high is None else (value >= low) & (value <= high)
    # int(), because under jit comparing even a concrete JAX array gives a tracer.
    _as_float(name, int(value), rule)
    if int(value) < low or (high is not None and int(value) > high):
        raise ValueError(f"`{name}` must {rule}, got {value}.")
    return True


def check_static_count(name: str, value: Any, low: int = 0) -> None:
    """Raise unless `value` is a concrete integer of at least `low`; it shapes the program."""
    if is_traced(value):
        rule = f"`{name}` must be a Python integer, known when tracing"
        raise TypeError(f"{rule}, got {value}.{how_to_keep_static(name, value)}")
    check_count(name, value, low)


def check_below(name: str, value: int, high: int) -> None:
    """Raise unless the concrete integer `value` is below `high`."""
    if int(value) >= high:
        raise ValueError(f"`{name}` must be less than {high}, got {value}.")


def check_int_fits(name: str, value: Any) -> None:
    """Raise if a concrete integer does not fit into JAX's default integers."""
    if not is_traced(value):
        check_below(name, value, jnp.iinfo(jnp.result_type(int)).max + 1)


def check_length(name: str, value: Any, low: int = 1, *, most: int = 10**9, each: int = 4) -> None:
    """Raise unless `value` is a concrete integer from `low` to `most`: a length of arrays.

    Args:
        name: Of the argument.
        value: The length.
        low: The smallest length.
        most: The largest length.
        each: Bytes per entry, for the message.
    """
    check_static_count(name, value, low)
    if int(value) > most:
        need = f"would need {int(value) * each / 2**30:.3g} GiB"
        raise ValueError(f"`{name}` must be at most {most}, got {value}, which {need}.")


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False; it selects one of two programs."""
    if not isinstance(value, bool | np.bool_):
        hint = how_to_keep_static(name, value)
        raise TypeError(f"`{name}` must be True or False, got {value!r}.{hint}")


def check_choice(name: str, value: Any, choices: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raise unless `value` is one of the words `choices`."""
    words = ", ".join(repr(choice) for choice in choices)
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be one of {words}, got {value!r}.")
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {words}, got {value!r}.")


def check_callable(name: str, value: Any) -> None:
    """Raise unless `value` can be called."""
    if not callable(value):
        hint = how_to_keep_static(name, value)
        raise TypeError(f"`{name}` must be callable, got {value!r}.{hint}")


def check_key(name: str, value: Any) -> None:
    """Raise unless `value` is one JAX key: a typed one, or the words of an old one."""
    if isinstance(value, jax.Array | np.ndarray):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.shape == ():
                return
        elif value.ndim == 1 and value.dtype == np.uint32:
            return
    raise TypeError(f"`{name}` must be a JAX key such as jax.random.key(0), got {value!r}.")


def check_transformation(name: str, value: Any) -> None:
    """Raise unless `value` has the two functions of an `optax.GradientTransformation`."""
    if not all(callable(getattr(value, part, None)) for part in ("init", "update")):
        raise TypeError(f"`{name}` must have `init` and `update`, got {value!r}.")


def check_number_or_schedule(name: str, value: Any, check: Callable[[str, Any], Any]) -> Any:
    """Apply `check` to a number; accept any function of the step; return what to use."""
    return value if callable(value) else check(name, value)


def increasing_fractions(name: str, values: Any) -> tuple[Any, list]:
    """Raise unless the entries of a sequence or vector increase in (0, 1].

    Returns:
        Whether traced entries keep the rule, for `or_nan`; and the entries.
    """
    scalars, valid = as_scalars(name, values), True
    for i, value in enumerate(scalars):
        valid &= keeps(f"{name}[{i}]", value, "lie in [0, 1]", lambda x: (x >= 0) & (x <= 1))
    known = [float(value) for value in scalars if not is_traced(value)]
    if any(after <= before for before, after in itertools.pairwise([0.0, *known])):
        raise ValueError(f"`{name}` must increase from above 0, got {known}.")
    if len(known) == len(scalars):
        return valid, scalars
    for before, after in itertools.pairwise([0.0, *scalars]):
        valid &= after > before
    for i, value in enumerate(scalars):
        if is_traced(value):  # Check it later against the known entries.
            before, after = scalars[:i], scalars[i + 1 :]
            record(value, lambda x, b=before, a=after: increasing_fractions(name, [*b, x, *a]))
    return valid, scalars
