"""Settings shared by the tests of theory."""

import jax
import pytest

from nested_jax.theory import _remembered


@pytest.fixture(autouse=True, scope="package")
def _all_remembered():
    """Keep every measurement: most transforms are measured in several tests and modules."""
    most, _remembered.MOST_REMEMBERED = _remembered.MOST_REMEMBERED, 10**6
    yield
    _remembered.MOST_REMEMBERED = most


@pytest.fixture(scope="module")
def compiled_quickly():
    """Do without LLVM's optimizations, for modules of many programs that run for a moment."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
