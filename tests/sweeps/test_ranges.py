"""Tests of `powers_of_two` and `log_uniform`."""

import math
import re

import numpy as np
import pytest

import nested_jax as nj

STANDARD_ERRORS = 5.0  # A mean of seeded draws: about one in two million is farther off.


def test_powers_of_two_are_exact():
    assert nj.powers_of_two(-2, 3).tolist() == [0.25, 0.5, 1, 2, 4, 8]
    assert nj.powers_of_two(-1, 1, scale=0.1).tolist() == [0.05, 0.1, 0.2]
    assert nj.powers_of_two(np.int64(4), 4).tolist() == [16]
    assert nj.powers_of_two(-1022, 1023)[[0, -1]].tolist() == [2.0**-1022, 2.0**1023]


def test_draws_are_seeded_and_uniform_in_their_logarithm():
    low, high, size = 1e-3, 10.0, 4000
    values = nj.log_uniform(low, high, size, seed=3)
    np.testing.assert_array_equal(values, nj.log_uniform(low, high, size, seed=3))
    assert not np.isin(values, nj.log_uniform(low, high, size, seed=4)).any()
    assert (low <= values).all()
    assert (values < high).all()
    share = np.log(values / low) / np.log(high / low)
    for power, variance in ((1, 1 / 12), (2, 4 / 45)):
        error = abs((share**power).mean() - 1 / (power + 1))
        assert error < STANDARD_ERRORS * math.sqrt(variance / size)


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, np.nextafter(0.1, 1)), (1e300, np.nextafter(1e300, np.inf))]
)
def test_draws_from_a_narrow_range_stay_in_it(low, high):
    values = nj.log_uniform(low, high, 1000, seed=0)
    assert (low <= values).all()
    assert (values < high).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nj.powers_of_two(0.5, 2), TypeError, "`low` must be an integer of at least -10"),
        (lambda: nj.powers_of_two(0, True), TypeError, "`high` must be an integer of at least"),
        (lambda: nj.powers_of_two(1, 0), ValueError, "`high` must be at least `low` = 1, got 0."),
        (
            lambda: nj.powers_of_two(0, 1, scale=-1),
            ValueError,
            "`scale` must be positive and finite, got -1.",
        ),
        (lambda: nj.log_uniform(1, 1, 2, seed=0), ValueError, "`high` must be above `low` = 1, "),
        (
            lambda: nj.log_uniform(1, math.nan, 2, seed=0),
            ValueError,
            "`high` must be positive and finite, got nan.",
        ),
        (
            lambda: nj.log_uniform(1, math.inf, 2, seed=0),
            ValueError,
            "`high` must be positive and finite, got inf.",
        ),
        (lambda: nj.powers_of_two(0, 2000), ValueError, "`high` must be less than 1024, got 2000."),
        (
            lambda: nj.powers_of_two(-2000, 0),
            ValueError,
            "`low` must be an integer of at least -1022, got -2000.",
        ),
        (
            lambda: nj.powers_of_two(0, 1000, scale=1e10),
            ValueError,
            "`scale` must keep all values positive and finite, got 10000000000.0 for values from ",
        ),
        (
            lambda: nj.powers_of_two(-1000, 0, scale=1e-300),
            ValueError,
            "`scale` must keep all values positive and finite, got 1e-300 for values from 0.0 to 1",
        ),
        (
            lambda: nj.log_uniform(1, 2, 10**12, seed=0),
            ValueError,
            "`size` must be at most 1000000000, got 1000000000000, which would need ",
        ),
        (
            lambda: nj.log_uniform(1, 2, 0, seed=0),
            ValueError,
            "`size` must be an integer of at least",
        ),
        (
            lambda: nj.log_uniform(1, 2, 2, seed=-1),
            ValueError,
            "`seed` must be an integer of at least",
        ),
        (lambda: nj.log_uniform(0, 1, 2, seed=0), ValueError, "`low` must be positive and finite"),
        (lambda: nj.log_uniform(2, 1, 2, seed=0), ValueError, "`high` must be above `low` = 2, go"),
        (lambda: nj.log_uniform(1, 2, 2, seed="a"), TypeError, "`seed` must be an integer of at l"),
    ],
)
def test_ranges_and_draws_reject(make, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        make()
