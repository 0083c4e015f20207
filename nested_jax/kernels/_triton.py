"""What the kernels need of Pallas' Triton backend: it is used here, and nowhere else.

JAX has deprecated this backend since 0.11.2 and will remove it. Lowering a kernel then warns
(`DeprecationWarning`), which is JAX's to say. Once it is removed, `implementation="pallas"` is an
error that names `"scan"`; the scan and the interpreted kernels need nothing of it.

- `CompilerParams(num_warps=, num_stages=)`, since JAX 0.7.
- `elementwise_inline_asm`, for a multiply-add that is rounded once: left to itself, Triton
  multiplies and then adds.
"""

from typing import Any

import jax

# Letter and bits of a register that holds a number of so many bytes.
REGISTERS = {4: ("f", 32), 8: ("d", 64)}


def _triton() -> Any:
    """Return the backend's module; imported late, because it is not there on every platform."""
    try:
        from jax.experimental.pallas import triton
    except ImportError as error:
        raise ValueError(
            '`implementation` must be "scan" where JAX has no Triton backend for Pallas, as in '
            f'JAX {jax.__version__} here, got "pallas".'
        ) from error
    return triton


def compiler_params(warps: int) -> Any:
    """Return the parameters of a kernel in which `warps` warps share a program."""
    return _triton().CompilerParams(num_warps=warps, num_stages=1)


def multiply_add(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """Return x * y + z, rounded once."""
    letter, bits = REGISTERS[z.dtype.itemsize]
    [result] = _triton().elementwise_inline_asm(
        f"fma.rn.f{bits} $0, $1, $2, $3;",
        args=(x, y, z),
        constraints=f"={letter},{letter},{letter},{letter}",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(z.shape, z.dtype)],
    )
    return result
