"""Tests of the Adafactor experiment: gauges, the change of labels, memory, resuming, the report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import xarray as xr

from experiments import lab
from experiments.adafactor import EXPERIMENT, Config, clipping, memory, numbers, report, runs
from experiments.lab import data
from experiments.lab import figures as lab_figures

FLOAT32_RTOL = 1e-5  # Parameters and statistics are float32, and 64 numbers are averaged.
TINY = Config(hidden=8, batch_size=4, steps=100, caps=2, seeds=2)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return a laboratory in a new folder."""
    folder = tmp_path_factory.mktemp("adafactor")
    return lab.Lab(folder=folder, device=None, parts=EXPERIMENT.parts, images=data.load())


def simulated(here):
    """Run a small experiment; weigh the states of two of the models."""
    models = memory.shapes(TINY, data.load())
    two = {name: models[name] for name in ("MLP 784-256-256-10", "matrix 4096 × 4096")}
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(memory, "shapes", lambda config, images: two)
        return runs.simulate(TINY, here)


@pytest.fixture(scope="module")
def results(here):
    return simulated(here)


@pytest.fixture(scope="module")
def training(results):
    return results["training"]


def test_decays_are_those_of_their_names(x64):
    t = np.array([1.0, 2.0, 10.0, 1000.0])
    counts = jnp.asarray(t - 1, jnp.int32)
    found = [np.array([runs.beta2(kind)(c) for c in counts]) for kind in range(6)]
    expected = [1 - t**-0.5, 1 - t**-0.8, 1 - 1 / t, 0.99 + 0 * t, 0.999 + 0 * t]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-12)
    # Adam's corrected second moment of random squares is the recursion with the last decay.
    squares = np.random.default_rng(0).exponential(size=30)
    v, recursive = 0.0, 0.0
    for i, square in enumerate(squares):
        v = 0.999 * v + 0.001 * square
        keep = float(runs.beta2(5)(jnp.int32(i)))
        recursive = keep * recursive + (1 - keep) * square
    np.testing.assert_allclose(recursive, v / (1 - 0.999**30), rtol=1e-12)


@pytest.mark.slow
def test_first_gauges_are_the_closed_form(training):
    first = training.update_rms.isel(t=0)
    paper = first.sel(beta2=runs.PAPER)
    for beta2, ratio in (("0.99", 10.0), ("0.999", 1000**0.5), ("0.999, corrected", 1.0)):
        np.testing.assert_allclose(first.sel(beta2=beta2) / paper, ratio, rtol=FLOAT32_RTOL)
    # The first update of a vector is its gradient's sign.
    assert np.all(first >= 1 - FLOAT32_RTOL)


@pytest.mark.slow
def test_clip_factor_is_threshold_over_gauge(training):
    clipped = training.sel(clip=1.0)
    expected = 1 / np.maximum(1, clipped.update_rms)
    np.testing.assert_allclose(clipped.clip_factor, expected, rtol=FLOAT32_RTOL)
    assert np.all(training.sel(clip=1e30).clip_factor == 1)


@pytest.mark.slow
def test_rates_are_those_of_the_step(training):
    t, cap = training.t.values, training.cap.values[:, None]
    paper = np.minimum(cap, 1 / np.sqrt(t))
    ramp = np.minimum(1, t / (TINY.steps // 10))
    for name, expected in (("relative", paper), ("ramp-up", paper * ramp)):
        rates = training.rate.sel(step=name).isel(beta2=0, clip=0, seed=0).transpose("cap", "t")
        np.testing.assert_allclose(rates, expected, rtol=FLOAT32_RTOL)
    decay = training.rate.sel(step="ramp-up and decay").isel(beta2=0, clip=0, seed=0)
    np.testing.assert_allclose(decay.max("t") / training.cap, 1, rtol=0.05)
    assert np.all(decay.isel(t=-1) < 0.01 * training.cap)


@pytest.mark.slow
def test_labels_change_half_way(results, training):
    shifted = results["shift"]
    half = TINY.steps // 2
    still = training.sel(step="relative").sel(cap=runs.CAP, method="nearest")
    before, after = shifted.t <= half, shifted.t > half
    both = [x.update_rms.transpose("beta2", "clip", "seed", "t") for x in (shifted, still)]
    same = [x.isel(t=np.flatnonzero(before)).values for x in both]
    # The last step before the change sees old labels, the first one after it new ones.
    np.testing.assert_allclose(*same, rtol=1e-2)
    other = [x.isel(t=np.flatnonzero(after)).values for x in both]
    assert np.mean(np.isclose(other[0][..., 0], other[1][..., 0], rtol=1e-2)) < 0.2


@pytest.fixture
def moment():
    return np.random.default_rng(0).gamma(0.5, size=(4, 3))


def test_rows_and_columns_are_the_optimum_of_the_divergence(moment):
    # A rank-one matrix exp(r + c); c[0] = 0, as r and -c can be shifted together.
    def matrix(x):
        return np.exp(np.add.outer(x[:4], np.append(0, x[4:])))

    def gradient(x):
        excess = matrix(x) - moment
        return np.concatenate([excess.sum(1), excess.sum(0)[1:]])

    def hessian(x):
        full = matrix(x)
        joint = np.block([[np.diag(full.sum(1)), full], [full.T, np.diag(full.sum(0))]])
        return np.delete(np.delete(joint, 4, 0), 4, 1)

    def loss(x):
        return moment.sum() * numbers.divergence(moment, matrix(x))

    # Newton's method: the error of its last step is squared, so 1e-9 is a test of the formula.
    options = {"method": "trust-exact", "jac": gradient, "hess": hessian}
    found = scipy.optimize.minimize(loss, np.zeros(6), **options, options={"gtol": 1e-12})
    expected = matrix(found.x)
    np.testing.assert_allclose(numbers.rows_and_columns(moment), expected, rtol=1e-9)
    least = numbers.divergence(moment, numbers.rows_and_columns(moment))
    np.testing.assert_allclose(least, found.fun / moment.sum(), rtol=1e-9)


def test_approximations_are_exact_for_their_kinds_of_moments(moment):
    left, right = np.array([1.0, 4.0, 0.0]), np.array([2.0, 8.0])
    one, equal = np.outer(left, right), np.outer(left, np.ones(2))
    for kinds, v in (("rows × columns", "singular values"), one), (("rows alone",), equal):
        for kind in kinds:
            np.testing.assert_allclose(numbers.APPROXIMATIONS[kind](v), v, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(numbers.columns(equal.T), equal.T)
    # 3 log 2 - 3 + 1.5 and 1 log 2/3 - 1 + 1.5: columns alone of (3, 1), by hand.
    v = np.array([[3.0], [1.0]])
    by_hand = (3 * np.log(1.5) + np.log(0.5)) / 4
    np.testing.assert_allclose(numbers.divergence(v, numbers.columns(v)), by_hand, rtol=1e-14)
    # The divergence of sums is minimal within each family, so more freedom loses less.
    lost = {
        name: numbers.divergence(moment, f(moment)) for name, f in numbers.APPROXIMATIONS.items()
    }
    assert min(lost, key=lost.__getitem__) == "rows × columns"


def losses_over_caps(*rows):
    """Return losses whose rows are seeds and whose columns are caps."""
    return xr.DataArray(np.array(rows), {"cap": [0.1, 1.0, 10.0]}, ("seed", "cap"))


def test_a_seed_does_not_choose_its_own_cap():
    losses = losses_over_caps([2.0, 1.0, np.nan], [2.0, 1.0, 9.0], [0.1, 1.0, 5.0])
    assert numbers.best_cap(losses) == 0.1
    # Best of the last two: 0.1. Of the first and the last, too. Of the first two: 1.
    np.testing.assert_allclose(numbers.at_best_cap(losses), [2.0, 2.0, 1.0], rtol=1e-14)


def made_up(free, clipped):
    """Return training and shift with known losses: rows are seeds, columns caps."""
    kinds, clips, t = [*runs.BETAS], [*runs.CLIPS], [1, 2]
    losses = np.stack([np.array(clipped), np.array(free)])
    training = xr.Dataset(
        {
            "train_loss": (("clip", "seed", "cap"), losses),
            "update_rms": (("clip", "seed", "cap", "t"), np.full((2, 3, 2, 2), 7.0)),
        },
        {"clip": clips, "cap": [0.01, 0.1], "t": t},
    )
    gauges = np.full((2, 3, 2), 9.0)
    shifted = xr.Dataset({"update_rms": (("clip", "seed", "t"), gauges)}, {"clip": clips, "t": t})
    return (data.expand_dims(beta2=kinds) for data in (training, shifted))


LOW, HIGH = [[3.0, 0.10], [3.0, 0.11], [3.0, 0.12]], [[0.4, 3.0], [0.44, 3.0], [0.48, 3.0]]


@pytest.mark.parametrize(
    ("free", "clipped", "effect"),
    [
        (HIGH, LOW, "clipping makes the last training loss 4 [4, 4] times lower"),
        (LOW, HIGH, "clipping makes the last training loss 4 [4, 4] times higher"),
        (LOW, LOW, "clipping makes no difference larger than a factor of 1 "),
        ([[np.nan, np.nan]] * 3, LOW, "clipping makes a difference that diverged runs leave open"),
    ],
)
def test_clipping_is_judged_at_the_best_caps(free, clipped, effect):
    section = clipping.clipping(*made_up(free, clipped))
    assert effect in section.answer
    assert "begins at 7 and 7, and rises to 9 and 9 when" in section.answer


def test_states_weigh_what_their_shapes_say():
    shapes = {
        "w": jax.ShapeDtypeStruct((30, 20), jnp.float32),
        "b": jax.ShapeDtypeStruct((7,), jnp.float32),
    }
    n = 30 * 20 + 7
    found = {name: memory.weights(make(), shapes) for name, make in memory.OPTIMIZERS.items()}
    # Beside the trees: Adam's two gains, a count or two, gauges and rates.
    numbers = {
        "momentum": n,
        "Adam": 2 * n,
        "AMSGrad": 3 * n,
        "Adafactor": 30 + 20 + 7,
        "Adafactor, not factored": n,
        "Adafactor, β₁ = 0.9": n + 30 + 20 + 7,
    }
    for name, count in numbers.items():
        size, state, xla_state, _ = found[name]
        assert size == 4 * n
        assert 0 <= state - 4 * count <= 4 * 8
        assert xla_state == state


def test_models_are_of_the_sizes_that_they_are_called():
    models = memory.shapes(TINY, data.load())
    counts = [sum(leaf.size for leaf in jax.tree.leaves(model)) for model in models.values()]
    mlps = [65 * 8 + 9 * 10, 785 * 256 + 257 * 256 + 257 * 10]
    assert counts == [*mlps, 4 * 512**2 + 2 * 512 * 2048 + 2048, 4096**2]


@pytest.mark.slow
def test_memory_is_that_of_optax_where_it_is_the_same(results):
    found = results["memory"].isel(model=0)
    params = {"w": jnp.zeros(int(found.params.isel(optimizer=0)) // 4)}
    state = optax.adam(1e-3).init(params)
    expected = sum(x.nbytes for x in jax.tree.leaves(state))
    assert abs(int(found.state.sel(optimizer="Adam")) - expected) <= 32


def test_times_hold_the_first_step_the_change_and_the_last():
    for steps in (100, 2000):
        at = runs.times(dataclasses.replace(TINY, steps=steps))
        assert {1, steps // 2, steps // 2 + 1, steps} <= set(at)
        assert np.all(np.diff(at) > 0)


@pytest.mark.slow
def test_a_run_resumes_and_its_report_has_its_numbers(here, results):
    sections = report.sections(TINY, results)
    assert [len(section.figures) for section in sections] == [1] * 6
    stored = {path: path.stat().st_mtime_ns for path in here.folder.glob("store/*/*.npz")}
    for name, again in simulated(here).items():
        xr.testing.assert_equal(again, results[name])
    assert {path.parent.name for path in stored} == {"training", "shift", "factored"}
    assert {path: path.stat().st_mtime_ns for path in stored} == stored, "computed again"
    lost = lab_figures.factor(numbers.divergences(results["factored"])[:, 0, 0])
    assert f"On the first layer, rows × columns lose {lost} of" in sections[1].answer
    changed = results["memory"].copy(deep=True)
    changed["state"][-1, 1] = 77 * 2**20
    answers = [x.answer for x in report.sections(TINY, results | {"memory": changed})]
    assert "Adam holds 77 MiB" in answers[-1]
    assert "Adam holds 77 MiB" not in sections[-1].answer
