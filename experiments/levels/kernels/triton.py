"""The only module that uses Pallas' Triton backend.

JAX deprecated this backend in 0.11.2 and will remove it. Until then, lowering a kernel emits JAX's
`DeprecationWarning`, which is not suppressed. After its removal, `implementation="pallas"` is an
error that suggests `"scan"`; the scan and the interpreted kernels do not need the backend. Used are

- `CompilerParams(num_warps=, num_stages=)`, since JAX 0.7;
- `elementwise_inline_asm`, for a multiply-add that rounds once. By default, Triton multiplies and
  then adds.
"""

from typing import Any

import jax

# Size of a number in bytes -> letter and bits of its register.
REGISTERS = {4: ("f", 32), 8: ("d", 64)}


def _triton() -> Any:
    """Return the backend's module, imported late because not every platform has it."""
    try:
        from jax.experimental.pallas import triton
    except ImportError as error:
        raise ValueError(
            '`implementation` must be "scan" where JAX has no Triton backend for Pallas, as in '
            f'JAX {jax.__version__} here, got "pallas".'
        ) from error
    return triton


def compiler_params(warps: int) -> Any:
    """Return the compiler parameters of a kernel with `warps` warps per program."""
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
