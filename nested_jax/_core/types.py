"""Names for the types that cross module boundaries."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

# Trees of arrays whose structure is the user's.
Params: TypeAlias = Any
Updates: TypeAlias = Any
OptState: TypeAlias = Any

# A number: Python's, NumPy's, or a JAX array of rank 0, which may be traced.
ScalarLike: TypeAlias = float | int | np.ndarray | np.number[Any] | jax.Array

# Step (counted from 0) to a number, as optax takes them.
Schedule: TypeAlias = Callable[[Any], Any]
ScalarOrSchedule: TypeAlias = ScalarLike | Schedule
