"""Broken transforms, each of which a check of `nested_jax.testing` must catch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nested_jax import testing
from nested_jax.testing import CHECKS, Case


def transform(update, init=lambda params: optax.EmptyState()):
    """Return a transformation of `update`: (updates, state, params) to updates and state."""
    return optax.GradientTransformation(
        init, lambda updates, state, params=None: update(updates, state, params)
    )


def average(decay, init):
    def update(updates, state, params):
        state = jax.tree.map(lambda m, u: decay * m + (1 - decay) * u, state, updates)
        return state, state

    return transform(update, init)


def python_number_in_the_state(decay):
    def update(updates, state, params):
        return jax.tree.map(lambda u: decay**state * u, updates), state + 1

    return transform(update, lambda params: 0.0)


def one_buffer_twice(decay):
    def init(params):
        return (jax.tree.map(jnp.zeros_like, params),) * 2

    def update(updates, state, params):
        first = jax.tree.map(lambda m, u: decay * m + u, state[0], updates)
        second = jax.tree.map(lambda m, u: decay * m + u, state[1], first)
        return second, (first, second)

    return transform(update, init)


def parameters_as_state(decay):
    return average(decay, lambda params: params)


def smaller_state(decay):
    def update(updates, state, params):
        return jax.tree.map(lambda u: decay * u, updates), state.sum()

    return transform(update, lambda params: jnp.zeros(5))


def init_that_looks(decay):
    def init(params):
        return jnp.float32(np.mean([np.mean(p) for p in jax.tree.leaves(params)]))

    return transform(lambda updates, state, params: (updates, decay * state), init)


def weak_count(decay):
    def update(updates, state, params):
        return jax.tree.map(lambda u: decay * u, updates), state + jnp.ones((), jnp.float32)

    return transform(update, lambda params: jnp.asarray(0.0))


def scalar_that_becomes_a_vector(decay):
    return transform(lambda u, s, p: (jax.tree.map(jnp.atleast_1d, u), s))


def parameters_where_given(decay):
    def update(updates, state, params):
        if params is not None:
            updates = jax.tree.map(lambda u, p: u + decay * p, updates, params)
        return updates, state

    return transform(update)


def rounded(decay, dtype, of=(jnp.float32, jnp.float64)):
    def leaf(u):
        return (decay * u).astype(dtype if u.dtype in of else u.dtype).astype(u.dtype)

    return transform(lambda u, s, p: (jax.tree.map(leaf, u), s))


def bfloat16_outside(decay):
    return rounded(decay, jnp.bfloat16)


def float16_for_float32(decay):
    return rounded(decay, jnp.float16, of=(jnp.float32,))


def float32_for_float64(decay):
    return rounded(decay, jnp.float32)


def float32_average(decay):
    """An average that has no other width."""

    def init(params):
        return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

    def update(updates, state, params):
        a = jnp.asarray(decay, jnp.float32)
        state = jax.tree.map(lambda m, u: a * m + (1 - a) * u.astype(jnp.float32), state, updates)
        return jax.tree.map(lambda m, u: m.astype(u.dtype), state, updates), state

    return transform(update, init)


def counting(factor, count=lambda count: count + 1):
    """A multiple that depends on the number of the step, from 0."""

    def update(updates, state, params):
        return jax.tree.map(lambda u: (factor(state) * u).astype(u.dtype), updates), count(state)

    return transform(update, lambda params: jnp.zeros((), jnp.int32))


def divided_by_the_step(decay):
    return counting(lambda count: decay / (count + 1))


def divided_by_a_step_beyond_the_last(decay):
    return counting(lambda count: decay / jnp.sqrt(count + 1), optax.safe_increment)


def forgotten_when_the_count_wraps(decay):
    return counting(lambda count: 1 / (1 - decay ** (count + 1.0)))


def schedule_begun_again(decay):
    return counting(lambda count: jnp.clip(1 - decay * count, 0, 1))


def promoted(decay):
    return transform(lambda u, s, p: (jax.tree.map(lambda x: x * jnp.float32(decay), u), s))


def frozen(decay):
    """An average in the dtype of the parameters, whose other manners are good."""

    def update(updates, state, params):
        state = jax.tree.map(
            lambda m, u: m + (1 - jnp.asarray(decay, m.dtype)) * (u.astype(m.dtype) - m),
            state,
            updates,
        )
        return jax.tree.map(lambda m, u: m.astype(u.dtype), state, updates), state

    return transform(update, lambda params: jax.tree.map(jnp.zeros_like, params))


def branching(decay):
    factor = 1.0 if decay > 0.5 else 0.5
    return transform(lambda u, s, p: (jax.tree.map(lambda x: factor * x, u), s))


def memory_of_its_own(decay):
    calls = []

    def update(updates, state, params):
        calls.append(1)
        return jax.tree.map(lambda u: decay ** len(calls) * u, updates), state

    return transform(update)


def silent_without_parameters(decay):
    def update(updates, state, params):
        if params is None:
            return updates, state
        return jax.tree.map(lambda u, p: u + decay * p, updates, params), state

    return transform(update)


def surprised_without_parameters(decay):
    def update(updates, state, params):
        return {name: u + decay * params[name] for name, u in updates.items()}, state

    return transform(update)


def false_promise_of_extra_arguments(decay):
    tx = promoted(decay)
    return optax.GradientTransformationExtraArgs(tx.init, tx.update)


class Foreign:
    """A class that JAX knows and serializers do not."""

    def __init__(self, value):
        self.value = value


jax.tree_util.register_pytree_node(
    Foreign, lambda node: ((node.value,), None), lambda _, children: Foreign(*children)
)


def foreign_state(decay):
    def update(updates, state, params):
        return updates, Foreign(decay * state.value)

    return transform(update, lambda params: Foreign(jnp.zeros((), jnp.float32)))


def mean_of_nothing(decay):
    def update(updates, state, params):
        total = sum(jnp.abs(u).mean() for u in jax.tree.leaves(updates))
        return jax.tree.map(lambda u: decay * u / total, updates), state

    return transform(update)


def coupled_entries(decay):
    def leaf(u):
        return decay * u / (1 + jnp.abs(u).sum())

    return transform(lambda u, s, p: (jax.tree.map(leaf, u), s))


def zero_by_zero(decay):
    return transform(lambda u, s, p: (jax.tree.map(lambda x: x / jnp.abs(x) ** decay, u), s))


def hidden_errors(decay):
    return transform(lambda u, s, p: (jax.tree.map(lambda x: decay * jnp.nan_to_num(x), u), s))


def dead_hyperparameter(decay):
    return transform(lambda u, s, p: (u, s))


def steep_hyperparameter(decay):
    def leaf(u):
        return u * decay + jnp.sqrt(0.0 * decay)

    return transform(lambda u, s, p: (jax.tree.map(leaf, u), s))


def tuples_as_leaves(decay):
    def update(updates, state, params):
        def is_leaf(node):
            return isinstance(node, tuple)

        return jax.tree.map(lambda u: decay * u, updates, is_leaf=is_leaf), state

    return transform(update)


def gram(decay):
    def leaf(u):
        return u @ u.T @ u if u.ndim == 2 else decay * u

    return transform(lambda u, s, p: (jax.tree.map(leaf, u), s))


def counted_in_floats(decay):
    def update(updates, count, params):
        return jax.tree.map(lambda u: decay * u / (count + 1), updates), count + 1

    return transform(update, lambda params: jnp.zeros(()))


# What is broken, the check that must find it, and what it must say.
BROKEN = [
    (python_number_in_the_state, "state_is_arrays", r"holds the float 0\.0"),
    (one_buffer_twice, "state_is_arrays", r"\[1\]\['bias'\] and \[0\]\['bias'\] are one buffer"),
    (parameters_as_state, "state_is_arrays", r"\['bias'\] and params\['bias'\] are one buffer"),
    (init_that_looks, "init_is_abstract", "TracerArrayConversionError"),
    (silent_without_parameters, "params_argument", "raised no ValueError"),
    (
        surprised_without_parameters,
        "params_argument",
        "raised no ValueError that names them, but TypeError",
    ),
    (parameters_where_given, "params_argument", r"said not to need.*\['bias'\] is"),
    (false_promise_of_extra_arguments, "extra_arguments", "unexpected keyword argument"),
    (promoted, "dtypes", "types: float32 != (bfloat16|float16)"),
    (optax.trace, "dtypes", "types: float32 != (bfloat16|float16)"),
    (scalar_that_becomes_a_vector, "dtypes", r"'scale': shapes: \(1,\) != \(\)"),
    (divided_by_the_step, "counters", r"\['bias'\] is"),
    (divided_by_a_step_beyond_the_last, "counters", "'bias': 'Nonfinite'"),
    (forgotten_when_the_count_wraps, "counters", r"\['bias'\] is"),
    (schedule_begun_again, "counters", r"\['bias'\] is"),
    (counted_in_floats, "counters", "counts steps in float32, not in an integer"),
    (bfloat16_outside, "precision", r"\['bias'\] is rounded to fewer bits"),
    (float16_for_float32, "precision", "in float32, against the same in float64"),
    (float32_for_float64, "precision", r"\['bias'\] is rounded to fewer bits"),
    (float32_average, "precision", r"\['bias'\] is rounded to fewer bits"),
    (weak_count, "stable_state", r"turned from weak float32\(\) into float32\(\)"),
    (optax.trace, "stable_state", r"turned from bfloat16\(3,\) into float32\(3,\)"),
    (weak_count, "single_compilation", "compiled 2 programs"),
    (branching, "single_compilation", "TracerBoolConversionError"),
    (one_buffer_twice, "donation", "donate the same buffer twice"),
    (smaller_state, "donation", "donated buffers were not usable"),
    (memory_of_its_own, "donation", r"\['bias'\] is"),
    (foreign_state, "serialization", "flax.serialization raised TypeError"),
    (mean_of_nothing, "odd_trees", "None and size-0 leaves: .*'Nonfinite'"),
    (scalar_that_becomes_a_vector, "odd_trees", r"'scale'.*: shapes: \(1,\) != \(\)"),
    (coupled_entries, "odd_trees", "a leaf cut in two"),
    (zero_by_zero, "extreme_gradients", "zero float32 gradient.*'Nonfinite'"),
    (hidden_errors, "extreme_gradients", "finite where the gradient is not"),
    (coupled_entries, "extreme_gradients", "another entry: .*'Nonfinite'"),
    (frozen, "reduced_precision", r"\['bias'\] is"),
    (optax.trace, "reduced_precision", "raised TypeError"),
    (dead_hyperparameter, "hyperparameters", "the two values of `decay` give the same updates"),
    (branching, "hyperparameters", "TracerBoolConversionError"),
    (steep_hyperparameter, "hyperparameter_gradients", "'decay': 'Nonfinite'"),
    (memory_of_its_own, "chain", r"\['bias'\] is"),
    (tuples_as_leaves, "masked", "inside optax.masked raised TypeError"),
    (memory_of_its_own, "multi_steps", r"\['bias'\] is"),
    (memory_of_its_own, "apply_if_finite", r"\['bias'\] is"),
    (branching, "inject_hyperparams", "TracerBoolConversionError"),
    (gram, "sharding", "Explicit.*raised"),
]


@pytest.mark.parametrize(
    ("make", "check", "message"), BROKEN, ids=[f"{m.__name__}-{c}" for m, c, _ in BROKEN]
)
def test_catches(make, check, message):
    needs_params = "without_parameters" in make.__name__
    case = Case("mine", make, {"decay": (0.25, 0.999)}, needs_params=needs_params)
    with pytest.raises(AssertionError, match=f"(?s)^mine: .*{message}"):
        getattr(testing, f"check_{check}")(case)


def test_every_check_catches_something():
    assert {f"check_{check}" for _, check, _ in BROKEN} == {check.__name__ for check in CHECKS}
