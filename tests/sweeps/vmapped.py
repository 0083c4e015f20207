"""What the tests of lanes share: functions of (a, b), held to what they are vmapped."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._tracing import program_of
from nested_jax.sweeps.grid import column_in_jax
from nested_jax.sweeps.lanes._interpreter import Layout

RTOL = 1e-12  # A few hundred roundings of float64; sums may add up in another order.
ATOL = 1e-13  # Where terms of order 1 cancel.
# Along the first axis, of three points, in an order that is not the grid's.
IN_PIECES = Layout(0, ((1,), (0, 2)), (frozenset(), frozenset()))
# Fifteen points: the last of sixteen lanes is filled up.
AXES = ({"a": [0.3, 0.45, 0.7]}, {"b": [0.2, 0.35, 0.5, 0.65, 0.8]})
ROW, GRID = np.array([0.9, 1.0, 1.1]), np.linspace(0.8, 1.2, 6).reshape(2, 3)


def in_jax(axes):
    """Return columns as a job would hand them on."""
    return tuple({k: column_in_jax(k, np.asarray(c)) for k, c in axis.items()} for axis in axes)


def values(run, layout, columns):
    """Return the outputs of `run` on the product of the axes."""
    run = Partial(run)
    lowered = evaluate.lower((), layout, program_of((), run, columns), run, columns)
    # What LLVM makes of it is tested with whole sweeps: most of the time of a test is its.
    return lowered.compile({"xla_backend_optimization_level": 0})(run, columns)


def assert_is_vmap(run, layout=IN_PIECES, axes=AXES, rtol=RTOL, atol=ATOL):
    """Raise unless `run` gives in lanes what it gives vmapped."""
    columns = in_jax(axes)
    expected, actual = (values(run, each, columns) for each in (None, layout))
    kinds = [{k: (x.shape, x.dtype) for k, x in each.items()} for each in (actual, expected)]
    assert kinds[0] == kinds[1]
    for name, value in expected.items():
        wide = complex if jnp.iscomplexobj(value) else float
        given = np.asarray(actual[name]).astype(wide), np.asarray(value).astype(wide)
        np.testing.assert_allclose(*given, rtol=rtol, atol=atol, err_msg=name)


def as_run(table):
    """Return a run with an output, or several, of each function of (a, b) in a table."""

    def run(a, b):
        outputs = {}
        for name, function in table.items():
            values = jax.tree.leaves(function(a, b))
            outputs |= {f"{name} {i}": value for i, value in enumerate(values)}
        return outputs

    return run


def scan(step, start, xs=None, **options):
    return lax.scan(step, start, xs, **{"length": 4} | options)
