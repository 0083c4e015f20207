"""Names for the types that cross module boundaries."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

# Trees of arrays; the user chooses the structure.
Params: TypeAlias = Any
Updates: TypeAlias = Any
OptState: TypeAlias = Any

# A Python or NumPy number, or a JAX array of rank 0, which may be traced.
ScalarLike: TypeAlias = float | int | np.ndarray | np.number[Any] | jax.Array

# Functions from the step (from 0) to a number, as in optax.
Schedule: TypeAlias = Callable[[Any], Any]
ScalarOrSchedule: TypeAlias = ScalarLike | Schedule
