"""Tests of the further parts of Adam against SGD: races, schedules, one pass, generalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.adam_vs_sgd import (
    generalization,
    generalization_report,
    numbers,
    races,
    runs,
    training,
)
from experiments.adam_vs_sgd.config import Config
from experiments.adam_vs_sgd.methods import build
from tests.experiments.adam_vs_sgd import RTOL, SMALL, where


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        (0, lambda t: 1.0),
        (1, lambda t: (1 + np.cos(np.pi * t / 20)) / 2),
        (2, lambda t: 0.1 ** sum(t >= drop for drop in (6, 12, 16))),
    ],
)
def test_schedules_are_their_formulas(kind, reference):
    found = jax.jit(
        lambda kind, share: jax.vmap(runs.scheduled(0.5, kind, share, 20))(jnp.arange(20))
    )
    for share, ramp in ((0.0, 1), (0.1, 2)):
        expected = [0.5 * reference(t) * min((t + 1) / ramp, 1) for t in range(20)]
        np.testing.assert_allclose(found(kind, share), expected, rtol=1e-5)  # Cosines of float32.


def test_a_constant_schedule_without_warm_up_is_none(images):
    bound = runs._validated(SMALL, images)
    point = {"optimizer": "sgd", "learning_rate": 0.1, "initialisation": 0, "fold": 1}
    plain, same = (bound(**point, **extra) for extra in ({}, {"schedule": 0}))
    np.testing.assert_allclose(same["loss"], plain["loss"], rtol=RTOL)
    assert float(bound(**point, schedule=1)["loss"]) != pytest.approx(
        float(plain["loss"]), rel=0.01
    )


def test_one_pass_sees_every_image_once(images, tmp_path, monkeypatch):
    # A network that does not move has, in one pass, its loss on all training images.
    monkeypatch.setattr(races, "ONLINE_RATES", np.array([1e-30]))
    monkeypatch.setattr(races, "compared", lambda config: ["sgd"])
    found = races.one_pass(SMALL, where(tmp_path, images)).loss.squeeze()
    passing = training.start(SMALL, images, "one_pass", 3)
    once, drawn = (found.sel(replaced=replaced).values for replaced in (0, 1))
    np.testing.assert_allclose(once, passing.loss[0], rtol=RTOL)
    assert (abs(drawn / passing.loss[0] - 1) > 100 * RTOL).all()


def test_only_a_linear_network_equals_one_layer(images):
    for word, apart in (("linear", False), ("relu", True)):
        model = training.network(Config(depth=3), images, activation=word)
        collapse = races.collapse(model, model.init(jax.random.key(0)), images.test_images)
        # Rounding is some 1e-7 a layer.
        assert (float(collapse) > 1e-2) if apart else (0 < float(collapse) < 1e-5)


@pytest.mark.parametrize("name", races.RACES)
def test_races_have_their_losses(name, images):
    model, loss = races.race(SMALL, images, name)
    params = model.init(jax.random.key(1))
    x, y = images.test_images[:7], images.test_labels[:7]
    z = np.asarray(model.apply(params, x), np.float64)
    entropy = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(7), y]) if z.shape[1] == 10 else None
    expected = np.mean((z - x) ** 2) if name == "autoencoder" else entropy
    np.testing.assert_allclose(loss(params, x, y), expected, rtol=RTOL)


def test_splits_divide_all_images():
    orders, first, second = generalization.splits(Config(splits=3), 101)
    assert (first, second) == (50, 75)
    assert (np.sort(orders, axis=1) == np.arange(101)).all()
    assert len({order.tobytes() for order in orders}) == 3


def test_only_the_training_half_of_a_split_is_learned(images, tmp_path, monkeypatch):
    monkeypatch.setattr(generalization, "RATES", np.array([0.1]))
    monkeypatch.setattr(generalization, "SPREAD", ("sgd",))
    x, y = (np.asarray(part) for part in generalization.pooled(images))
    orders, first, second = generalization.splits(SMALL, len(y))
    unseen = np.ones(len(y), bool)
    unseen[orders[0, :first]] = False
    x = np.where(unseen[:, None], np.float32(np.nan), x)
    n = len(images.train_labels)
    other = images._replace(train_images=x[:n], test_images=x[n:])
    found = generalization.generalization(SMALL, where(tmp_path, other)).squeeze()
    assert np.isfinite(found.train_loss[0])
    assert not np.isfinite(found.test_loss[0])
    assert bool(found.wrong[0].all())
    assert found.train_loss[0] < 2.3  # Less than that of equal probabilities: it has learned.
    assert not np.isfinite(found.train_loss[1])
    assert found.image.values.tolist() == orders[:, second:].tolist()


def test_distances_are_relative_to_the_initial_norm():
    initial = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    params = {"a": jnp.array([3.0, 6.0]), "b": jnp.array([[12.0]])}
    assert float(generalization.relative_distance(params, initial)) == pytest.approx(10 / 5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("sgd", 0.01), ("adagrad", 0.01 / (0.1 + 7 * 0.25) ** 0.5), ("adam", 0.01 / 0.5)],
)
def test_effective_rates_of_a_constant_gradient(method, expected):
    params = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    gradient = {"a": jnp.array([0.5, 0.5, -0.5]), "b": jnp.array([0.0, 100.0])}
    tx = build(Config(penalty=0), method, 0.01, 0.9)
    state = tx.init(params)
    for _ in range(7):
        _, state = tx.update(gradient, state, params)
    found = float(generalization.effective_rate(method, 0.01, state))
    assert found == pytest.approx(expected, rel=RTOL)


def test_errors_are_medians_with_ranges_and_failures():
    assert numbers.spread([2, 4, 3]) == "3 [2, 4]"
    assert numbers.spread([2, 90, 3, 87, 3]) == "3 [2, 90], 2 of 5 failed"
    assert numbers.percent([2, 90, 3, 87, 3]) == "3 % [2, 90], 2 of 5 failed"


def test_settings_are_chosen_for_each_seed():
    loss = np.array([[[1.0, 5.0], [0.5, 4.0]], [[0.1, 6.0], [2.0, np.nan]]])
    dims = ("batch", "learning_rate", "seed")
    diverged = np.zeros(loss.shape, bool)
    diverged[1, 0, 0] = True
    found = xr.Dataset(
        {"loss": (dims, loss), "diverged": (dims, diverged)},
        {"batch": ["50", "10"], "learning_rate": [0.1, 1.0]},
    )
    best = numbers.chosen_by_seed(found, "batch", "learning_rate")
    assert best.loss.values.tolist() == [0.5, 4.0]
    assert best.learning_rate.values.tolist() == [1.0, 1.0]


def test_pairs_are_compared_over_seeds_and_images():
    image = np.array([[0, 1, 2, 3], [4, 5, 0, 1], [6, 7, 2, 4]])
    sgd = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
    adam = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], bool)
    found = numbers.paired({"sgd": sgd, "adam": adam}, image)
    assert found.mean == pytest.approx(100 * 5 / 12)
    # Images 0, 4, 5, 6, 7 are worse: 2 * 0.5^5. All of three seeds are positive: 2 * 0.5^3.
    assert (found.worse, found.better) == (5, 0)
    assert (found.by_image, found.by_seed) == pytest.approx((0.0625, 0.25))
    # By image, 0 and 4 are worse half the time, as they were tested twice.
    assert (found.low + found.high) / 2 == pytest.approx(100 * (0.5 + 0.5 + 3) / 8)
    alike = numbers.paired({"sgd": sgd, "adam": sgd}, image)
    assert (alike.by_image, alike.by_seed, alike.mean) == (1, 1, 0)


@pytest.mark.parametrize(
    ("mean", "p", "word"),
    [
        (0.5, (0.01, 0.01), "No, Adam does: "),
        (-0.5, (0.01, 0.01), "Yes: "),
        (0.5, (0.1, 0.01), "Not measurably: "),
        (-0.5, (0.01, 0.1), "Not measurably: "),
    ],
)
def test_a_verdict_needs_both_tests(mean, p, word):
    counts = (9, 1) if mean > 0 else (1, 9)
    found = numbers.Paired(mean, p[0], *counts, p[1], mean - 0.1, mean + 0.1)
    errors = {"sgd": np.array([3.0, 4.0]), "adam": np.array([3.0, 4.0])}
    assert generalization_report.verdict(found, errors).startswith(word)


def test_distance_and_error_are_correlated_by_rank():
    dims = ("learning_rate", "seed")
    distance = np.stack([np.arange(4.0)] * 3, axis=1)
    error = np.stack([distance[:, 0] ** 3, -distance[:, 1], distance[:, 2]], axis=1)
    fitted = np.array([[0, 0, 1.0]] * 4)
    found = xr.Dataset(
        {
            "distance": ((*dims, "fifth"), distance[..., None]),
            "test_error": (dims, error),
            "train_error": (dims, fitted),
            "diverged": (dims, fitted > 2),
        },
        {"seed": [0, 1, 2]},
    )
    np.testing.assert_allclose(numbers.rank_correlation(found), [1, -1, np.nan])
