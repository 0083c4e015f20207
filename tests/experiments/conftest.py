"""Fixtures that tests of several experiments use."""

import pytest

from experiments.lab import data


@pytest.fixture(scope="module")
def images():
    """Return the digits, which need no download."""
    return data.load()
