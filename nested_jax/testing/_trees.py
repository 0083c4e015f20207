"""Checks of arguments: trees of every kind, with or without `params`, on every device."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nested_jax.testing._case import (
    Case,
    assert_avals,
    assert_close,
    assert_finite,
    assert_shapes,
    example,
    explained,
    fail,
    run,
)


def check_params_argument(case: Case) -> None:
    """Assert that updates are the same without parameters if these are not needed.

    Where they are needed, their absence must be a ValueError whose message has the word `params`.
    """
    tx = case.build()
    params, gradients = example(), example(seed=1)
    state = tx.init(params)
    if not case.needs_params:
        with explained(case, "an update without `params`"):
            without = tx.update(gradients, state)
            later, _ = tx.update(gradients, without[1])
        expected = tx.update(gradients, state, params)
        assert_avals(case, "an update without `params`", without, expected)
        what = "the update without `params`, which it is said not to need, against that with them"
        assert_close(case, what, without[0], expected[0])
        assert_close(case, what, later, tx.update(gradients, expected[1], params)[0])
        return
    try:
        jax.eval_shape(tx.update, gradients, state)
    except Exception as error:
        if isinstance(error, ValueError) and "params" in str(error):
            return
        raise AssertionError(
            f"{case.name}: an update without `params` raised no ValueError that names them, but "
            f"{type(error).__name__}: {error}"
        ) from error
    fail(case, "an update without `params` raised no ValueError")


def check_extra_arguments(case: Case) -> None:
    """Assert that after `optax.with_extra_args_support` unknown extra arguments change nothing.

    `optax.chain` hands all its extra arguments to all its links.
    """
    tx = optax.with_extra_args_support(case.build())
    params, gradients = example(), example(seed=1)
    state = tx.init(params)
    extra = {"value": jnp.zeros(()), "an_argument_nobody_knows": jnp.ones(2)}
    with explained(case, "an update with extra arguments"):
        actual = jax.eval_shape(functools.partial(tx.update, **extra), gradients, state, params)
    expected = jax.eval_shape(tx.update, gradients, state, params)
    assert_avals(case, "an update with extra arguments", actual, expected)


def check_odd_trees(case: Case) -> None:
    """Assert that None leaves, empty trees, single arrays and leaves of size 0 work.

    Updates have the structure and shapes of their gradients and are finite; leaves without
    entries change nothing for the others; and if one entry reaches only itself, a leaf cut in two
    gives two halves of the same update.
    """
    tx = case.build()
    params, gradients = example(), example(seed=1)

    def beside(tree):
        holes = {"none": None, "tuple": (), "dict": {}, "masked": optax.MaskedNode()}
        return {"tree": tree, "flat": jnp.zeros((0, 3)), "void": jnp.zeros(0), "holes": holes}

    def cut(tree):
        flat = tree["weight"].ravel()
        return [flat[:5], flat[5:].reshape(-1, 1)]

    trees = {
        "an ordinary tree": lambda x: x,
        "a tree with None and size-0 leaves": beside,
        "leaves cut in two": cut,
        "an empty dict": lambda _: {},
        "an empty tuple": lambda _: (),
        "a bare scalar": lambda x: x["bias"][0],
        "a bare vector": lambda x: x["bias"],
    }
    if not case.needs_params:  # None as parameters means that there are none.
        trees["None"] = lambda _: None
    results = {}
    for name, odd in trees.items():
        where = f"the update of {name}"
        with explained(case, where):
            results[name] = run(tx, odd(params), [odd(gradients)] * 2)[1]
        assert_shapes(case, where, results[name], odd(gradients))
        assert_finite(case, where, results[name])
    ordinary = results["an ordinary tree"]
    actual = results["a tree with None and size-0 leaves"]["tree"]
    assert_close(case, "the update beside None and size-0 leaves", actual, ordinary)
    if case.reach == "entry":
        actual = results["leaves cut in two"]
        what = "the update of a leaf cut in two (`reach` is 'entry'; a norm of a leaf needs 'leaf')"
        assert_close(case, what, actual, cut(ordinary))


def check_sharding(case: Case) -> None:
    """Assert that parameters sharded over all devices get the same updates.

    With axes whose sharding the compiler finds (`AxisType.Auto`); and that the program is well
    typed where sharding is part of the type (`AxisType.Explicit`). Tells nothing on one device:
    start JAX with several, on CPU by `jax.config.update("jax_num_cpu_devices", 2)` before its
    first use.
    """
    count = jax.device_count()
    params, gradients = example(rows=2 * count), example(seed=1, rows=2 * count)
    tx = case.build()

    def solve(params, gradients):
        return tx.update(gradients, tx.init(params), params)[0]

    expected = solve(params, gradients)
    for kind in (AxisType.Auto, AxisType.Explicit):
        what = f"the update of sharded parameters ({kind.name} axes)"
        mesh = jax.make_mesh((count,), ("devices",), axis_types=(kind,))
        shardings = {
            "bias": NamedSharding(mesh, P()),
            "scale": NamedSharding(mesh, P()),
            "weight": NamedSharding(mesh, P("devices")),
        }
        with explained(case, what):
            cut = jax.device_put((params, gradients), (shardings, shardings))
            if kind is AxisType.Auto:
                actual = jax.jit(lambda *args: solve(*args))(*cut)
                assert_close(case, what, actual, expected)
            else:
                jax.jit(lambda *args: solve(*args)).lower(*cut)
