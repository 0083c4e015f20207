"""Masks for cross-validation, and random splits of examples."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import check_length, check_reals, check_static_count

MOST_ENTRIES = 10**10
"""Largest number of entries of the masks, one byte each."""


def held_out_masks(examples: int, folds: int | None = None, *, seed: int = 0) -> jax.Array:
    """Return the examples that each cross-validation fold holds out.

    Examples are shuffled and dealt to the folds in turn. Fold sizes differ by at most one, and
    every example is held out exactly once. Sweep over an axis `fold=range(folds)`: all masks have
    one shape, so all folds share one compiled program.

    Args:
        examples: Number of examples.
        folds: k, from 2 to `examples`; None means leave-one-out (k = `examples`).
        seed: Seed of the shuffle.

    Returns:
        Booleans of shape (folds, examples), true where the example is held out. It is a JAX array,
        so that a traced fold can index it.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If `folds` is below 2 or above `examples`.

    Example:
        >>> import nested_jax as nj
        >>> masks = nj.held_out_masks(7, 3)
        >>> masks.sum(axis=1), masks.sum(axis=0)
        (Array([3, 2, 2], dtype=int32), Array([1, 1, 1, 1, 1, 1, 1], dtype=int32))
    """
    check_length("examples", examples, 2)
    folds = examples if folds is None else folds
    check_static_count("folds", folds, 2)
    check_static_count("seed", seed)
    if folds > examples:
        raise ValueError(f"`folds` must be at most `examples` = {examples}, got {folds}.")
    check_length("folds", folds, 2, most=MOST_ENTRIES // int(examples), each=int(examples))
    fold_of = np.empty(examples, int)
    fold_of[np.random.default_rng(seed).permutation(examples)] = np.arange(examples) % folds
    with jax.ensure_compile_time_eval():  # Concrete under jit, too: `classification` checks it.
        return jnp.asarray(fold_of == np.arange(folds)[:, None])


def split_indices(
    examples: int, parts: Sequence[float], *, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Return the indices of a random split, such as into training, validation and test.

    Args:
        examples: Number of examples.
        parts: Positive shares that sum to 1 up to rounding. Boundaries are rounded.
        seed: Seed of the shuffle.

    Returns:
        One sorted vector of indices per part; together they hold every example exactly once.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a share is not positive, the shares do not sum to 1, or a part is empty.

    Example:
        >>> import nested_jax as nj
        >>> [part.size for part in nj.split_indices(1797, (0.6, 0.2, 0.2))]
        [1078, 360, 359]
    """
    check_length("examples", examples)
    check_static_count("seed", seed)
    check_reals("parts", parts, "be positive shares that sum to 1")
    shares = np.asarray(parts, np.float64)
    if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"`parts` must be positive shares that sum to 1, got {parts}.")
    ends = np.rint(np.cumsum(shares) * examples).astype(int)
    pieces = np.split(np.random.default_rng(seed).permutation(examples), ends[:-1])
    if not all(piece.size for piece in pieces):
        raise ValueError(f"`parts` must leave an example in each, got {parts} of {examples}.")
    return tuple(np.sort(piece) for piece in pieces)
