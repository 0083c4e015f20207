"""Tests of evaluation in lanes against vmap: every rule, dtypes, and any program."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import Partial

from nested_jax._core.jaxpr import all_eqns
from nested_jax.sweeps.engine._tracing import trace
from nested_jax.sweeps.lanes import _layout, _rules
from nested_jax.sweeps.lanes._layout import layout_of
from tests.sweeps.vmapped import (
    AXES,
    GRID,
    IN_PIECES,
    ROW,
    RTOL,
    as_run,
    assert_is_vmap,
    in_jax,
    scan,
    values,
)

KEY = jax.random.key(0)


def primitives(run, axes=AXES):
    """Return the names of all primitives of a run."""
    return {eqn.primitive.name for eqn in all_eqns(trace((), Partial(run), in_jax(axes)).jaxpr)}


# --- Rules ---

UNARY = """
    abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf
    erf_inv erfc exp exp2 expm1 floor is_finite lgamma log log1p logistic neg round rsqrt sign sin
    sinh sqrt square stop_gradient tan tanh
"""
BINARY = "add atan2 div eq ge gt le lt max min mul ne nextafter pow rem sub"
INTEGER = "bitwise_and bitwise_or bitwise_xor shift_left shift_right_arithmetic shift_right_logical"
INTEGER_UNARY = "bitwise_not clz population_count"


def unary(name):
    function = getattr(lax, name)
    offset = 1.0 if name == "acosh" else 0.0
    return lambda a, b: [function(x + offset) for x in (a, a * b * ROW)]


def binary(name):
    function = getattr(lax, name)
    # Equal numbers, too: what compares them must see it.
    return lambda a, b: [
        function(a, b),
        function(a * GRID, b * GRID),
        function(jnp.round(3 * a * ROW), jnp.round(3 * b * ROW)),
        function(jnp.asarray(ROW), b * ROW),
    ]


def integers(name):
    function = getattr(lax, name)
    x = lambda a: (9 * a * GRID).astype(int)  # noqa: E731
    return lambda a, b: function(x(a), x(b)) if name in INTEGER else function(x(a * b))


ELEMENTWISE = {name: unary(name) for name in UNARY.split()}
ELEMENTWISE |= {name: binary(name) for name in BINARY.split()}
ELEMENTWISE |= {name: integers(name) for name in (INTEGER + " " + INTEGER_UNARY).split()}
ELEMENTWISE |= {
    "add_any": lambda a, b: jax.grad(lambda x: jnp.sin(x) * x * b)(a),
    "clamp scalars": lambda a, b: lax.clamp(0.5 * b, a * GRID, 0.6),
    "clamp arrays": lambda a, b: lax.clamp(a * ROW, jnp.asarray(ROW) * 0.5, 2 * b * ROW),
    "convert": lambda a, b: [(9 * a * ROW).astype(int), (b > 0.4).astype(float), a + b * 1j],
    "copy": lambda a, b: jnp.array(a * b * ROW, copy=True),
    "integer_pow": lambda a, b: (a * b * ROW) ** 3,
    "not": lambda a, b: ~(a * ROW > b),
    "reduce_precision": lambda a, b: lax.reduce_precision(a * b * ROW, 5, 10),
    "select scalar": lambda a, b: jnp.where(a > 0.4, a * GRID, b * GRID),
    "select array": lambda a, b: jnp.where(a * GRID > b, a, jnp.asarray(GRID)),
    "select of neither": lambda a, b: jnp.where(a > b, jnp.asarray(GRID), 0.0),
    "select of three": lambda a, b: lax.select_n((3 * a).astype(int), a * ROW, b * ROW, ROW),
    "complex": lambda a, b: [jnp.conj(a + 1j * b * ROW).imag, abs(a + 1j * b)],
    "of no entries": lambda a, b: jnp.where(jnp.arange(0) < a, b, a) + jnp.zeros((2, 0)),
}

MIXED = lambda a, b: jnp.sin(7.0 * a * GRID + jnp.outer(jnp.arange(2.0), b * ROW))  # noqa: E731


def along(function):
    return lambda a, b: [function(MIXED(a, b)), function(b * GRID, 1), function(a * ROW)]


def backwards(function):
    return lambda a, b: function(MIXED(a, b), axis=1, reverse=True)


CUMULATIVE = (lax.cumsum, lax.cumprod, lax.cummax, lax.cummin, lax.cumlogsumexp)
REDUCTIONS = (jnp.sum, jnp.prod, jnp.max, jnp.min, jnp.argmax, jnp.argmin, jnp.mean)
ALONG = {f.__name__: along(f) for f in CUMULATIVE + REDUCTIONS}
ALONG |= {f"reversed {f.__name__}": backwards(f) for f in CUMULATIVE[::2]}
ALONG |= {
    "any": lambda a, b: (MIXED(a, b) > 0.9).any(0),
    "all": lambda a, b: (MIXED(a, b) > 0.1).all(1),
    "xor": lambda a, b: lax.reduce_xor((9 * MIXED(a, b)).astype(int), (0,)),
    "rev": lambda a, b: [MIXED(a, b)[::-1], MIXED(a, b)[:, ::-1], jnp.flip(MIXED(a, b))],
    "split": lambda a, b: [lax.split(MIXED(a, b), (1, 2), 1), lax.split(b * GRID, (1, 1), 0)[1]],
    "argmax of equals": lambda a, b: jnp.argmax(jnp.round(a * GRID), 1),
    "argmax of NaN": lambda a, b: jnp.argmax(jnp.log(MIXED(a, b) - 0.5), 1),
    "sum of nothing": lambda a, b: (a * jnp.zeros((3, 0))).sum(1) + b,
}

MOVED = {
    "broadcast": lambda a, b: [
        jnp.broadcast_to(a, (2, 3)),
        jnp.broadcast_to((b * ROW)[:, None], (3, 2)),
        lax.broadcast_in_dim(MIXED(a, b), (2, 4, 3), (0, 2)),
    ],
    "reshape": lambda a, b: [MIXED(a, b).reshape(3, 2), MIXED(a, b).ravel(), a.reshape(1, 1)],
    "reshape in another order": lambda a, b: lax.reshape(MIXED(a, b), (3, 2), (1, 0)),
    "squeeze": lambda a, b: lax.squeeze(MIXED(a, b).reshape(1, 2, 1, 3), (0, 2)),
    "transpose": lambda a, b: [MIXED(a, b).T, jnp.transpose(MIXED(a, b)[None], (2, 0, 1))],
    "slice": lambda a, b: [MIXED(a, b)[1:, :2], lax.slice(b * GRID, (0, 0), (2, 3), (1, 2))],
    "concatenate": lambda a, b: [
        jnp.concatenate([a * GRID, MIXED(a, b), GRID], 1),
        jnp.stack([a, b, 1.0]),
    ],
    "pad": lambda a, b: [
        lax.pad(MIXED(a, b), 0.5, ((1, 0, 2), (0, 2, 0))),
        lax.pad(MIXED(a, b), 0.0, ((0, 0, 0), (-1, 1, 0))),
        lax.pad(a * ROW, b, ((1, 2, 0),)),
        lax.pad(jnp.asarray(ROW), a, ((1, 2, 1),)),
    ],
    "dynamic slice": lambda a, b: [
        lax.dynamic_slice(MIXED(a, b), (0, 1), (2, 2)),
        lax.dynamic_slice(MIXED(a, b), (0, (3 * a).astype(int)), (1, 2)),
        lax.dynamic_slice(jnp.asarray(GRID), ((3 * b).astype(int), 9), (1, 2)),
        lax.dynamic_slice(a * GRID, (jnp.argmax(ROW) - 1, -1), (1, 2)),
    ],
}

LEFT = np.linspace(-1, 1, 12).reshape(2, 3, 2)
LONG = np.linspace(-1, 1, 2400).reshape(2, 1200)
# Subscripts of a, of b, and shapes: sums, batches and free axes of each side in every position.
PRODUCTS = {
    "i,i->": ((3,), (3,)),
    "ij,j->i": ((2, 3), (3,)),
    "i,ij->j": ((3,), (3, 2)),
    "ij,jk->ik": ((2, 3), (3, 2)),
    "ji,jk->ik": ((3, 2), (3, 4)),
    "ij,kj->ik": ((2, 3), (4, 3)),
    "i,j->ij": ((2,), (3,)),
    "bi,bi->b": ((2, 3), (2, 3)),
    "bij,bjk->bik": ((2, 3, 2), (2, 2, 4)),
    "ibj,jkb->bik": ((3, 2, 4), (4, 1, 2)),
    "ijk,jki->": ((2, 3, 4), (3, 4, 2)),
    "abij,abjk->abik": ((2, 1, 2, 3), (2, 1, 3, 2)),
}


def product(subscripts, left, right):
    x, y = (np.sin(np.arange(np.prod(s), dtype=float)).reshape(s) for s in (left, right))
    return lambda a, b: [
        jnp.einsum(subscripts, x + a, jnp.cos(y * b)),
        jnp.einsum(subscripts, jnp.cos(a * b * x), y),
        jnp.einsum(subscripts, x, y + b),
    ]


DOTS = {name: product(name, *shapes) for name, shapes in PRODUCTS.items()}
DOTS |= {
    "above the most terms": lambda a, b: [(a + LONG) @ jnp.cos(b * LONG[0]), LONG @ (a * LONG[1])],
    "with itself": lambda a, b: jnp.dot(a * b * ROW, a * b * ROW),
    "of narrow integers": lambda a, b: [
        x @ x
        for x in ((9 * a * ROW).astype(t) for t in (jnp.int8, jnp.uint8, jnp.int16, jnp.bool_))
    ],
    "to wider and to narrower numbers": lambda a, b: [
        jnp.dot(x(100 * a), x(100 * b), preferred_element_type=wide)
        for x, wide in (
            (lambda y: jnp.full(3, y).astype(jnp.int8), jnp.int32),
            (lambda y: jnp.full(3, y, jnp.bfloat16), jnp.float32),
            (lambda y: jnp.full(3, y + 1 / 3), jnp.float32),
        )
    ],
    "of complex numbers": lambda a, b: (a * ROW * 1j) @ (b * ROW + 1j),
}

FOREIGN = {
    "sort": lambda a, b: [jnp.sort(MIXED(a, b), 0), jnp.argsort(MIXED(a, b), 1)],
    "gather": lambda a, b: [
        MIXED(a, b)[:, jnp.array([2, 0])],
        (a * ROW)[(3 * b).astype(int)],
        jnp.asarray(ROW)[jnp.argsort(b * ROW)],
    ],
    "scatter": lambda a, b: [
        (a * ROW).at[1].set(b),
        MIXED(a, b).at[(3 * b).astype(int), 0].add(a),
        jnp.asarray(ROW).at[jnp.array([0, 0])].max(a * b),
    ],
    "random": lambda a, b: [
        jax.random.normal(jax.random.key((9 * a).astype(int)), (2,)),
        jax.random.uniform(jax.random.fold_in(KEY, (9 * b).astype(int))) * a,
        jax.random.split(KEY, 3).shape[0] * jax.random.bernoulli(KEY, a, (2,)),
        jax.random.key_data(jax.random.split(jax.random.key((9 * b).astype(int)), 3)),
    ],
    "keys in conditions": lambda a, b: jax.random.normal(
        jnp.where(a > 0.4, jax.random.key(1), jax.random.split(KEY)[1])
    ),
    "fft": lambda a, b: abs(jnp.fft.fft(MIXED(a, b))),
    "convolution": lambda a, b: jnp.convolve(a * ROW, b + ROW),
    "cholesky": lambda a, b: jnp.linalg.cholesky(jnp.eye(3) + a * jnp.outer(b * ROW, b * ROW)),
    "triangular": lambda a, b: lax.linalg.triangular_solve(
        jnp.eye(3) + a * jnp.tril(jnp.ones((3, 3))), (b * ROW)[:, None], left_side=True, lower=True
    ),
    "top k": lambda a, b: lax.top_k(MIXED(a, b), 2),
    "window": lambda a, b: lax.reduce_window(MIXED(a, b), 0.0, lax.add, (1, 2), (1, 1), "SAME"),
    "branch": lambda a, b: lax.cond(a > b, lambda: a * ROW, lambda: b + ROW),
    "loop without a count": lambda a, b: lax.while_loop(
        lambda x: x < a, lambda x: x + b, jnp.zeros(())
    ),
    "linear solve": lambda a, b: jnp.linalg.solve(jnp.eye(3) + a * GRID.T @ GRID, b * ROW),
}


def test_the_tables_are_complete(x64):
    assert primitives(as_run(ELEMENTWISE)) | {"copy_p"} >= _rules.ELEMENTWISE
    assert primitives(as_run(ALONG)) >= _rules.ALONG_OWN_AXES
    own = _rules.RULES.keys() - _rules.ELEMENTWISE - _rules.ALONG_OWN_AXES
    assert primitives(as_run(MOVED | DOTS)) >= own
    assert not primitives(as_run(FOREIGN)) <= _rules.NATIVE


def test_rules_of_entries(x64):
    assert_is_vmap(as_run(ELEMENTWISE))


def test_rules_of_own_axes(x64):
    assert_is_vmap(as_run(ALONG))


def test_rules_that_move_entries(x64):
    assert_is_vmap(as_run(MOVED), rtol=0, atol=0)


def test_rules_of_products(x64):
    assert_is_vmap(as_run(DOTS))


def test_what_has_no_rule_is_vmapped(x64):
    assert_is_vmap(as_run(FOREIGN))


def test_a_large_product_is_left_to_vmap(x64):
    table = {"large": DOTS["above the most terms"], "small": DOTS["ij,j->i"]}
    program = trace((), Partial(as_run(table)), in_jax(AXES)).jaxpr
    dots = [eqn for eqn in all_eqns(program) if eqn.primitive.name == "dot_general"]
    assert [_rules.is_native(eqn) for eqn in dots] == [False] * 2 + [True] * 3


# --- Dtypes ---


def of_all_dtypes(a, b):
    def affine(x):
        return {k: v * jnp.asarray(b, v.dtype) + jnp.asarray(a, v.dtype) for k, v in x.items()}

    def squares(x):
        return {k: v * v + jnp.asarray(1, v.dtype) for k, v in x.items()}

    row = jnp.arange(3.0)
    floats = {t: jnp.ones(2, t) for t in NARROW}
    whole = {t: jnp.full(2, 9 * a).astype(t) for t in ("int8", "uint8", "int16", "int32", "uint32")}
    return [
        scan(lambda x, _: (affine(x), x), floats),
        scan(lambda x, _: (squares(x), x), whole),
        scan(lambda x, _: (x ^ (a * row > b), ~x), jnp.zeros(3, bool)),
        [jnp.bfloat16(1.5) * a, 2 * (a > b), np.float32(2) * jnp.ones(2, jnp.bfloat16) * b],
        [jnp.dot(x, x) for x in (jnp.full(3, a, jnp.bfloat16), jnp.full(3, b, jnp.float16))],
    ]


# Products and sums may be rounded as one, or apart, in each of four steps.
NARROW = {"bfloat16": 2**-6, "float16": 2**-9, "float32": 2**-20}


@pytest.mark.parametrize("wide", [False, True])
def test_dtypes_are_kept(wide):
    run = as_run({"x": of_all_dtypes})
    with jax.enable_x64(wide):
        columns = in_jax(AXES)
        expected, actual = (values(run, layout, columns) for layout in (None, IN_PIECES))
    assert {str(x.dtype) for x in expected.values()} >= {*NARROW, "int8", "uint32", "bool"}
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        given = np.asarray(actual[name]).astype(float), np.asarray(value).astype(float)
        np.testing.assert_allclose(*given, NARROW.get(str(value.dtype), RTOL), err_msg=name)


# --- Anything ---

# Among numbers and arrays of shapes (3,) and (2, 3).
UNARIES = {
    "sin": jnp.sin,
    "sum": lambda x: x.sum(0) if x.ndim else x,
    "max": lambda x: x.max(0) if x.ndim == 2 else x,
    "cumsum": lambda x: jnp.tanh(jnp.cumsum(x, -1)) if x.ndim else x,
    "reversed": lambda x: x[..., ::-1] if x.ndim else -x,
    "turned": lambda x: x.T.reshape(2, 3) if x.ndim == 2 else x,
    "spread": lambda x: jnp.broadcast_to(x, (2, 3)),
    "sorted": lambda x: jnp.sort(x, -1) if x.ndim else x,
    "steps": lambda x: scan(lambda y, _: (jnp.tanh(y) * x, None), x, length=2)[0],
}
BINARIES = {
    "plus": jnp.add,
    "times": jnp.multiply,
    "where": lambda x, y: jnp.where(x > y, x, 0.5 * y),
    "dot": lambda x, y: jnp.tanh(x @ y) if x.ndim == y.ndim == 1 else x - y,
    "steps with": lambda x, y: scan(
        lambda z, i: (0.5 * z + i * x, z), y + jnp.zeros_like(x), jnp.arange(2.0), length=2
    )[1][1],
}
PLAN = st.lists(
    st.tuples(st.sampled_from([*UNARIES, *BINARIES]), st.integers(0, 20), st.integers(0, 20)),
    min_size=4,
    max_size=8,
)


# Examples are not made smaller: each is compiled twice.
@hypothesis.settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[hypothesis.Phase.generate],
)
@hypothesis.given(
    plan=PLAN,
    levels=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    rates=st.integers(1, 4),
    first=st.booleans(),
)
def test_any_program_is_that_of_vmap(plan, levels, rates, first):
    def run(levels, rate, shift):
        # Numbers, own axes and axes of the grid in all combinations, and a stage that some lack.
        pool = [rate, levels * jnp.arange(1.0, 4.0), shift * jnp.ones((2, 3)), jnp.arange(3.0)]
        for name, i, j in plan:
            x, y = pool[i % len(pool)], pool[j % len(pool)]
            made = UNARIES[name](x) if name in UNARIES else BINARIES[name](x, y)
            pool.append(jnp.where(levels > i % 4, made, 0.5 * made))
        return {str(i): x for i, x in enumerate(pool)}

    axes = [{"levels": levels}, {"rate": np.linspace(0.1, 0.9, rates)}, {"shift": [0.4, -0.3]}]
    axes = axes if first else axes[::-1]
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_layout, "_pays", lambda *_: True)
        patch.setattr(_layout, "LANES_OF_A_PIECE", {4: 4, 8: 4})
        columns = in_jax(axes)
        program = trace((), Partial(run), columns).jaxpr
        layout = layout_of(program, columns, [True] * 3)
        assert_is_vmap(run, layout, axes)
