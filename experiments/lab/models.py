"""Models of the image experiments, each as two pure functions.

    model = mlp(inputs=784, hidden=(256, 256), activation="tanh", initialisation="glorot")
    params = model.init(key)              # float32; jit it, vmap it over keys
    logits = model.apply(params, images)  # images (batch, inputs), logits (batch, classes)
    problem = nj.classification(model.apply, model.init, train_images, train_labels, 64)

Words (`activation`, `initialisation`) are static: as axes of a sweep a compilation each. An
autoencoder is trained by the same problem with another loss, a squared error of the images:

    model = autoencoder(inputs=64)
    problem = nj.classification(model.apply, model.init, images, labels, 64)
    problem = problem._replace(
        loss=lambda params, batch: reconstruction(model, params, batch.images)
    )

and a penalty is added likewise, `penalty * squared_norm(params) / 2`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
}
LINEAR = "linear"
"""An activation that changes nothing. `ACTIVATIONS` does not offer it, as layers would collapse."""
# Standard deviations of the weights of a layer with n inputs and k outputs; biases begin at 0.
INITIALISATIONS: dict[str, Any] = {
    "he": nn.initializers.he_normal(),  # sqrt(2 / n)
    "lecun": nn.initializers.lecun_normal(),  # sqrt(1 / n)
    "glorot": nn.initializers.glorot_normal(),  # sqrt(2 / (n + k))
    "orthogonal": nn.initializers.orthogonal(),
    "small": nn.initializers.normal(0.01),
    "zeros": nn.initializers.zeros,
}
DRAWS = {"xla_backend_optimization_level": 2}
"""`compiler_options` for a function that draws weights and examples. With all optimizations XLA
unrolls the random numbers of a layer with ten outputs, and compiles three times as long."""


class Model(NamedTuple):
    """A model.

    Attributes:
        init: key -> params.
        apply: (params, images) -> outputs, a row each.
    """

    init: Callable[[Any], Any]
    apply: Callable[[Any, Any], jax.Array]


class _Layers(nn.Module):
    """Dense layers with an activation between each two."""

    widths: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            x = self.activation(x) if i else x
            x = nn.Dense(width, kernel_init=self.kernel_init)(x)
        return x


def mlp(
    inputs: int,
    hidden: Sequence[int] = (256, 256),
    classes: int = 10,
    *,
    activation: str = "relu",
    initialisation: str = "he",
) -> Model:
    """Return a network of dense layers, linear at the end.

    Args:
        inputs: Pixels of an image, at least 1.
        hidden: Widths of the hidden layers, each at least 1; none is logistic regression.
        classes: Number of outputs, at least 1.
        activation: One of `ACTIVATIONS`, after every hidden layer, or `LINEAR`.
        initialisation: One of `INITIALISATIONS`, of all weights.
    """
    function = (lambda x: x) if activation == LINEAR else ACTIVATIONS[activation]
    layers = _Layers((*hidden, classes), function, INITIALISATIONS[initialisation])
    return Model(
        init=lambda key: layers.init(key, jnp.zeros((1, inputs)))["params"],
        apply=lambda params, images: jnp.asarray(layers.apply({"params": params}, images)),
    )


def logistic(inputs: int, classes: int = 10, *, initialisation: str = "zeros") -> Model:
    """Return multinomial logistic regression: one layer, whose loss is convex.

    Args:
        inputs: Pixels of an image, at least 1.
        classes: Number of outputs, at least 1.
        initialisation: One of `INITIALISATIONS`.
    """
    return mlp(inputs, (), classes, initialisation=initialisation)


def autoencoder(
    inputs: int,
    hidden: Sequence[int] = (64,),
    code: int = 16,
    *,
    activation: str = "relu",
    initialisation: str = "he",
) -> Model:
    """Return a network that passes images through a few numbers: `hidden`, `code`, `hidden` back.

    Args:
        inputs: Pixels of an image, which are its outputs, too; at least 1.
        hidden: Widths of the layers before the code, and after it in reverse.
        code: Width of the code, at least 1.
        activation: One of `ACTIVATIONS`, after every layer but the last.
        initialisation: One of `INITIALISATIONS`.
    """
    widths = (*hidden, code, *reversed(hidden))
    return mlp(inputs, widths, inputs, activation=activation, initialisation=initialisation)


def reconstruction(model: Model, params: Any, images: Float[Array, "batch pixels"]) -> jax.Array:
    """Return the mean squared error of an autoencoder, a pixel."""
    return jnp.mean(jnp.square(model.apply(params, images) - images))


def collapsed(params: Any) -> tuple[jax.Array, jax.Array]:
    r"""Return the one layer that equals a network of dense layers without activations.

    .. math:: W = W_1 W_2 \cdots W_L, \quad b = (\cdots(b_1 W_2 + b_2) \cdots) W_L + b_L,

    with images as rows: a layer maps x to x W + b.

    Args:
        params: Of `mlp(..., activation=LINEAR)`.
    """
    layers = [params[f"Dense_{i}"] for i in range(len(params))]
    weights, biases = layers[0]["kernel"], layers[0]["bias"]
    for layer in layers[1:]:
        weights = weights @ layer["kernel"]
        biases = biases @ layer["kernel"] + layer["bias"]
    return weights, biases


def squared_norm(params: Any) -> jax.Array:
    """Return the sum of squares of all weights; biases, which have one dimension, are left out."""
    squares = (jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params) if p.ndim > 1)
    return sum(squares, start=jnp.zeros(()))
