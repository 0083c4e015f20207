"""Tests of Optuna over batches: the trials of a study are the points that were evaluated."""

import math

import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import nested_jax as nj
from nested_jax.sweeps.optuna import optimize

RTOL = 1e-6  # Three operations in float32.
RANGE = FloatDistribution(-1.0, 1.0)
SPACE = {"x": RANGE, "n": IntDistribution(1, 5)}


def bowl(x, n):
    return {"loss": n * x**2, "curve": jnp.ones(3), "size": n}


def double(x):
    return 2 * x


def study_of(storage=None, **options):
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        storage=storage, sampler=sampler, study_name="study", load_if_exists=True, **options
    )


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def database(tmp_path):
    """Function that opens the same SQLite file anew; all connections to it are closed at the end.

    One that is left open warns when it is collected, in Python 3.13.
    """
    opened = []

    def open_():
        opened.append(optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db"))
        return opened[-1]

    yield open_
    for storage in opened:
        storage.remove_session()
        storage.engine.dispose()


def test_each_trial_has_the_value_of_its_point_and_one_program_does_all(compilations):
    study = study_of()
    optimize(study, bowl, SPACE, metric="loss", trials=21, batch=8)
    assert len(study.trials) == 21
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.distributions == SPACE
        expected = trial.params["n"] * trial.params["x"] ** 2
        assert math.isclose(trial.value, expected, rel_tol=RTOL)
    # The last batch has 5 trials and is padded.
    assert len(compilations) == 1


def test_a_random_sampler_draws_the_points_of_one_trial_at_a_time():
    study, other = study_of(), study_of()
    optimize(study, bowl, SPACE, metric="loss", trials=6, batch=4)
    for _ in range(6):
        other.ask(SPACE)
    assert [t.params for t in study.trials] == [t.params for t in other.trials]


def test_the_same_call_continues_a_study(monkeypatch):
    storage = optuna.storages.InMemoryStorage()
    optimize(study_of(storage), bowl, SPACE, metric="loss", trials=5, batch=4)
    optimize(study_of(storage), bowl, SPACE, metric="loss", trials=7, batch=4)
    optimize(study_of(storage), bowl, SPACE, metric="loss", trials=7, batch=4)
    assert len(study_of(storage).trials) == 7


def test_a_killed_study_goes_on_from_its_database(monkeypatch, database):
    """A study that dies without telling its last batch: these trials do not count."""

    class KilledError(BaseException):
        pass

    def kill(*_, **__):
        raise KilledError

    choices = {"word": CategoricalDistribution(["a", "bc"]), "x": RANGE}

    def run(word, x):
        return {"loss": len(word) * x**2}

    optimize(study_of(database()), run, choices, metric="loss", trials=4, batch=4)
    study = study_of(database())
    with monkeypatch.context() as patch:
        patch.setattr("nested_jax.sweeps.optuna.sweep", kill)
        patch.setattr(study, "tell", kill)
        with pytest.raises(KilledError):
            optimize(study, run, choices, metric="loss", trials=8, batch=4)
    optimize(study_of(database()), run, choices, metric="loss", trials=8, batch=4)
    trials = study_of(database()).trials
    states = [trial.state for trial in trials]
    done, running = TrialState.COMPLETE, TrialState.RUNNING
    assert states == [done] * 4 + [running] * 4 + [done] * 4
    for trial in trials:
        if trial.state == done:
            expected = len(trial.params["word"]) * trial.params["x"] ** 2
            assert math.isclose(trial.value, expected, rel_tol=RTOL)


def test_trials_of_a_failed_batch_have_failed(monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    study = study_of()
    with monkeypatch.context() as patch:
        patch.setattr("nested_jax.sweeps.optuna.sweep", fail)
        with pytest.raises(OSError, match="disk full"):
            optimize(study, bowl, SPACE, metric="loss", trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3
    optimize(study, bowl, SPACE, metric="loss", trials=3)
    assert [trial.state for trial in study.trials[3:]] == [TrialState.COMPLETE] * 3


def test_a_value_that_is_not_finite_prunes_its_trial():
    study = study_of(direction="maximize")
    optimize(study, lambda x: {"y": jnp.log(x)}, {"x": RANGE}, metric="y", trials=16, batch=8)
    states = {trial.params["x"] > 0: trial.state for trial in study.trials}
    assert states == {True: TrialState.COMPLETE, False: TrialState.PRUNED}
    for trial in study.trials:
        assert trial.state == states[trial.params["x"] > 0]
    # They count: the study does not go on.
    optimize(study, lambda x: {"y": jnp.log(x)}, {"x": RANGE}, metric="y", trials=16)
    assert len(study.trials) == 16


def test_several_metrics_are_several_directions():
    study = study_of(directions=["minimize", "maximize"])
    optimize(study, bowl, SPACE, metric=["loss", "size"], trials=4, batch=4)
    for trial in study.trials:
        x, n = trial.params["x"], trial.params["n"]
        np.testing.assert_allclose(trial.values, [n * x**2, n], rtol=RTOL)


@pytest.mark.filterwarnings("ignore:Choices for a categorical")  # Functions, in Optuna's storage.
def test_a_choice_of_words_or_functions_is_static_and_of_numbers_is_not(compilations):
    def run(kind, x, power, function):
        assert kind in ("plus", "minus")  # Not traced.
        sign = 1 if kind == "plus" else -1
        return {"y": sign * function(x) ** power}

    space = {
        "kind": CategoricalDistribution(["plus", "minus"]),
        "x": RANGE,
        "power": CategoricalDistribution([1, 2, 3]),
        "function": CategoricalDistribution([double, jnp.sin]),
    }
    study = study_of()
    optimize(study, run, space, metric="y", trials=40, batch=16)
    assert len(compilations) == 4  # One for each combination of words and functions.
    for trial in study.trials:
        point = trial.params
        sign = 1 if point["kind"] == "plus" else -1
        function = {"double": double, "sin": math.sin}[point["function"]]
        expected = sign * function(point["x"]) ** point["power"]
        np.testing.assert_allclose(trial.value, expected, rtol=10 * RTOL)


# Optuna 4 calls the argument experimental.
@pytest.mark.filterwarnings("ignore:Argument ``constant_liar``")
def test_a_tpe_sampler_approaches_the_minimum():
    sampler = optuna.samplers.TPESampler(seed=0, constant_liar=True, n_startup_trials=8)
    study = optuna.create_study(sampler=sampler)
    optimize(study, bowl, SPACE, metric="loss", trials=32, batch=8)
    assert study.best_value < 0.02


def test_rejects_what_optuna_cannot_express():
    def rejects(space, error, rule):
        with pytest.raises(error, match=rule):
            optimize(study_of(), lambda x: {"y": x}, space, metric="y", trials=1)

    must = r"^`space` must hold Optuna distributions, such as FloatDistribution\(.*, got"
    rejects({"x": nj.log_uniform(0.1, 1.0, 2, seed=0)}, TypeError, must + r" array\(.*for 'x'\.$")
    rejects({"x": (0.1, 1.0)}, TypeError, must + r" \(0.1, 1.0\) for 'x'\.$")
    rejects({}, TypeError, r"^`space` must be a dict of Optuna distributions by name, got \{\}\.$")
    rejects(nj.Grid(x=[1.0]), TypeError, must)
    words = {"x": CategoricalDistribution(["a", "b"])}
    rejects(words, ValueError, r"^`space` must hold at least one number, got only \['x'\], which")
    with pytest.warns(UserWarning, match="Choices for a categorical"):
        arrays = CategoricalDistribution([np.ones(2), np.zeros(2)])
    rejects({"x": arrays}, TypeError, r"^`x` must be an iterable of distinct numbers, or of words")


def test_a_choice_of_integers_and_floats_is_a_float_in_every_batch():
    """Also in a batch that happens to hold the integers alone."""

    def run(x, y):
        return {"loss": jnp.asarray(2.7).astype(x.dtype) + 0 * y}

    study = study_of()
    space = {"x": CategoricalDistribution([0, 1, 0.5]), "y": FloatDistribution(0.0, 1.0)}
    optimize(study, run, space, metric="loss", trials=12, batch=2)
    np.testing.assert_allclose([trial.value for trial in study.trials], 2.7, rtol=1e-6)


def test_rejects_bad_arguments_before_the_first_trial():
    def rejects(error, rule, study=None, run=bowl, space=SPACE, **options):
        study = study_of() if study is None else study
        with pytest.raises(error, match=rule):
            optimize(study, run, space, **{"metric": "loss", "trials": 1} | options)
        assert getattr(study, "trials", []) == []

    rejects(TypeError, r"^`study` must be an Optuna study, got 3\.$", study=3)
    rejects(TypeError, r"^`run` must be ", run=3)
    rejects(ValueError, r"^`trials` must be .*got 0", trials=0)
    rejects(ValueError, r"^`batch` must be .*got 0", batch=0)
    rejects(ValueError, r"^`layout` must be ", layout="rows")
    rule = r"^`metric` must name real scalar results of `run` \(loss, size\), got 'curve'\.$"
    rejects(ValueError, rule, metric="curve")
    for metric in (None, 3, [3]):
        rejects(TypeError, r"^`metric` must be the name of a result, or several", metric=metric)
    rule = r"^`metric` must name one result for each of the study's 1 directions, got \['loss', "
    rejects(ValueError, rule, metric=["loss", "size"])

    def train(decay):
        nj.scale_by_accumulated_momentum(decay)
        return {"loss": decay}

    rule = r"^`decay`\[1\] = 1.5: `decay` must lie in \[0, 1\), got 1.5\.$"
    rejects(ValueError, rule, run=train, space={"decay": FloatDistribution(0.5, 1.5)})
