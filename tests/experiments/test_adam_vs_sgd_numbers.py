"""Tests of what Adam against SGD chooses and answers from its results."""

import numpy as np
import pytest
import xarray as xr

from experiments.adam_vs_sgd import numbers, report
from experiments.adam_vs_sgd.config import MOMENTA, RATES, UNTUNED


def synthetic():
    """Return results whose best setting is known: a sum of one term an axis."""
    rates = RATES
    terms = {
        "batch": ("batch", [0.3, 0.1, 0.2]),
        "learning_rate": ("learning_rate", abs(np.log10(rates) + 1)),
        "momentum": ("momentum", [0.1, 0.4, 0.0]),
        "initialisation": ("initialisation", [0.5, 0.2, 0.3]),
        "fold": ("fold", [0.0, 0.1]),
    }
    loss = sum(xr.DataArray(np.asarray(values), dims=dim) for dim, values in terms.values())
    loss = loss.expand_dims(optimizer=["adam"])
    coordinates = {
        "batch": ["50", "10", "200"],
        "learning_rate": rates,
        "momentum": [*MOMENTA],
        "initialisation": [0, 1, 2],
        "fold": [0, 1],
    }
    results = xr.Dataset({"loss": loss, "error": loss / 10}).assign_coords(coordinates)
    return results.assign(diverged=results.loss > 3.5).assign_attrs(axes=[*results.loss.dims])


def test_the_setting_of_least_loss_is_taken():
    best = {"learning_rate": 0.1, "momentum": 0.97, "initialisation": 1, "batch": "10"}
    assert numbers.tuned(synthetic()) == {"adam": best}


def test_a_setting_with_a_fold_that_overflows_is_not_taken():
    results = synthetic()
    at = {"learning_rate": 0.1, "momentum": 0.97, "initialisation": 1, "batch": "10", "fold": 1}
    results.loss.loc[at] = np.nan
    chosen = numbers.tuned(results)["adam"]
    assert any(chosen[name] != at[name] for name in UNTUNED)


def test_stages_free_one_setting_after_the_other():
    found = numbers.stages(synthetic(), "adam")
    assert [*found] == [
        "untuned",
        "learning rate",
        "+ momentum",
        "+ initialisation",
        "+ batch size",
    ]
    assert found["untuned"] == UNTUNED
    assert found["learning rate"] == UNTUNED | {"learning_rate": 0.1}
    assert found["+ momentum"]["momentum"] == 0.97
    assert found["+ momentum"]["initialisation"] == 0
    assert found["+ initialisation"]["initialisation"] == 1
    assert found["+ initialisation"]["batch"] == "50"
    assert found["+ batch size"] == numbers.tuned(synthetic())["adam"]


def test_the_running_mean_is_that_of_the_last_thousand_examples():
    curve = np.random.default_rng(0).normal(size=(2, 9))
    examples, means = numbers.running_mean(curve)
    assert examples.tolist() == [1000, 1200, 1400, 1600, 1800]
    np.testing.assert_allclose(means[1, 2], curve[1, 2:7].mean())


def test_since_when_adam_is_ahead():
    sgd = np.ones((2, 10))
    adam = np.where(np.arange(10) < 5, 2.0, 0.0) * np.ones((2, 1))
    curves = {m: xr.DataArray(c, dims=("seed", "span")) for m, c in (("sgd", sgd), ("adam", adam))}
    # Means of five: 2, 1.6, 1.2, .8 of Adam's.
    assert numbers.ahead_from(curves) == 1600
    assert numbers.ahead_from(curves | {"adam": curves["sgd"]}) is None


def test_rates_are_chosen_on_seeds_of_their_own():
    loss = np.array([[[3.0, 9.0], [2.0, 8.0], [1.0, 7.0]]])
    dims = ("optimizer", "learning_rate", "seed")
    data = {"loss": (dims, loss), "diverged": (dims, loss == 1.0)}
    coordinates = {"optimizer": ["sgd"], "learning_rate": [0.1, 1.0, 10.0]}
    online = xr.Dataset(data, coordinates, {"tuning_seeds": 1}).expand_dims(penalised=[0, 1])
    assert numbers.online_rates(online) == {"sgd": 1.0}


@pytest.mark.parametrize(
    ("sgd", "adam", "verdict"),
    [
        ([0.3, 0.31], [0.1, 0.11], "Yes: "),
        ([0.1, 0.11], [0.3, 0.31], "No, SGD is better: "),
        ([0.1, 0.3], [0.2, 0.1], "Not measurably: "),
    ],
)
def test_the_answer_is_that_of_the_test_images(sgd, adam, verdict):
    test = {m: 100 * np.array(errors) for m, errors in (("sgd", sgd), ("adam", adam))}
    section = report._answer(synthetic(), {"untuned": test, "tuned": test}, test)
    assert section.answer.startswith(verdict)
