"""What is what in a jaxpr, told without `jax.extend`, which is slow to import."""

from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def is_literal(atom: Any) -> "TypeGuard[Literal]":
    """Tell whether an operand is a number in the jaxpr, and no variable."""
    return hasattr(atom, "val")


def is_closed_jaxpr(value: Any) -> "TypeGuard[ClosedJaxpr]":
    """Tell whether a parameter is a jaxpr with its constants."""
    return hasattr(value, "jaxpr") and hasattr(value, "consts")


def is_jaxpr(value: Any) -> "TypeGuard[Jaxpr]":
    """Tell whether a parameter is a jaxpr without them."""
    return hasattr(value, "eqns") and not is_closed_jaxpr(value)
