"""Settings shared by the tests of the contract."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _compiled_quickly():
    """Do without LLVM's optimizations: the contract is about what XLA is given to compile."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
