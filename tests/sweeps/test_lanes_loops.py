"""Tests of loops, and of functions within functions, in lanes against vmap."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.sweeps.test_lanes import LEFT
from tests.sweeps.vmapped import ROW, as_run, assert_is_vmap, scan


def fibonacci(carry, _):
    # The first depends on the second's axis in the second step, the last in the third.
    first, second, last = carry
    return (first + second, second * 0.5, last + first), last


def nested(a, b):
    def outer(carry, x):
        def inner(carry, y):
            return carry * 0.5 + y * b + x, carry + a

        last, all_of = scan(inner, carry, a * jnp.arange(3.0), length=3)
        return last, (all_of, last * x)

    return scan(outer, jnp.zeros(()), b * jnp.arange(4.0))


def thrice(a, b):
    def outermost(carry, _):
        def outer(carry, _):
            # Spread in the innermost loop, from each place around it.
            near = carry * b

            def inner(x, _):
                return 0.5 * x + near * ROW + a * ROW - b, None

            return scan(inner, carry * ROW, length=2)[0].sum() * 0.1, near

        return scan(outer, carry, length=2)

    return scan(outermost, a, length=2)


def of_stacked(a, b):
    ys = scan(lambda x, _: (x * 0.5 + a, (x, x * ROW, 1.0)), jnp.ones(()))[1]
    return scan(lambda x, y: (x + b * y[0] + y[1].sum() * y[2], x), b, ys)


def two_in_a_row(a, b):
    # Both ask for the same value, spread likewise, each in its own loop.
    row = a * ROW
    first = scan(lambda x, _: (0.5 * x + row * b, None), jnp.zeros(3))[0]
    return scan(lambda x, _: (0.5 * x - row * b, row), first)


def used_again(a, b):
    row = a * ROW

    def outer(x, _):
        return scan(lambda y, _: (0.5 * y + row * y, None), x, length=2)[0], None

    # What was spread in the loops is not there any more.
    last = scan(outer, b * ROW, length=2)[0]
    return row * last


def keys_carried(a, b):
    def step(key, _):
        key, own = jax.random.split(key)
        return key, jax.random.normal(own, (2,)) * b

    return scan(step, jax.random.key((9 * a).astype(int)))[1]


SCANS = {
    "constants": lambda a, b: scan(lambda x, _: (0.5 * x + a * ROW, x.sum() * b), jnp.zeros(3)),
    "carry": lambda a, b: scan(lambda x, _: (0.5 * x, None), a * b * ROW),
    "xs": lambda a, b: scan(lambda x, y: (x * 0.5 + y, x * b), 0.0, a * jnp.arange(4.0)),
    "xs of rows": lambda a, b: scan(lambda x, y: (x + y @ ROW, y), b, a * LEFT.reshape(4, 3)),
    "xs without lanes": lambda a, b: scan(lambda x, y: (x * a + y, y), b, jnp.arange(4.0)),
    "reverse": lambda a, b: scan(
        lambda x, y: (x * b + y, x), 0.0, a * jnp.arange(4.0), reverse=True
    ),
    "unrolled": lambda a, b: scan(lambda x, _: (x * b + a, x), 0.0, length=5, unroll=2),
    "later": lambda a, b: scan(fibonacci, (jnp.zeros(()), a, b)),
    "ys without lanes": lambda a, b: scan(lambda x, _: (x + a, (2.0, ROW, b)), 0.0),
    "no steps": lambda a, b: scan(lambda x, _: (x + a, x), b, length=0),
    "a count": lambda a, b: scan(
        lambda x, _: ((x[0] + 1, jnp.where(x[0] > 2, x[1] + a, x[1])), x[0]), (0, b)
    ),
    "sums of several": lambda a, b: lax.fori_loop(0, 5, lambda i, x: x * b + i * a, 0.0),
    "mapped": lambda a, b: lax.map(lambda x: x * a, b * ROW),
    "swapped": lambda a, b: scan(lambda x, _: ((x[1], x[0]), x[0]), (a, jnp.asarray(b * 2))),
    "out of use": lambda a, b: scan(lambda x, _: ((x[0] + a, x[1] * b), x), (0.0, 1.0))[0][0],
    "nested": nested,
    "thrice": thrice,
    "of stacked": of_stacked,
    "two in a row": two_in_a_row,
    "used again": used_again,
    "keys": keys_carried,
    "a large constant": lambda a, b: scan(
        lambda x, _: (0.5 * x + (jnp.arange(70_000.0) * 1e-5 + a)[::10_000] * b, None),
        jnp.zeros(7),
    ),
}


def test_loops(x64):
    assert_is_vmap(as_run(SCANS))


@jax.custom_vjp
def half_gradient(x):
    return x * x


half_gradient.defvjp(lambda x: (x * x, x), lambda x, g: (g * x,))


def trained(a, b, function):
    """Return what descends on a function: its gradient in a loop."""
    loss = lambda x: function(x).sum() + b * (x @ x)  # noqa: E731
    return scan(lambda x, _: (x - a * jax.grad(loss)(x), loss(x)), jnp.asarray(ROW))


CALLS = {
    "jit": jax.jit(jnp.sin),
    "nested jit": jax.jit(lambda x: jax.jit(jnp.sin)(x) * x),
    "softplus": jax.nn.softplus,
    "relu": jax.nn.relu,
    "logsumexp": jax.nn.logsumexp,
    "softmax": lambda x: jax.nn.softmax(x)[0],
    "custom_vjp": half_gradient,
    "remat": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    "norm": jnp.linalg.norm,
    "hessian": lambda x: jax.hessian(lambda y: jnp.prod(jnp.sin(y)))(x),
    "jvp": lambda x: jax.jvp(jnp.cumsum, (x,), (x * x,))[1],
    "loop": lambda x: scan(lambda y, _: (jnp.sin(y) * x, None), x)[0],
    "batched": jax.vmap(lambda y: jnp.where(y > 1, y, jnp.sin(y))),
}


def test_functions_within_functions_and_their_gradients(x64):
    table = {
        name: lambda a, b, f=f: [f(a * b * ROW), trained(a, b, f)] for name, f in CALLS.items()
    }
    assert_is_vmap(as_run(table))
