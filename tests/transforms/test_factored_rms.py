"""Tests of `scale_by_factored_rms` against the paper's algorithm and its closed forms."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.transforms import FactoredMoment
from tests import oracles
from tests.trajectories import FLOAT64_TOLERANCE, given_gradients

FLOAT32_RTOL = 30 * np.finfo(np.float32).eps  # Two means, two roots and their products.
# optax forms 1 - t^-c in float32, where it has lost three digits by step 20 ...
OPTAX_RTOL = 1e-5
BFLOAT16_RTOL = 2.0**-7  # One rounding on the way in, one on the way out.


def directions(tx, gradients):
    """Return the updates for `gradients` (time first), stacked likewise."""

    def step(state, gradient):
        update, state = tx.update(gradient, state)
        return state, update

    return jax.lax.scan(step, tx.init(jax.tree.map(lambda g: g[0], gradients)), gradients)[1]


def stacked(gradients, dtype=None):
    return jax.tree.map(lambda *g: jnp.asarray(np.stack(g), dtype or float), *gradients)


def tensor_gradients(*shapes, steps=20):
    rng = np.random.default_rng(3)
    return [{str(shape): rng.normal(size=shape) for shape in shapes} for _ in range(steps)]


def assert_is_the_oracle(gradients, **options):
    expected = oracles.by_name(oracles.factored_directions, gradients, **options)
    if "eps1" in options:
        options["eps"] = options.pop("eps1")
    actual = directions(nj.scale_by_factored_rms(**options), stacked(gradients))
    for name in expected[0]:
        theirs = np.stack([e[name] for e in expected])
        np.testing.assert_allclose(actual[name], theirs, FLOAT64_TOLERANCE, FLOAT64_TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decay_rate": 0.5},
        {"decay_rate": 1.0},
        {"b2": 0.9},
        {"b2": 0.0},
        {"b2": 0.9, "b2_cap": 0.5},
        {"b2_cap": 0.5},
        {"b2_cap": 1.0},
        {"eps1": 1e-2},
        {"factored": False},
        {"factored": False, "b2": 0.99},
        {"min_dim_size_to_factor": 4},
        {"min_dim_size_to_factor": 5},
        {"factored_dims": "last"},
    ],
    ids=str,
)
def test_agrees_with_the_oracle(x64, options):
    if options.get("b2") == 0:
        options = options | {"eps1": 1e-3}  # Else what is left of a zero step is g / sqrt(eps).
    assert_is_the_oracle(given_gradients(), **options)


@pytest.mark.parametrize("factored_dims", ["largest", "last"])
@pytest.mark.parametrize("smallest", [1, 2, 3])
def test_agrees_with_the_oracle_whatever_the_order_of_the_axes(x64, smallest, factored_dims):
    shapes = [(2, 3, 4), (4, 2, 3), (2, 4, 2), (3, 3, 3), (2, 1, 5, 1), (1, 3)]
    gradients = tensor_gradients(*shapes, steps=3)
    options = {"factored_dims": factored_dims, "min_dim_size_to_factor": smallest}
    assert_is_the_oracle(gradients, **options)


def test_first_update_of_what_is_not_factored_is_the_sign():
    gradient = jnp.array([3.0, -1e-9, 0.0, -1e9])
    tx = nj.scale_by_factored_rms()
    update, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(update, [1, -1, 0, -1], rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("decay_rate", [0.5, 0.8, 1.0])
def test_rank_one_squares_are_factored_exactly(x64, decay_rate):
    rng = np.random.default_rng(0)
    row, column, scale = rng.normal(size=6), rng.normal(size=4), 2.0 ** rng.normal(size=10)
    # The average of one rank-one matrix, times any number, is of rank one.
    gradients = stacked([c * np.outer(row, column) for c in scale])
    factored = directions(nj.scale_by_factored_rms(decay_rate), gradients)
    whole = directions(nj.scale_by_factored_rms(decay_rate, factored=False), gradients)
    np.testing.assert_allclose(factored, whole, rtol=FLOAT64_TOLERANCE)
    np.testing.assert_allclose(np.sign(gradients[0]), factored[0], rtol=FLOAT64_TOLERANCE)


def test_last_axes_are_a_stack_of_matrices(x64):
    gradients = stacked(tensor_gradients((5, 4, 3)))["(5, 4, 3)"]
    tx = nj.scale_by_factored_rms(factored_dims="last")
    alone = [directions(tx, gradients[:, i]) for i in range(5)]
    np.testing.assert_allclose(
        directions(tx, gradients), np.stack(alone, axis=1), rtol=FLOAT64_TOLERANCE
    )


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_largest_axes_are_found_in_any_order(x64, axes):
    gradients = stacked(tensor_gradients((2, 3, 4)))["(2, 3, 4)"]
    order = (0, *(1 + axis for axis in axes))
    tx = nj.scale_by_factored_rms()
    expected = jnp.transpose(directions(tx, gradients), order)
    actual = directions(tx, jnp.transpose(gradients, order))
    np.testing.assert_allclose(actual, expected, rtol=FLOAT64_TOLERANCE)


def test_b2_as_a_function_gives_adams_bias_corrected_second_moment(x64):
    def corrected(step):
        return 0.9 * (1 - 0.9**step) / (1 - 0.9 ** (step + 1))

    gradients = given_gradients()
    tx = nj.scale_by_factored_rms(b2=corrected, factored=False)
    actual = directions(tx, stacked(gradients))
    expected = oracles.by_name(oracles.adam_directions, gradients, b1=0.0, b2=0.9, eps=1e-30)
    for name in actual:
        theirs = np.stack([e[name] for e in expected])
        np.testing.assert_allclose(actual[name], theirs, FLOAT64_TOLERANCE, FLOAT64_TOLERANCE)


@pytest.mark.parametrize("factored", [False, True])
def test_is_optax_with_the_decay_in_float64(x64, factored):
    gradients = stacked(given_gradients())
    tx = optax.scale_by_factored_rms(
        factored, min_dim_size_to_factor=2, decay_rate_fn=lambda i, c: 1 - (i + 1.0) ** -c
    )
    needs_params = optax.GradientTransformation(
        tx.init, lambda g, state: tx.update(g, state, params=g)
    )
    expected = directions(needs_params, gradients)
    actual = directions(nj.scale_by_factored_rms(factored=factored), gradients)
    for name in actual:
        np.testing.assert_allclose(
            actual[name], expected[name], FLOAT64_TOLERANCE, FLOAT64_TOLERANCE
        )


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_float32_serves_gradients_of_any_scale(scale):
    gradients = [scale * g["(6, 4)"].astype(np.float32) for g in tensor_gradients((6, 4), steps=5)]
    expected = oracles.factored_directions([g.astype(float) for g in gradients])
    actual = directions(nj.scale_by_factored_rms(), stacked(gradients, jnp.float32))
    np.testing.assert_allclose(actual, np.stack(expected), rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_rows_of_far_apart_sizes_neither_underflow_nor_overflow(dtype):
    row, column = 10.0 ** np.arange(-6, 7), 10.0 ** np.arange(-6, 7, 2)
    gradient = jnp.asarray(np.outer(row, column), dtype)  # 1e-12 to 1e12
    tx = nj.scale_by_factored_rms()
    update, _ = tx.update(gradient, tx.init(gradient))
    # One entry of a row is its mean, as far as bfloat16 tells.
    rtol = FLOAT32_RTOL if dtype == jnp.float32 else BFLOAT16_RTOL
    np.testing.assert_allclose(np.asarray(update, float), 1.0, rtol=rtol)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_zero_gradients_leave_as_zeros(dtype):
    shapes = {"matrix": (6, 4), "vector": (5,), "scalar": ()}
    zeros = {name: jnp.zeros((3, *shape), dtype) for name, shape in shapes.items()}
    for leaf in jax.tree.leaves(directions(nj.scale_by_factored_rms(), zeros)):
        assert leaf.dtype == dtype
        np.testing.assert_array_equal(np.asarray(leaf, float), 0.0)


def test_zeros_beside_a_huge_entry_leave_as_zeros():
    gradient = jnp.zeros((3, 2)).at[0, 0].set(1e12)
    tx = nj.scale_by_factored_rms()
    update, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(update, [[1, 0], [0, 0], [0, 0]], rtol=FLOAT32_RTOL)


def test_squares_that_overflow_freeze_an_entry_of_a_vector_and_spoil_a_matrix():
    tx = nj.scale_by_factored_rms()
    gradients = {
        "matrix": jnp.ones((3, 4, 2)).at[1, 0, 0].set(1e20),
        "vector": jnp.ones((3, 2)).at[1, 0].set(1e20),
    }
    actual = directions(tx, gradients)
    np.testing.assert_allclose(actual["vector"], [[1, 1], [0, 1], [0, 1]], rtol=FLOAT32_RTOL)
    assert not np.isfinite(actual["matrix"][1:]).any()


def test_16_bit_gradients_have_float32_statistics():
    gradients = jnp.full((50, 3, 3), 2.0**-12, jnp.float16)  # Whose squares are 2^-24: one ulp.
    tx = nj.scale_by_factored_rms(b2=0.999)
    state = tx.init(gradients[0])
    for gradient in gradients:
        update, state = tx.update(gradient, state)
    assert update.dtype == jnp.float16
    assert state.moments.row.dtype == state.moments.column.dtype == jnp.float32
    gain = 1 - 0.999**50
    np.testing.assert_allclose(state.moments.row, 2.0**-24 * gain, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(update, float), gain**-0.5, rtol=2.0**-10)


def test_constant_b2_forms_its_complement_in_float64():
    gradient = jnp.ones((2, 2))
    tx = nj.scale_by_factored_rms(b2=0.9999)
    _, state = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(state.moments.row, 1e-4, rtol=FLOAT32_RTOL)
    capped = nj.scale_by_factored_rms(b2_cap=0.9999, decay_rate=9.0)
    late = capped.init(gradient)._replace(count=jnp.int32(999))
    _, state = capped.update(gradient, late)
    np.testing.assert_allclose(state.moments.row, 1e-4, rtol=FLOAT32_RTOL)


def test_weights_far_into_a_run():
    tx = nj.scale_by_factored_rms()
    state = tx.init(jnp.ones(()))._replace(count=jnp.int32(10**6 - 1), moments=jnp.zeros(()))
    _, state = tx.update(jnp.ones(()), state)
    np.testing.assert_allclose(state.moments, 1e6**-0.8, rtol=FLOAT32_RTOL)
    assert state.count == 10**6


@pytest.mark.parametrize(
    ("shape", "options", "row", "column"),
    [
        ((6, 4), {}, (4,), (6,)),
        ((4, 4), {}, (4,), (4,)),
        ((2, 3, 4), {}, (2, 3), (2, 4)),
        ((4, 3, 2), {}, (3, 2), (4, 2)),
        ((4, 3, 2), {"factored_dims": "last"}, (4, 3), (4, 2)),
        ((4, 1, 5), {"factored_dims": "largest"}, (4, 1), (1, 5)),
        ((4, 1), {"min_dim_size_to_factor": 1}, (1,), (4,)),
    ],
)
def test_moments_of_factored_leaves(shape, options, row, column):
    tx = nj.scale_by_factored_rms(**options)
    state = tx.init(jnp.zeros(shape))
    assert isinstance(state.moments, FactoredMoment)
    assert (state.moments.row.shape, state.moments.column.shape) == (row, column)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((), {}),
        ((7,), {}),
        ((4, 1), {}),
        ((0, 5), {"min_dim_size_to_factor": 1}),
        ((6, 4), {"factored": False}),
        ((6, 4), {"min_dim_size_to_factor": 5}),
        ((4, 1, 5), {"factored_dims": "last"}),
    ],
)
def test_moments_of_whole_leaves(shape, options):
    assert nj.scale_by_factored_rms(**options).init(jnp.zeros(shape)).moments.shape == shape


def test_state_has_no_waste():
    params = {"kernel": jnp.zeros((1000, 500)), "bias": jnp.zeros(500)}
    state = nj.scale_by_factored_rms().init(params)
    assert sum(x.size for x in jax.tree.leaves(state)) == 1000 + 500 + 500 + 1


def test_fits_optax_tree_map_params():
    params = {"a": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones(3), "c": None}
    tx = nj.scale_by_factored_rms()
    _, fresh = tx.update(params, tx.init(params))
    doubled = optax.tree_map_params(tx, lambda x: 2 * x, fresh)
    np.testing.assert_array_equal(doubled.moments["a"].row, 2 * fresh.moments["a"].row)
    assert doubled.count == fresh.count


def test_leaves_of_one_shape_are_traced_once():
    params = {f"layer_{i}": jnp.ones((3, 2)) for i in range(20)}
    tx = nj.scale_by_factored_rms()
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params))
    # One call a leaf, and a dozen equations for the decay and the count.
    assert len(jaxpr.eqns) <= 20 + 12


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"decay_rate": 0.0}, ValueError, "`decay_rate` must be positive and finite, got 0."),
        ({"decay_rate": "x"}, TypeError, "`decay_rate` must be positive and finite, got 'x'."),
        ({"b2": 1.0}, ValueError, "`b2` must lie in [0, 1), got 1."),
        ({"b2_cap": 1.5}, ValueError, "`b2_cap` must lie in [0, 1], got 1.5."),
        ({"eps": 0.0}, ValueError, "`eps` must be positive and finite, got 0."),
        ({"eps": math.nan}, ValueError, "`eps` must be positive and finite, got nan."),
        ({"factored": 1}, TypeError, "`factored` must be True or False, got 1."),
        (
            {"min_dim_size_to_factor": 0},
            ValueError,
            "`min_dim_size_to_factor` must be an integer of at least 1, got 0.",
        ),
        (
            {"min_dim_size_to_factor": 2.0},
            TypeError,
            "`min_dim_size_to_factor` must be an integer of at least 1, got 2.0.",
        ),
        (
            {"factored_dims": "first"},
            ValueError,
            "`factored_dims` must be one of 'largest', 'last', got 'first'.",
        ),
    ],
    ids=str,
)
def test_rejects(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.scale_by_factored_rms(**options)


def test_rejects_a_traced_size():
    with pytest.raises(TypeError, match="`min_dim_size_to_factor` must be a Python integer"):
        jax.jit(lambda n: nj.scale_by_factored_rms(min_dim_size_to_factor=n).init(1.0))(2)
