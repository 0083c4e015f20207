"""AdamW's learning rate against its weight decay: a heatmap of 264 trainings on digits."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import nested_jax as nj
from nested_jax import plots, schedules

images, labels = map(jnp.asarray, load_digits(return_X_y=True))
train, test = nj.split_indices(len(labels), (0.8, 0.2))
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])


def run(learning_rate, weight_decay, seed, steps=1000):
    """Train once, on mini-batches; return what the test examples say."""
    key_model, key_batches = jax.random.split(jax.random.key(seed))
    params = model.init(key_model, images[:1])
    tx = nj.adamw(learning_rate, weight_decay=weight_decay, schedule=schedules.cosine(steps))

    def loss(params, examples):
        logits = model.apply(params, images[examples] / 16)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[examples]).mean()

    def step(carry, batch):
        params, state = carry
        update, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, update), state), None

    batches = jax.random.choice(key_batches, train, (steps, 64))
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
    wrong = model.apply(params, images[test] / 16).argmax(-1) != labels[test]
    return {"loss": loss(params, test), "error": wrong.mean()}


def main(steps=1000, seeds=2, store="results/heatmap"):
    """Sweep learning rate, weight decay and seed side by side; keep, compare and draw."""
    rates, decays = nj.powers_of_two(-10, 0), nj.powers_of_two(-13, -2)
    grid = nj.Grid(learning_rate=rates, weight_decay=decays, seed=range(seeds))
    results = nj.sweep(lambda **point: run(steps=steps, **point), grid, store=store)
    print(nj.best_point(results, by="error", over="seed"))
    errors = results.error.mean("seed")
    figure = plots.heatmap(errors, y="learning_rate", x="weight_decay", label="test error")
    plots.save(figure, f"{store}.png")


if __name__ == "__main__":
    main()
