"""Tests of Adam against SGD: what is trained and chosen, the notes' picture, files and errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import nested_jax as nj
from experiments import lab
from experiments.adam_vs_sgd import (
    EXPERIMENT,
    numbers,
    races,
    report,
    runs,
    timing,
    training,
)
from experiments.adam_vs_sgd.config import MOMENTA, RATES, SPAN, UNTUNED, Config
from experiments.adam_vs_sgd.methods import FEW, METHODS, build
from experiments.lab import data, models
from nested_jax.sweeps import load
from tests.experiments import support

RTOL = 1e-5  # Programs of float32 that add up in different orders, over some hundred steps.
SMALL = Config(
    width=4,
    depth=1,
    examples=1000,
    methods="few",
    batch_sizes=1,
    folds=2,
    seeds=2,
    tuning_seeds=1,
    splits=2,
    rounds=2,
)


@pytest.fixture(scope="module")
def images():
    return data.load()


def fewer(monkeypatch):
    """Leave out most activations, each of which is a compilation or more."""
    words = {word: models.ACTIVATIONS[word] for word in ("relu", "tanh")}
    monkeypatch.setattr(models, "ACTIVATIONS", words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a small run of the whole command."""
    out = tmp_path_factory.mktemp("adam_vs_sgd") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        fewer(monkeypatch)
        printed = support.finished("adam-vs-sgd", SMALL, out)
    assert printed.startswith(data.load().origin)
    assert "part 3 of 9: tuning\n" in printed
    return out


def parameters():
    keys = jax.random.split(jax.random.key(0), 2)
    return {"kernel": jax.random.normal(keys[0], (3, 2)), "bias": jax.random.normal(keys[1], (2,))}


def test_the_penalty_is_the_gradient_of_half_the_squared_weights():
    config = Config(penalty=0.3)
    params, gradient = parameters(), jax.tree.map(jnp.cos, parameters())

    def objective(p):
        linear = sum(jax.tree.leaves(jax.tree.map(lambda g, x: jnp.sum(g * x), gradient, p)))
        return linear + 0.3 * models.squared_norm(p) / 2

    tx = build(config, "sgd", 0.1, 0.9)
    actual, _ = tx.update(gradient, tx.init(params), params)
    expected = jax.tree.map(lambda g: -0.1 * g, jax.grad(objective)(params))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=RTOL), actual, expected)


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("sgd", optax.sgd(0.01)),
        ("momentum", optax.sgd(0.01, momentum=0.8)),
        ("nesterov", optax.sgd(0.01, momentum=0.8, nesterov=True)),
        ("nested", optax.chain(*[optax.ema(0.8, debias=False)] * 2, optax.scale(-0.01))),
        # A delay of 4 steps, shared out to two averages: each of decay 2 / 3.
        ("nested_matched", optax.chain(*[optax.ema(2 / 3, debias=False)] * 2, optax.scale(-0.01))),
        ("adagrad", optax.adagrad(0.01)),
        ("rmsprop", optax.rmsprop(0.01, decay=0.98)),
        ("adam", optax.adam(0.01, b1=0.8)),
        (
            "adamw",
            optax.adamw(0.01, b1=0.8, weight_decay=0.02, mask={"kernel": True, "bias": False}),
        ),
    ],
)
def test_methods_are_what_they_are_called(method, reference):
    tx = build(Config(penalty=0, weight_decay=0.02), method, 0.01, 0.8)
    params = parameters()

    def trained(tx):
        state, found = tx.init(params), params
        for i in range(5):
            gradient = jax.tree.map(lambda p, i=i: jnp.sin(3 * p + i), found)
            update, state = tx.update(gradient, state, found)
            found = optax.apply_updates(found, update)
        return found

    actual, expected = trained(tx), trained(reference)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=RTOL), actual, expected)


def test_every_method_can_do_without_penalty_and_decay():
    config, params = Config(penalty=0.5, weight_decay=0.5), parameters()
    still = jax.tree.map(jnp.zeros_like, params)
    for method in METHODS:
        for share, moved in ((0.0, False), (1.0, True)):
            tx = build(config, method, 0.1, 0.9, share)
            update, _ = tx.update(still, tx.init(params), params)
            assert bool(jnp.abs(update["kernel"]).max() > 0) == moved, method
            assert not jnp.abs(update["bias"]).any(), method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_rate_and_a_momentum_that_may_be_swept(method):
    config, params = Config(), parameters()

    def update(rate, momentum):
        tx = build(config, method, rate, momentum)
        return tx.update(params, tx.init(params), params)[0]

    found = jax.eval_shape(update, 0.1, 0.9)
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(lambda x: x.shape, params)


@pytest.mark.parametrize("size", [1, 50])
def test_training_learns_the_examples_drawn_each_after_its_loss_was_taken(images, size):
    model, examples = training.network(SMALL, images), training.training_set(images)
    start = training.start(SMALL, images, "online", 2)
    params = jax.tree.map(lambda x: x[1, 1], start.params)
    problem = nj.classification(model.apply, model.init, *examples, batch_size=size)
    tx = nj.scale_by_learning_rate(0.05)
    trace = training.train(SMALL, tx, problem, params, start.draws[1], size)

    @jax.jit
    def step(params, at):
        def loss(p):
            z = model.apply(p, examples[0][at])
            return (jax.nn.logsumexp(z, 1) - z[jnp.arange(size), examples[1][at]]).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), value

    losses = []
    for at in np.asarray(start.draws[1]).reshape(-1, size) % len(images.train_labels):
        params, value = step(params, at)
        losses.append(value)
    expected = np.asarray(losses).reshape(1000 // SPAN, -1).mean(1)
    np.testing.assert_allclose(trace.loss_curve, expected, rtol=1e-4)  # Roundings of 1,000 steps.


def test_a_fold_is_evaluated_on_what_was_not_trained_on(images):
    bound = runs._validated(SMALL, images)
    point = {"optimizer": "momentum", "learning_rate": 0.1, "initialisation": 0, "fold": 1}
    found = bound(**point)
    mask = nj.held_out_masks(len(images.train_labels), 2, seed=SMALL.seed)[1]
    start = training.start(SMALL, images, "tuning", 2)
    model = training.network(SMALL, images)
    seen = images.train_images[~mask], images.train_labels[~mask]
    problem = nj.classification(model.apply, model.init, *seen, batch_size=50)
    params = jax.tree.map(lambda x: x[0, 1], start.params)
    tx = build(SMALL, "momentum", 0.1, 0.9)
    trace = training.train(SMALL, tx, problem, params, start.draws[1], 50, curve=False)
    logits = np.asarray(model.apply(trace.params, images.train_images[mask]))
    expected = float((logits.argmax(1) != images.train_labels[mask]).mean())
    assert float(found["error"]) == pytest.approx(expected, abs=1.01 / int(mask.sum()))
    assert not bool(found["diverged"])


def test_evaluation_in_parts_and_at_once_is_that_of_numpy(images, monkeypatch):
    model = training.network(SMALL, images)
    params = model.init(jax.random.key(3))
    x, y = images.test_images[:7], images.test_labels[:7]
    z = np.asarray(model.apply(params, x), np.float64)
    expected = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(7), y]), np.mean(z.argmax(1) != y)
    for size in (7, 3):
        monkeypatch.setattr(training, "EVALUATED", size)
        np.testing.assert_allclose(training.evaluate(model, params, x, y), expected, rtol=RTOL)


def test_numbers_that_are_none_count_as_errors(images):
    model = training.network(SMALL, images)
    params = jax.tree.map(lambda p: p * jnp.nan, model.init(jax.random.key(3)))
    _, error = training.evaluate(model, params, images.test_images, images.test_labels)
    assert float(error) == 1


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


def where(folder, images):
    device = jax.devices("cpu")[0]
    return lab.Lab(folder=folder, device=device, parts=EXPERIMENT.parts, images=images)


@pytest.mark.slow
def test_the_notes_picture(images, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ONLINE_RATES", np.array([1e-3]))
    config = Config(methods="few", seeds=2, tuning_seeds=1)
    with support.compiling(quickly=False):
        results = runs.online(config, where(tmp_path, images))
    curve = results.curve.sel(penalised=1).isel(learning_rate=0)
    curves = {m: curve.sel(optimizer=m) for m in ("sgd", "adam")}
    assert curve.sizes["span"] * SPAN == 20_000
    assert numbers.ahead_from(curves) <= 3000
    last = {m: numbers.running_mean(c)[1][:, -1] for m, c in curves.items()}
    assert (last["adam"] < 0.5 * last["sgd"]).all()


@pytest.mark.slow
def test_writes_every_result_and_figure(folder):
    described = json.loads((folder / "config.json").read_text())
    assert described["parts"] == [*EXPERIMENT.parts]
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures == {
        "online",
        "online_rates",
        "gains",
        "rates",
        "final",
        "activations",
        "generalization",
    }
    page = (folder / "report.html").read_text()
    for name in FEW:
        assert METHODS[name].title in page
    found = load(folder / "timing.nc")
    assert found.seconds.shape == (len(FEW), 2)
    assert (found.seconds > 0).all()
    for method, copies in {"sgd": 0, "momentum": 1, "adam": 2}.items():
        assert float(found.state.sel(optimizer=method)) == pytest.approx(copies, abs=0.05)


def test_states_hold_copies_of_the_weights():
    params = {"kernel": jnp.ones((60, 50)), "bias": jnp.ones(50)}
    held = {"sgd": 0, "nested": 2, "nested_matched": 2, "adam": 2, "adamw": 2}
    for method in METHODS:
        copies = timing._held(Config(), method, params)
        # Beside them counts, gains, and Adafactor's rows and columns.
        assert copies == pytest.approx(held.get(method, 1), abs=0.06), method


@pytest.mark.slow
def test_times_that_are_damaged_are_refused(folder, images, tmp_path):
    path = tmp_path / "store" / "timing.nc"
    path.parent.mkdir()
    content = (folder / "store" / "timing.nc").read_bytes()
    for part in (b"", content[:100], content[:-100]):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="`store` must have times that can be read, got "):
            timing.timing(SMALL, where(tmp_path, images))
    path.write_bytes(content)
    assert timing.timing(SMALL, where(tmp_path, images)).identical(load(folder / "timing.nc"))


@pytest.mark.slow
def test_the_report_states_the_stored_results(folder):
    results = {name: load(folder / f"{name}.nc") for name in EXPERIMENT.parts}
    sections = report.sections(SMALL, results)
    assert all(section.answer for section in sections)
    # A number by hand: Adam's test error, the median of 2 and both.
    errors = 100 * results["final"].test_error.sel(optimizer="adam").values
    table = sections[2].tables[0]
    cell = next(row for row in table.rows if row[0] == "Adam")[table.header.index("test error")]
    assert cell.startswith(f"{errors.mean():.3g} [{errors.min():.3g}, {errors.max():.3g}]")
    assert f"Adam {numbers.percent(errors)}" in sections[0].answer
    page = (folder / "report.html").read_text()
    assert all(
        section.answer.partition(";")[0].replace("'", "&#39;") in page for section in sections
    )


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


@pytest.mark.slow
def test_goes_on_where_it_was_stopped(folder, monkeypatch, undrawn):
    fewer(monkeypatch)
    store = folder / "store"
    files = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    page = folder / "report.html"
    text = support.text_of(page.read_text())
    lost, damaged, *_ = sorted((store / "tuning").glob("chunk-*"))[1:]
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (folder / "final.nc").unlink()
    undrawn()
    support.finished("adam-vs-sgd", SMALL, folder)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == files
    assert support.text_of(page.read_text()) == text


@pytest.mark.slow
def test_nothing_but_the_last_part_sees_the_test_images(folder, images, monkeypatch):
    fewer(monkeypatch)
    other = images._replace(test_images=images.test_images * np.float32(np.nan))
    there = where(folder, other)
    # A store accepts nothing that another program or other arguments would have made.
    for part in (runs.online, races.one_pass, runs.activations, runs.schedules, races.races):
        part(SMALL, there)
    validated = runs.tuning(SMALL, there)
    with pytest.raises(ValueError, match="differ in arguments"):
        runs.final(SMALL, there, validated)


def test_an_estimate_grows_with_the_examples(images, tmp_path, monkeypatch):
    # Of work that takes a second for every thousand examples and run.
    def swept(bound, grid, progress):
        seconds = 1e-3 * grid.size * bound
        return xr.Dataset(attrs={"run_seconds": seconds + 7})

    monkeypatch.setattr(runs, "_validated", lambda config, images: config.examples)
    monkeypatch.setattr(runs.nj, "sweep", swept)
    trained = 3 * 1 * 10 * 3 * 6 + 3 * 2 * 10 * 6  # Tuned, and with other activations.
    trained += 2 * 10 * 3 * 2 * 6 + 3 * 3 * 13 * 3 * 2  # Schedules, and other models.
    trained += 3 * 10 * 1 * 2  # Generalization.
    alone = 10 * 3 * 8 * 2 * 3 * (1 + 1438 / 1000)  # Online, and one pass.
    expected = 1e-3 * 1000 * (trained + alone)
    assert runs.estimate(SMALL, where(tmp_path, images)) == pytest.approx(expected)


def test_images_are_read_once(monkeypatch, tmp_path):
    calls, read = [], data.load

    def load(name, download):
        calls.append(name)
        return read(name, download=download)

    def simulate(config, lab):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(runs, "simulate", simulate)
    assert support.run("adam-vs-sgd", "--out", tmp_path / "a") == 130
    assert calls == ["digits"]
