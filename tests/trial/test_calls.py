"""Hostile calls: an error names argument, rule and value in one sentence, or the result is right.

A row is a call, the error and how its message begins. Errors are raised before anything compiles.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import testing, theory

KEY = jax.random.key(0)
MOMENTUM, QUADRATIC = nj.momentum(0.1), nj.quadratic([1.0])
SYSTEM, HUGE, BITS = theory.ema(0.5), 10**400, "integer of 1329 bits"
NOT_REAL = {"word": "0.5", "bytes": b"1", "bool": True, "complex": 1j, "none": None, "dict": {}}


def rollout(key=KEY, steps=10, tx=MOMENTUM, problem=QUADRATIC, **more):
    return nj.rollout(tx, problem, key, steps, **more)


def broken(**functions):
    return rollout(problem=QUADRATIC._replace(**functions))


def classes(**more):
    given = {"batch_size": 2, "images": jnp.ones((3, 2)), "labels": jnp.arange(3)}
    given |= more
    return nj.classification(
        lambda p, x: x @ p,
        lambda key: jnp.ones((2, 3)),
        given.pop("images"),
        given.pop("labels"),
        **given,
    )


def squares(p):
    return jnp.sum(p**2)


def two_functions(update):
    return optax.GradientTransformation(lambda params: (), lambda u, s, p=None: (update(u), s))


MASKS = np.eye(3, dtype=bool)
TYPE, VALUE = TypeError, ValueError
KEY_RULE = "`key` must be a JAX key such as jax.random.key(0), got "
RUNS = "run on one parameter, with gradients and parameters as its only arguments, got one"
CALLS = {
    # Rollouts and problems.
    "key 0": (lambda: rollout(0), TYPE, KEY_RULE + "0."),
    "keys": (lambda: rollout(jax.random.split(KEY)), TYPE, KEY_RULE),
    "key word": (lambda: rollout("a"), TYPE, KEY_RULE + "'a'."),
    "key floats": (lambda: rollout(np.ones(2)), TYPE, KEY_RULE),
    "key missing": (lambda: rollout(None), VALUE, "`key` must be given unless `initial` and"),
    "steps huge": (lambda: rollout(steps=2**31), VALUE, "`steps` must be less than 2147483648"),
    "steps bool": (lambda: rollout(steps=True), TYPE, "`steps` must be an integer of at least 1"),
    "stride 3": (lambda: rollout(stride=3), VALUE, "`stride` must divide `steps` = 10, got 3."),
    "record alone": (lambda: rollout(record=len), VALUE, "`record` needs a `stride`, got None."),
    "initial 3": (
        lambda: rollout(initial=3),
        TYPE,
        "`initial` must be a pair of parameters and world, got 3.",
    ),
    "draws short": (
        lambda: rollout(draws=jnp.ones(4)),
        VALUE,
        "`draws` must have a leading axis of `steps` = 10, got shape (4,).",
    ),
    "four numbers": (
        lambda: rollout(problem=nj.Problem(1, 2, 3, 4)),
        TYPE,
        "`problem.init` must be callable, got 1.",
    ),
    "init of one array": (
        # Not a pair: its two entries would be taken for parameters and world.
        lambda: broken(init=lambda key: jnp.ones(2)),
        TYPE,
        "`problem.init` must return a pair of parameters and world, got ",
    ),
    "init none": (lambda: broken(init=lambda key: None), TYPE, "`problem.init` must return a pair"),
    "observe none": (
        lambda: broken(observe=lambda draws, world: None),
        TYPE,
        "`problem.observe` must return a pair of batch and world, got None.",
    ),
    "observe another world": (
        lambda: broken(observe=lambda draws, world: (draws, jnp.ones(3))),
        VALUE,
        "`problem.observe` must return a world of the structure and shapes that it took, got ",
    ),
    "loss vector": (
        lambda: broken(loss=lambda p, batch: p),
        VALUE,
        "`problem.loss` must return a floating scalar, got ",
    ),
    "update scalar": (
        lambda: rollout(tx=two_functions(lambda u: jnp.float32(1))),
        VALUE,
        "Updates must have the shapes of the parameters, here (1,), got ().",
    ),
    "update integer": (
        lambda: rollout(tx=two_functions(lambda u: jnp.ones(1, int))),
        TYPE,
        "Arrays must be of a floating dtype, got int32.",
    ),
    "bytes as eigenvalues": (
        lambda: nj.quadratic(b"12"),
        TYPE,
        "`eigenvalues` must be a sequence of numbers or a vector, got b'12'.",
    ),
    "dtype word": (
        lambda: nj.quadratic([1.0], dtype="x"),
        TYPE,
        "`dtype` must be floating, got 'x'",
    ),
    "dtype list": (
        lambda: nj.quadratic([1.0], dtype=[]),
        TYPE,
        "`dtype` must be floating, got [].",
    ),
    "dim huge": (lambda: nj.drifting_regression(10**12), VALUE, "`dim` must be at most 1000000000"),
    "batch huge": (
        lambda: classes(batch_size=10**12),
        VALUE,
        "`batch_size` must be at most 1000000000, got 1000000000000, which would need 3.73e+03 GiB",
    ),
    "labels beyond": (
        lambda: classes(labels=jnp.array([0, 1, 5])),
        VALUE,
        "`labels` must be classes from 0 to 2, got 5.",
    ),
    "fold alone": (lambda: classes(fold=1), VALUE, "`fold` must come with `folds`, got None"),
    "fold bool": (lambda: classes(folds=MASKS, fold=True), TYPE, "`fold` must be an integer of"),
    "masks": (
        lambda: nj.held_out_masks(10**9),
        VALUE,
        "`folds` must be at most 10, got 1000000000, which would need ",
    ),
    "data levels huge": (
        lambda: nj.drifting_regression(2, data_levels=10**12),
        VALUE,
        "`data_levels` must be less than 100001, got 1000000000000.",
    ),
    "workers huge": (
        lambda: nj.sweeps.RayWorkers(10**300),
        VALUE,
        f"`workers` must be less than 40001, got {10**300}.",
    ),
    "workers beyond floats": (
        lambda: nj.sweeps.RayWorkers(HUGE),
        VALUE,
        f"`workers` must be an integer of at least 1 and fit a float, got an {BITS}.",
    ),
    "examples": (lambda: nj.split_indices(10**12, [1]), VALUE, "`examples` must be at most "),
    "parts words": (
        lambda: nj.split_indices(9, ["0.5", "0.5"]),
        TYPE,
        "`parts` must be positive shares that sum to 1, got ['0.5', '0.5'].",
    ),
    # Hessians and Jacobians.
    "vector shape": (
        lambda: theory.hessian_vector_product(squares, jnp.ones(2), jnp.ones(3)),
        VALUE,
        "`vector` must have the structure and shapes of `params`, got ",
    ),
    "vector tree": (
        lambda: theory.hessian_vector_product(squares, jnp.ones(2), [1.0]),
        VALUE,
        "`vector` must have the structure and shapes of `params`, got [1.0] for ",
    ),
    "params leaf": (
        lambda: theory.hessian_eigenvalues(squares, {"a": "x"}),
        TYPE,
        "`params['a']` must be real numbers, got 'x'.",
    ),
    "loss integer": (
        lambda: theory.hessian_eigenvalues(lambda p: 1, jnp.ones(2)),
        TYPE,
        "`loss` must return floating numbers, got ",
    ),
    "outputs complex": (
        lambda: theory.jacobian_singular_values(lambda p: p * 1j, jnp.ones(2)),
        TYPE,
        "`function` must return floating numbers, got ",
    ),
    "lanczos key": (
        lambda: theory.hessian_eigenvalues(squares, jnp.ones(3), iterations=2, key=0),
        TYPE,
        KEY_RULE + "0.",
    ),
    "whole matrix": (
        lambda: theory.hessian_eigenvalues(squares, np.ones(10**5), iterations=10**6),
        VALUE,
        "`iterations` must be less than the 100000 parameters of so large a matrix, got 1000000",
    ),
    # Transforms that theory cannot take.
    "MultiSteps": (
        lambda: theory.state_space(optax.MultiSteps(optax.sgd(0.1), 2)),
        TYPE,
        "`tx` must be linear and time-invariant, got an optax.MultiSteps: pass the optimizer",
    ),
    "linearity of MultiSteps": (
        lambda: theory.linearity(optax.MultiSteps(optax.sgd(0.1), 2)),
        TYPE,
        "`tx` must be linear and time-invariant, got an optax.MultiSteps: pass the optimizer",
    ),
    "lookahead": (
        lambda: theory.dc_gain(optax.lookahead(optax.sgd(0.1), 5, 0.5)),
        TYPE,
        f"`system` must {RUNS} that raises AttributeError: ",
    ),
    "polyak": (
        lambda: theory.linearity(optax.polyak_sgd()),
        TYPE,
        f"`tx` must {RUNS} that raises TypeError: ",
    ),
    "centralize": (
        lambda: theory.stability_limit(optax.centralize()),
        VALUE,
        "`system` must be linear and time-invariant, got one that fails the entries test by ",
    ),
    "complex system": (
        lambda: theory.dc_gain(theory.StateSpace(np.full((1, 1), 0.5j), np.ones(1), np.ones(1), 0)),
        TYPE,
        "`system.transition` must be real numbers, got ",
    ),
    # The contract.
    "case name": (lambda: testing.Case(3, nj.momentum), TYPE, "`name` must be a string, got 3."),
    "case make": (lambda: testing.Case("a", 3), TYPE, "`make` must be callable, got 3."),
    "case one value": (
        lambda: testing.Case("a", nj.momentum, {"decay": 0.9}),
        TYPE,
        "`hyperparams['decay']` must be two values, such as (0.9, 0.999), got 0.9.",
    ),
    "case three": (
        lambda: testing.Case("a", nj.momentum, {"decay": (0.9, 0.5, 0.3)}),
        TYPE,
        "`hyperparams['decay']` must be two values, such as (0.9, 0.999), got (0.9, 0.5, 0.3).",
    ),
    "case list": (
        lambda: testing.Case("a", len, [1]),
        TYPE,
        "`hyperparams` must be a dict by name",
    ),
    "case key": (lambda: testing.Case("a", len, {3: (1, 2)}), TYPE, "`hyperparams` must be a dict"),
    "case flag": (
        lambda: testing.Case("a", len, needs_params=1),
        TYPE,
        "`needs_params` must be True or False, got 1.",
    ),
    "case extremes": (
        lambda: testing.Case("a", len, extremes=3),
        TYPE,
        "`extremes` must be a dict",
    ),
    "no case": (lambda: testing.check_contract(3), TYPE, "`case` must be a Case, got 3."),
    # Schedules.
    "step infinite": (lambda: nj.cosine(9)(np.inf), VALUE, "`step` must be finite, got inf."),
    "warmup of bools": (
        lambda: nj.with_warmup(nj.Schedule(lambda step: True, len), 3)(1),
        TYPE,
        "`schedule(step)` must be real numbers, got True.",
    ),
}
# Counts of what is allocated: refused before anything is.
for length in (10**7 + 1, 10**9, 10**20, HUGE):
    bits = f"{length.bit_length()} bits"
    rule = f"at most 10000000, got {length}, which would need "
    rule = f"an integer of at least 1 and fit a float, got an {BITS}." if length == HUGE else rule
    for name, call in {
        "impulse_response": lambda n: theory.impulse_response(SYSTEM, n),
        "step_response": lambda n: theory.step_response(SYSTEM, n),
        "negative_binomial_weights": lambda n: theory.negative_binomial_weights(2, 0.5, n),
    }.items():
        message = f"`steps` must be {rule}"
        CALLS[f"{name} {bits}"] = (lambda n=length, call=call: call(n)), VALUE, message
for length in (2**31, 10**12, HUGE):
    for name, argument, call in (
        ("geometric_sum", "terms", lambda n: theory.geometric_sum(0.5, n)),
        ("weights", "stages", lambda n: theory.negative_binomial_weights(n, 0.5, 3)),
    ):
        rule = f"less than 2147483648, got {length}."
        rule = (
            f"an integer of at least 0 and fit a float, got an {BITS}." if length == HUGE else rule
        )
        message = f"`{argument}` must be {rule}"
        key = f"{name} {length.bit_length()} bits"
        CALLS[key] = (lambda n=length, call=call: call(n)), VALUE, message
# Arrays of real numbers, of any shape.
for kind, wrong in NOT_REAL.items():
    for argument, call in {
        "frequencies": lambda x: theory.frequency_response(SYSTEM, x),
        "c": lambda x: theory.mean_growth(SYSTEM, x),
        "eigenvalues": lambda x: theory.convergence_rate(SYSTEM, x),
        "ratio": lambda x: theory.geometric_sum(x, 3),
        "step": nj.cosine(10),
        "parts": lambda x: nj.split_indices(9, x),
        "system.drive": lambda x: theory.dc_gain(SYSTEM._replace(drive=x)),
    }.items():
        message = f"`{argument}` must be "
        CALLS[f"{argument} {kind}"] = (lambda x=wrong, call=call: call(x)), TYPE, message
    CALLS[f"cycle_steps {kind}"] = (
        lambda x=wrong: nj.warm_restarts(10).cycle_steps(x),
        TYPE,
        "`step` must be real numbers, got ",
    )


@pytest.mark.parametrize("name", CALLS)
def test_errors_name_argument_rule_and_value(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match="^" + re.escape(message)):
        call()


def test_old_keys_are_keys():
    trace = rollout(jax.random.PRNGKey(0))
    np.testing.assert_array_equal(trace.params, rollout().params)


def test_a_frequency_that_is_not_finite_has_no_response():
    found = theory.frequency_response(theory.heavy_ball(0.5), [0.0, np.nan, np.inf])
    np.testing.assert_array_equal(found.real, [2.0, np.nan, np.nan])


def test_a_traced_fold_indexes_the_masks():
    masks = nj.held_out_masks(6, 3)
    every = jax.jit(jax.vmap(lambda fold: masks[fold]))(jnp.arange(3))
    np.testing.assert_array_equal(every, np.asarray(masks))
    # Under jit, the masks are constants, whose rules `classification` checks.
    with pytest.raises(ValueError, match=r"^`fold` must be an integer of .* at most 2, got 3\."):
        jax.jit(lambda: classes(folds=nj.held_out_masks(3), fold=3).loss)()
