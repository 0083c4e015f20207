"""Finished optimizers: chains of transforms without further arithmetic."""

from nested_jax.optimizers._adafactor import adafactor as adafactor
from nested_jax.optimizers._adafactor import factored_adamw as factored_adamw
from nested_jax.optimizers._adam import adam as adam
from nested_jax.optimizers._adam import adamw as adamw
from nested_jax.optimizers._m3 import m3 as m3
from nested_jax.optimizers._momentum import momentum as momentum
from nested_jax.optimizers._momentum import nested_momentum as nested_momentum
from nested_jax.optimizers._momentum import nesterov as nesterov
