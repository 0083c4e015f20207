"""Finding a transform's state inside the state of a chain or wrapper."""

from typing import Any

import jax

from nested_jax._core.types import OptState


def find(state: OptState, kinds: Any) -> list[Any]:
    """Return the outermost nodes of `state` that are of the classes `kinds`."""

    def is_found(node):
        return isinstance(node, kinds)

    return [node for node in jax.tree.leaves(state, is_leaf=is_found) if is_found(node)]


def find_one(state: OptState, kind: type) -> Any:
    """Return the one node of `state` that is of the class `kind`; raise if there is not one."""
    found = find(state, kind)
    if len(found) != 1:
        raise ValueError(f"`state` must hold one {kind.__name__}, got {len(found)}.")
    return found[0]
