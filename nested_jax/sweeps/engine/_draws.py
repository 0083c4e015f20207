"""Draw random numbers as vectors, so that XLA compiles programs that draw faster.

JAX's default generator, threefry, numbers the entries of an array and hashes each number. The loop
that does it follows the shape. For a layer of shape (64, 10), LLVM unrolls the inner loop of ten
hashes, and takes about a second to optimize it. As a vector of 640 entries, which is reshaped
afterwards, the same draw compiles in a sixth of that time, and each entry has the same bits:

    x = random_bits[shape=(64, 10)] key

becomes

    y = random_bits[shape=(640,)] key
    x = reshape[new_sizes=(64, 10)] y
"""

import math
from typing import TYPE_CHECKING, Any

import jax

from nested_jax._core.jaxpr import is_closed_jaxpr, is_jaxpr, parameters

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

THREEFRY = "key<fry>"


def with_flat_draws(program: "ClosedJaxpr") -> "ClosedJaxpr":
    """Return the program with each of its threefry draws of several axes as a vector.

    The results are the same bit for bit. Parts without such draws stay the same objects.
    """
    return _Rewriting().of(program)


class _Rewriting:
    """Rewrites a program; what JAX traced once and calls several times is rewritten once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """Return a parameter of an equation, rewritten if it is a jaxpr or holds some."""
        if type(value) in (tuple, list):
            parts = [self.of(part) for part in value]
            same = all(a is b for a, b in zip(parts, value, strict=True))
            return value if same else type(value)(parts)
        if not is_closed_jaxpr(value) and not is_jaxpr(value):
            return value
        if id(value) not in self._done:
            self._done[id(value)] = self._of_jaxpr(value)
        return self._done[id(value)]

    def _of_jaxpr(self, value: Any) -> Any:
        if is_closed_jaxpr(value) and value.jaxpr is not value:
            jaxpr = self.of(value.jaxpr)
            return value if jaxpr is value.jaxpr else value.replace(jaxpr=jaxpr)
        eqns = [new for eqn in value.eqns for new in self._of_equation(eqn)]
        same = all(a is b for a, b in zip(eqns, value.eqns, strict=False))
        jaxpr: Any = value
        return jaxpr if same else jaxpr.replace(eqns=eqns)

    def _of_equation(self, eqn: Any) -> list[Any]:
        if eqn.primitive.name == "random_bits":
            return _flat(eqn)
        params = {name: self.of(value) for name, value in eqn.params.items()}
        same = all(params[name] is value for name, value in eqn.params.items())
        return [eqn if same else eqn.replace(params=params)]


def _flat(eqn: Any) -> list[Any]:
    """Return the equations of a draw, and of its reshaping if it has several axes."""
    (shape,), key = parameters(eqn), eqn.invars[0].aval
    if len(shape) < 2 or key.dtype.name != THREEFRY:
        return [eqn]
    drawn, size = eqn.outvars[0], math.prod(shape)
    flat = jax.ShapeDtypeStruct((*key.shape, size), drawn.aval.dtype)
    # One equation of JAX's own making, between variables of its own.
    reshaping = jax.make_jaxpr(lambda x: x.reshape(drawn.aval.shape))(flat).jaxpr
    draw = eqn.replace(params={**eqn.params, "shape": (size,)}, outvars=reshaping.invars)
    return [draw, reshaping.eqns[0].replace(outvars=eqn.outvars)]
