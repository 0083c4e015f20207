"""Tests of the masks of cross-validation and of splits."""

import math
import re

import numpy as np
import pytest

import nested_jax as nj


@pytest.mark.parametrize(("examples", "folds"), [(7, 3), (10, 2), (6, 6), (5, None)])
def test_every_example_is_held_out_once_in_folds_of_equal_size(examples, folds):
    masks = nj.held_out_masks(examples, folds, seed=1)
    count = examples if folds is None else folds
    assert (masks.shape, masks.dtype) == ((count, examples), bool)
    assert (masks.sum(axis=0) == 1).all()
    assert masks.sum(axis=1).max() - masks.sum(axis=1).min() <= 1


def test_folds_are_shuffled_and_seeded():
    masks = nj.held_out_masks(40, 4, seed=1)
    np.testing.assert_array_equal(masks, nj.held_out_masks(40, 4, seed=1))
    assert (masks != nj.held_out_masks(40, 4, seed=2)).any()
    assert (np.flatnonzero(masks[0]) % 4 != 0).any()  # Not every fourth.


def test_a_split_is_a_partition():
    parts = nj.split_indices(101, (0.6, 0.2, 0.2), seed=1)
    assert [part.size for part in parts] == [61, 20, 20]
    assert sorted(np.concatenate(parts)) == list(range(101))
    assert all((np.diff(part) > 0).all() for part in parts)
    for part, again in zip(parts, nj.split_indices(101, (0.6, 0.2, 0.2), seed=1), strict=True):
        np.testing.assert_array_equal(part, again)
    assert (parts[0] != nj.split_indices(101, (0.6, 0.2, 0.2), seed=2)[0]).any()
    assert parts[0].tolist() != list(range(61))
    # Shares that sum to one only to rounding.
    assert sum(part.size for part in nj.split_indices(10, [0.1] * 10)) == 10


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nj.held_out_masks(1),
            ValueError,
            "`examples` must be an integer of at least 2, got 1",
        ),
        (
            lambda: nj.held_out_masks(5, 1),
            ValueError,
            "`folds` must be an integer of at least 2, got 1",
        ),
        (
            lambda: nj.held_out_masks(5, 6),
            ValueError,
            "`folds` must be at most `examples` = 5, got 6.",
        ),
        (
            lambda: nj.held_out_masks(2**20, 2**20),
            ValueError,
            "`folds` must be at most 9536, got 1048576, which would need 1.02e+03 GiB.",
        ),
        (
            lambda: nj.held_out_masks(5.0, 2),
            TypeError,
            "`examples` must be an integer of at least 2",
        ),
        (
            lambda: nj.held_out_masks(5, 2, seed=0.5),
            TypeError,
            "`seed` must be an integer of at least",
        ),
        (
            lambda: nj.split_indices(0, [1.0]),
            ValueError,
            "`examples` must be an integer of at least 1, go",
        ),
        (
            lambda: nj.split_indices(9, [0.5, 0.4]),
            ValueError,
            "`parts` must be positive shares that sum to 1, got [0.5, 0.4].",
        ),
        (
            lambda: nj.split_indices(9, [1.5, -0.5]),
            ValueError,
            "`parts` must be positive shares that sum",
        ),
        (
            lambda: nj.split_indices(9, [math.nan, 1]),
            ValueError,
            "`parts` must be positive shares that su",
        ),
        (
            lambda: nj.split_indices(9, []),
            ValueError,
            "`parts` must be positive shares that sum to 1, got",
        ),
        (
            lambda: nj.split_indices(9, [0.99, 0.01]),
            ValueError,
            "`parts` must leave an example in each, got [0.99, 0.01] of 9.",
        ),
        (
            lambda: nj.split_indices(9, [1.0], seed=-1),
            ValueError,
            "`seed` must be an integer of at least",
        ),
    ],
)
def test_folds_and_splits_reject(make, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        make()
