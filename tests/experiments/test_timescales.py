"""Tests of the experiment on time scales: its text, methods, gauge, numbers and report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import nested_jax as nj
from experiments.lab import tuning
from experiments.timescales import gauge, methods, numbers, report, tasks, text
from experiments.timescales.config import QUICK, Config
from experiments.timescales.methods import METHODS, RATES
from nested_jax import theory
from tests.experiments import support

RTOL = 1e-5  # A few operations in float32.
DATASETS = ("drift", "quadratics", "language", "gauge")
KEPT = ("momentum", "adam", "aggmo")
SMALL = dataclasses.replace(Config(), **QUICK)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small experiment on few methods; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("timescales") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in METHODS if name not in KEPT]:
            monkeypatch.delitem(METHODS, name)
        yield out, support.finished("timescales", SMALL, out)


@pytest.fixture(scope="module")
def small(done):
    """Return what it stored."""
    return {name: xr.load_dataset(done[0] / f"{name}.nc") for name in DATASETS}


def test_a_text_is_divided_in_order_with_the_vocabulary_of_its_training_part(tmp_path):
    path = tmp_path / "text"
    written = "ab" * 400 + "bc" * 50 + "äb" * 50
    path.write_text(written, encoding="utf-8")
    found = text.load(str(path), 1)
    assert (found.vocabulary, found.symbols, found.origin) == ("ab", 3, str(path))
    np.testing.assert_array_equal(found.train, [1, 2] * 400)
    np.testing.assert_array_equal(found.validation, [2, 0] * 50)
    np.testing.assert_array_equal(found.test, [0, 2] * 50)


def test_only_the_most_common_characters_have_symbols():
    rare = "".join(map(chr, range(1000, 1000 + 400)))
    found = text.divided(rare[:300] * 2 + rare[300:] + "x" * 1000, 1, "")
    assert found.symbols == 256
    np.testing.assert_array_equal(found.test, np.full(len(found.test), 1))


def test_the_default_text_is_read():
    found = text.load("", 16)
    parts = len(found.train), len(found.validation), len(found.test)
    assert sum(parts) > 300_000
    assert parts[0] == pytest.approx(8 * parts[2], abs=10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "`--text` must name a file that can be read, got "),
        (b"a" * 399, "`--text` must hold at least 400 characters for a context of 1, got 399."),
        (b"abc\xff" * 200, "`--text` must be a UTF-8 file, got "),
    ],
)
def test_a_text_that_cannot_be_learned_is_refused(content, message, tmp_path, capsys):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    words = "--context", 1, "--text", path, "--out", tmp_path / "out"
    refused = support.refusal(capsys, "timescales", *words)
    assert refused.startswith(message)
    if content and b"\xff" in content:
        assert refused.endswith(f"{str(path)!r}, whose byte 3 is not.")


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_a_method_lies_in_its_rule(name):
    for task in RATES:
        method = METHODS[name].on(task)
        for corner in (0.0, 1.0):
            found = tuning.values(method, np.full((1, len(method.tuned)), corner))
            method.make(**{one: float(x[0]) for one, x in found.items()})


def test_every_method_with_two_time_scales_extends_one_with_one():
    assert [*methods.extended("drift")] == [*METHODS][4:]
    assert {METHODS[base].base for base in methods.extended("drift").values()} == {""}
    assert set(METHODS) - set(methods.compared("language")) == {"delta_descent"}


def test_lookahead_is_that_of_optax():
    """Five steps of SGD on the constant gradient 1, then back by half of the way."""
    tx = METHODS["lookahead"].make(learning_rate=0.1, decay=0.0)
    params, path = jnp.zeros(2), []
    state = tx.init(params)
    for _ in range(10):
        updates, state = tx.update(jnp.ones(2), state, params)
        params = optax.apply_updates(params, updates)
        path.append(float(params[0]))
    expected = [-0.1, -0.2, -0.3, -0.4, -0.25, -0.35, -0.45, -0.55, -0.65, -0.5]
    np.testing.assert_allclose(path, expected, rtol=RTOL)


def test_the_second_time_scale_can_be_turned_off():
    """Each method equals the one that it extends at a point of its hyperparameters."""
    gradients = [jnp.asarray(g) for g in np.random.default_rng(0).normal(size=(4, 2, 3))]
    momentum = METHODS["momentum"].make(learning_rate=0.1, decay=0.5)
    pairs = [
        (METHODS["delta_momentum"].make(learning_rate=0.1, decay=0.5, erasure=0.0), momentum),
        (METHODS["qhm"].make(learning_rate=0.2, decay=0.5, direct=0.0), momentum),
        (METHODS["aggmo"].make(learning_rate=0.1, decay=0.0), nj.momentum(0.1, decay=0.0)),
        (
            METHODS["ademamix"].make(learning_rate=0.1, b1=0.5, b3=0.9, alpha=0.0),
            METHODS["adam"].make(learning_rate=0.1, b1=0.5),
        ),
    ]
    for two, one in pairs:
        paths = []
        for tx in (two, one):
            params = jnp.zeros((2, 3))
            state = tx.init(params)
            for gradient in gradients:
                updates, state = tx.update(gradient, state, params)
                params = optax.apply_updates(params, updates)
            paths.append(params)
        np.testing.assert_allclose(*paths, rtol=1e-4)


def test_gradient_descent_on_quadratics_is_its_closed_form():
    config = Config(quadratic_steps=20)
    task, key = tasks.quadratics(config), jax.random.key(3)
    found = task.run(task.data, nj.momentum(0.5, decay=0.0), key, 0)
    h = 100.0 ** -np.linspace(1, 0, 16)
    start = np.ravel(nj.quadratic(h).init(jax.random.fold_in(key, 1))[0])

    def loss(step):
        return np.sum(h * (start * (1 - 0.5 * h) ** step) ** 2)

    expected = np.mean([loss(step) for step in range(16, 21)]) / loss(0)
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-4)  # 20 steps in float32.
    assert float(found["score"]) == pytest.approx(np.log(expected), abs=1e-4)


def test_a_window_holds_the_characters_before_and_the_next():
    part = np.arange(10)
    np.testing.assert_array_equal(tasks.spread_windows(part, 2, 3), [[0, 1, 2, 3], [6, 7, 8, 9]])
    assert len(tasks.spread_windows(part, 100, 3)) == 7


def test_the_untrained_language_model_knows_nothing():
    """With small random weights its loss is near that of equal chances."""
    found = text.divided("abcd" * 500, 4, "")
    config = Config(context=4, width=8, text_steps=5)
    task = tasks.language(config, found)
    loss = jax.jit(lambda rate: task.run(task.data, nj.adam(rate), jax.random.key(0), 0)["loss"])
    still = float(loss(0.0))
    assert 0.5 * np.log(5) < still < 2 * np.log(5)
    assert float(loss(0.1)) < still


SPIKY = np.array([2.0, 1.0, 1.05, 1.2, 1.3, 1.0, 0.9, np.nan, np.nan])


def test_a_spike_begins_where_the_loss_rises_by_a_tenth():
    np.testing.assert_array_equal(gauge.onsets(SPIKY), [3, 7])
    np.testing.assert_array_equal(np.flatnonzero(gauge.in_spike(SPIKY)), [3, 4, 7, 8])
    assert len(gauge.onsets(np.linspace(2, 1, 20))) == 0


def test_the_gauge_is_counted_before_spikes_and_without():
    losses = np.stack([SPIKY, np.ones(9)])
    gauges = np.zeros((2, 9))
    gauges[0, 2] = 1.5  # Within five readings before both spikes.
    gauges[1, [1, 2, 5]] = 1.5  # Rises twice, and nothing follows.
    found = gauge.counted(losses, gauges)
    assert found[:4] == (2, 2, 3, 2)
    assert found.above == pytest.approx(4 / 14)


def test_a_comparison_pays_beyond_one_percent(monkeypatch):
    monkeypatch.setitem(numbers.TASKS, "drift", "drift")
    spread = np.array([0.999, 1.0, 1.001])
    names, mean = ("momentum", "aggmo", "qhm"), (1.0, 0.9, 0.995)
    loss = xr.DataArray(
        np.asarray(mean)[:, None, None] * spread,
        {"optimizer": [*names], "case": ["d = 1"], "seed": range(3)},
        ["optimizer", "case", "seed"],
    )
    loss.loc[{"optimizer": "momentum"}] = 1.0
    monkeypatch.setattr(numbers, "extended", lambda task: {"aggmo": "momentum", "qhm": "momentum"})
    one, other = numbers.comparisons({"drift": xr.Dataset({"loss": loss})}, "drift")
    assert one.mean == pytest.approx(0.9, rel=1e-6)
    assert (one.pays, one.costs, other.pays, other.costs) == (True, False, False, False)
    loss.loc[{"optimizer": "momentum"}] = 0.8
    one, other = numbers.comparisons({"drift": xr.Dataset({"loss": loss})}, "drift")
    assert one.mean == pytest.approx(0.9 / 0.8, rel=1e-6)
    assert (one.pays, one.costs, other.costs) == (False, True, True)


def test_what_was_measured_is_consistent(small):
    assert [*small["drift"].optimizer.values] == [*KEPT]
    assert dict(small["language"].loss.sizes) == {"optimizer": 3, "case": 1, "seed": 2}
    assert (small["gauge"].step.values == np.arange(5, 21, 5)).all()
    bound = theory.tracking_bound(10, 1, 0.95, 0.1, key=jax.random.key(1), steps=20_000, warmup=100)
    assert float(small["drift"].bound[0]) == pytest.approx(float(bound), rel=0.02)  # Of the mean.
    assert float(small["language"].loss.sel(optimizer="adam").max()) < np.log(104)


@pytest.mark.slow
def test_the_gauge_along_a_run_is_that_of_its_end(small):
    """The last reading is repeated from the run's parameters, in a program of its own."""
    at = small["language"]["at"].sel(optimizer="momentum").values[0]
    chosen = tuning.values(METHODS["momentum"].on("language"), at[:2])
    found, config = text.load("", SMALL.context), SMALL
    problem = tasks.characters(config, found.symbols)
    key = jax.random.fold_in(jax.random.split(jax.random.key(config.seed), 3)[2], 1)
    key_init, key_draw = jax.random.split(key)
    rate, decay = float(chosen["learning_rate"]), float(chosen["decay"])
    initial = problem.init(key_init)[0], jnp.asarray(found.train)
    tx = nj.momentum(rate, decay=decay)
    params = nj.rollout(tx, problem, key_draw, config.text_steps, initial=initial).params
    probes = jnp.asarray(tasks.spread_windows(found.train, gauge.PROBES, config.context))
    last = small["gauge"].sel(optimizer="momentum", factor=1.0, seed=1).isel(step=-1)
    assert float(last.loss) == pytest.approx(float(problem.loss(params, probes)), rel=1e-4)
    reading = theory.edge_of_stability(
        lambda params: problem.loss(params, probes),
        params,
        learning_rate=rate,
        momentum=optax.trace(decay),
        iterations=gauge.ITERATIONS,
    )
    assert float(last.gauge) == pytest.approx(float(reading), rel=0.01)  # Lanczos in float32.


def test_the_report_answers(done, small):
    page = support.text_of((done[0] / "report.html").read_text())
    assert support.is_self_contained(page)
    for title in ("Which method is the best on each task?", "Does the edge of stability"):
        assert title in page
    sections = report.sections(SMALL, small)
    pays = numbers.counts(small)
    assert sum(total for *_, total in pays.values()) == 1 + 4 + 1
    answer = sections[0].answer
    assert answer.startswith("A second time scale ")
    assert "comparisons on drift, " in answer
    assert "spike" in answer
    assert [len(section.figures) for section in sections] == [1, 1, 1]
