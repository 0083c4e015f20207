"""Schedules: multipliers of the learning rate that know the length of their cycles."""

from nested_jax.schedules._schedule import Schedule as Schedule
from nested_jax.schedules._schedules import constant as constant
from nested_jax.schedules._schedules import cosine as cosine
from nested_jax.schedules._schedules import step_drop as step_drop
from nested_jax.schedules._schedules import warm_restarts as warm_restarts
from nested_jax.schedules._warmup import warmup_linear_decay as warmup_linear_decay
from nested_jax.schedules._warmup import with_warmup as with_warmup
