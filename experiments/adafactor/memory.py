"""How much memory optimizer states take, as arrays and as XLA reports it."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments.adafactor.config import Config
from experiments.lab import models
from experiments.lab.data import Images

if TYPE_CHECKING:
    import xarray as xr

OPTIMIZERS = {
    "momentum": lambda: nj.momentum(1e-2),
    "Adam": nj.adam,
    "AMSGrad": lambda: nj.adam(amsgrad=True),
    "Adafactor": nj.adafactor,
    "Adafactor, not factored": lambda: nj.adafactor(factored=False),
    "Adafactor, β₁ = 0.9": lambda: nj.adafactor(b1=0.9),
}


def shapes(config: Config, images: Images) -> dict[str, Any]:
    """Return models by name, as trees of shapes."""
    pixels, key = images.train_images.shape[1], jax.eval_shape(lambda: jax.random.key(0))

    def network(*sizes: Any) -> Any:
        return jax.eval_shape(models.mlp(*sizes).init, key)

    def arrays(**sizes: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}

    square, wide = (512, 512), (512, 2048)
    block = arrays(q=square, k=square, v=square, o=square, up=wide, down=wide[::-1], bias=(2048,))
    trained = f"MLP {pixels}-{config.hidden}-{images.classes} (trained here)"
    return {
        trained: network(pixels, (config.hidden,), images.classes),
        "MLP 784-256-256-10": network(784, (256, 256), 10),
        "transformer block, width 512": block,
        "matrix 4096 × 4096": arrays(w=(4096, 4096)),
    }


def memory(config: Config, images: Images) -> "xr.Dataset":
    """Return the bytes of all optimizers for all models."""
    import xarray as xr

    params, dims = shapes(config, images), ("model", "optimizer")
    table = np.array(
        [[weights(make(), p) for make in OPTIMIZERS.values()] for p in params.values()]
    )
    names = ("params", "state", "xla_state", "xla_temporary")
    columns = {name: (dims, table[..., i]) for i, name in enumerate(names)}
    return xr.Dataset(columns, {"model": [*params], "optimizer": [*OPTIMIZERS]})


def weights(tx: Any, shapes: Any) -> tuple[int, int, int, int]:
    """Return the bytes of parameters and state, and of XLA's state and temporaries in an update."""
    # Real arrays: a formula would only repeat what it assumes.
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    state = tx.init(params)
    size, held = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (params, state))
    update = jax.jit(tx.update, donate_argnums=(0, 1), keep_unused=True)
    analysis: Any = update.lower(params, state, params).compile().memory_analysis()
    # The arguments are gradients, state and parameters.
    return size, held, analysis.argument_size_in_bytes - 2 * size, analysis.temp_size_in_bytes
