"""Settings shared by the tests of theory."""

import pytest

from nested_jax.theory import _remembered


@pytest.fixture(autouse=True, scope="package")
def _all_remembered():
    """Keep every measurement: most transforms are measured in several tests and modules."""
    most, _remembered.MOST_REMEMBERED = _remembered.MOST_REMEMBERED, 10**6
    yield
    _remembered.MOST_REMEMBERED = most
