"""Tests of the heatmaps: the measure of diagonality, the cells, and what the report says."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from experiments import lab
from experiments.heatmaps import EXPERIMENT, answers, best, numbers, runs, slopes, variants
from experiments.heatmaps.config import VARIANTS, Config
from experiments.lab import data

GUESS = float(np.log(10))
SMALL = Config(width=4, depth=1, batch_size=4, steps=4, seeds=2, quick=True)


# A made basin: log loss = ((x - centre(rate)) / width)^2 + (rate / 4)^2, of known slope.


def basin(slope, seeds=4, noise=0.0, width=3.0, offset=-8.0, tilt=0.0):
    """Return results whose best decay moves by `slope` powers of two for one of the rate."""
    rates, decays = np.arange(-11.0, 0.0), np.arange(-14.0, -2.0)
    centre = offset + slope * (rates[:, None, None] + 5)
    centre = centre + tilt * (np.arange(seeds) - (seeds - 1) / 2) * (rates[:, None, None] + 5)
    logs = ((decays[None, :, None] - centre) / width) ** 2 + (rates[:, None, None] + 5) ** 2 / 16
    logs = logs - 4 + noise * np.random.default_rng(0).normal(size=logs.shape)
    return xr.Dataset(
        {"validation_loss": (("learning_rate", "weight_decay", "seed"), np.exp(logs))},
        coords={"learning_rate": 2.0**rates, "weight_decay": 2.0**decays, "seed": np.arange(seeds)},
        attrs={"guess": GUESS},
    )


def best_slope(results):
    """Return the slope of the best decay."""
    return numbers.trends(results)["best"].slope


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.5, 1.0])
def test_the_slope_of_a_made_basin_is_found(slope):
    best, tolerable = numbers.trends(basin(slope)).values()
    rates = np.arange(-11, 0)
    clear = np.isfinite(best.decays)
    assert clear.sum() >= numbers.FEWEST
    np.testing.assert_allclose(best.decays[clear], (-8 + slope * (rates + 5))[clear], atol=0.05)
    # Parabolas a few cells wide, sampled at whole powers.
    assert abs(best.slope.estimate - slope) < 0.02
    assert best.slope.high - best.slope.low < 1e-9
    # The loss doubles at the best plus width * sqrt(ln 2), between cells by a line.
    edge = tolerable.decays - (-8 + slope * (rates + 5))
    np.testing.assert_allclose(edge[np.isfinite(edge)], 3 * np.sqrt(np.log(2)), atol=0.15)
    assert abs(tolerable.slope.estimate - slope) < 0.05


def test_the_interval_of_a_noisy_basin_includes_zero():
    slope = best_slope(basin(0.0, seeds=6, noise=0.1))
    assert slope.includes_zero
    assert 0 < slope.high - slope.low < 1


def test_the_interval_is_that_of_the_mean_where_seeds_only_tilt():
    # Seed k has the slope 0.5 + 0.2 (k - 1.5): to first order the jackknife is their t interval.
    slope = best_slope(basin(0.5, tilt=0.2))
    own = 0.5 + 0.2 * (np.arange(4) - 1.5)
    expected = 3.182446 * own.std(ddof=1) / 2
    np.testing.assert_allclose((slope.high - slope.low) / 2, expected, rtol=0.15)


def test_a_decay_as_good_as_none_is_not_a_clear_best_decay():
    flat = basin(0.0)
    logs = np.log(flat.validation_loss)
    flat["validation_loss"] = np.exp(
        logs.where(flat.weight_decay > 2.0**-8, logs.sel(weight_decay=2**-8))
    )
    best, tolerable = numbers.trends(flat).values()
    assert np.isnan(best.decays).all()
    assert best.slope is None
    assert tolerable.slope is not None


def test_too_few_rates_have_no_slope():
    assert best_slope(basin(1.0).isel(learning_rate=slice(5, 7))) is None


def test_diverged_cells_count_as_guessing():
    results = basin(1.0)
    at = {"learning_rate": 2.0**-1, "weight_decay": 2.0**-14}
    for value in (np.nan, np.inf, 1e30):
        results.validation_loss.loc[at] = value
        assert best.log_losses(results).max() == np.log(GUESS)
        assert abs(best_slope(results).estimate - 1) < 0.02


def test_differences_are_paired():
    plain, tilted = (best_slope(basin(s, tilt=0.2)) for s in (0.0, 0.5))
    change = slopes.difference(plain, tilted)
    assert abs(change.estimate - 0.5) < 0.02
    # The seeds tilt both alike: what they share is gone.
    assert change.high - change.low < 0.2 * (plain.high - plain.low)
    assert slopes.difference(None, plain) is None


def test_the_best_cell_is_that_of_the_mean_logarithm():
    results = basin(0.0)
    cell = best.best_cell(results)
    assert (float(cell.learning_rate), float(cell.weight_decay)) == (2.0**-5, 2.0**-8)
    assert cell.validation_loss.shape == (4,)


# Run lengths, and other units.


def by_length(power, seeds=4, noise=0.0):
    """Return results whose best normalized decay is 2^-4 (T / 1024)^power at every rate."""
    steps, rates, decays = 2.0 ** np.arange(8, 13), 2.0 ** np.arange(-9.0, -5.0), np.arange(-9, 3)
    centre = -4 + power * (np.log2(steps) - 10)
    logs = ((decays - centre[:, None]) / 3.0) ** 2
    logs = np.broadcast_to(logs[:, None, :, None], (5, 4, 12, seeds)) - 4
    logs = logs + noise * np.random.default_rng(0).normal(size=logs.shape)
    coords = {"steps": steps, "learning_rate": rates, "weight_decay": 2.0**decays}
    dims = ("steps", "learning_rate", "weight_decay", "seed")
    return xr.Dataset({"validation_loss": (dims, np.exp(logs))}, coords, {"guess": GUESS})


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.5])
def test_the_slope_by_length_is_found_in_both_units(power):
    found = numbers.by_length(by_length(power))
    for which in ("best", "tolerable"):
        lengths = found[which]
        # Parabolas a few cells wide, sampled at whole powers, as in the basins above.
        assert abs(lengths.normalized.estimate - power) < 0.05, which
        # The plain decay is the normalized one over the root of the length.
        np.testing.assert_allclose(lengths.plain.estimate, lengths.normalized.estimate - 0.5)
        np.testing.assert_allclose(lengths.plain.low, lengths.normalized.low - 0.5)
        assert [np.isfinite(trend.decays).sum() for trend in lengths.trends] == [5] * 4, which


def test_a_rate_counts_only_at_lengths_where_it_is_near_the_best():
    results = by_length(0.0)
    # Three times the loss of the best rate, at the two shortest lengths.
    results.validation_loss[:2, 0] *= 3
    lengths = numbers.by_length(results)["best"]
    assert np.isnan(lengths.trends[0].decays).tolist() == [True, True, False, False, False]
    assert not np.isnan(lengths.trends[1].decays).any()


@pytest.mark.parametrize(
    ("power", "noise", "says"),
    [
        (0.0, 0.02, "Yes: the best normalized decay stays"),
        (0.5, 0.02, "No: the best plain decay stays"),
        (0.4, 0.0, "No: the best normalized decay moves with length, and more"),
        (0.1, 0.0, "In part: the best normalized decay moves"),
        (0.2, 1.0, "Perhaps: "),
    ],
)
def test_the_answer_says_which_decay_stays_with_length(power, noise, says):
    lengths = numbers.by_length(by_length(power, noise=noise))
    assert next(iter(answers.lengths(lengths))).startswith(says)


def test_too_few_lengths_have_no_slope():
    lengths = numbers.by_length(by_length(0.0).isel(steps=slice(2)))
    assert (lengths["best"].normalized, lengths["best"].plain) == (None, None)
    assert next(iter(answers.lengths(lengths))).startswith("Too few lengths")


def test_the_mean_of_slopes_leaves_a_seed_out_of_all_at_once():
    first, second = (best_slope(basin(s, tilt=0.2)) for s in (0.0, 0.5))
    mean = slopes.mean_of([first, second])
    np.testing.assert_allclose(mean.estimate, (first.estimate + second.estimate) / 2)
    # Both tilt alike, so that their mean knows no more than each.
    np.testing.assert_allclose(mean.high - mean.low, first.high - first.low, rtol=0.05)
    assert slopes.mean_of([]) is None


def decoupled(paper, l2):
    """Return the slopes of the three decays, and the answer, of basins with these slopes."""
    results = {"adamw-cosine": basin(paper, tilt=0.02), "l2-cosine": basin(l2, tilt=0.02)}
    found = {name: numbers.trends(one) for name, one in results.items()}
    return numbers.decoupling(found), [*answers.decoupled(found)]


def test_the_parametrisation_shifts_the_slope_and_the_answer_compares_l2_with_the_better():
    found, says = decoupled(0.75, 0.25)
    slope = {name: both["tolerable"].estimate for name, both in found.items()}
    np.testing.assert_allclose(slope[numbers.SCALED], slope[numbers.PAPER] - 1)
    # The better of 0.75 and -0.25 is as far from 0 as 0.25, on the other side.
    assert says[0] == "No."
    assert "By the best decay, L2 is not clearly less separable" in says[1]
    assert "By the tolerable decay, L2 is more separable" in decoupled(0.75, 0.0)[1][2]
    assert decoupled(0.75, 0.75)[1][0] == "Yes."
    found = {"adamw-cosine": numbers.trends(basin(0.75)), "l2-cosine": NOTHING}
    assert next(iter(answers.decoupled(found))).startswith("Too few learning rates")


NOTHING = dict.fromkeys(("best", "tolerable"), numbers.Trend(np.full(11, np.nan), None))


# The cells.


def test_every_heatmap_has_its_cells():
    assert len(VARIANTS) == 16
    for variant in VARIANTS.values():
        grid = runs.grid(Config(), variant)
        assert grid.shape[0] * grid.shape[1] == 132
        assert grid.shape[2] == Config().seeds >= 3
    words = {name.rpartition("-")[0] for name in VARIANTS if name.startswith("adamw")}
    assert words >= {"adamw-cosine", "adamw-fixed", "adamw-step_drop", "adamw-warm_restarts"}


@pytest.mark.parametrize("schedule", ["fixed", "step_drop", "cosine"])
def test_of_one_cycle_both_heatmaps_are_the_same_in_other_units(schedule):
    config = dataclasses.replace(Config(), steps=64)
    plain, normalized = (VARIANTS[f"adamw-{schedule}{suffix}"] for suffix in ("", "-normalized"))
    decays = [
        runs.grid(config, variant)["weight_decay"].columns["weight_decay"]
        for variant in (plain, normalized)
    ]
    np.testing.assert_array_equal(8 * decays[0], decays[1])  # sqrt(64)
    np.testing.assert_allclose(
        end(optimizer(plain, 0.1, 0.01)),
        end(optimizer(normalized, 0.1, 0.08)),
        rtol=64 * np.finfo("float32").eps,
    )


def optimizer(variant, learning_rate, across):
    """Return the optimizer of a cell for 64 steps."""
    return variants.optimizer(variant, variants.table(variant, 64), learning_rate, across)


def end(tx):
    """Return the parameters after 64 steps on given gradients."""
    gradients = jax.random.normal(jax.random.key(0), (64, 3))

    def step(carry, gradient):
        params, state = carry
        update, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, update), state), None

    return jax.lax.scan(step, (jnp.ones(3), tx.init(jnp.ones(3))), gradients)[0][0]


def test_a_decay_times_the_rate_is_the_same_training_in_other_units(x64):
    # The report derives the slope of optax's decay from that of the paper's: it is 1 less.
    schedule = optax.cosine_decay_schedule(1.0, 64)
    theirs = optax.adamw(lambda step: 0.1 * schedule(step), weight_decay=0.01 / 0.1)
    ours = optimizer(VARIANTS["adamw-cosine"], 0.1, 0.01)
    np.testing.assert_allclose(end(ours), end(theirs), rtol=1e-10)  # As below.


def test_l2_adds_the_penalty_to_the_gradient(x64):
    # Adam of float64 in NumPy; the gradients are those of `end`.
    gradients = np.asarray(jax.random.normal(jax.random.key(0), (64, 3)))
    theta, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for t, gradient in enumerate(gradients):
        g = gradient + 0.3 * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        theta = theta - 0.05 * (1 + np.cos(np.pi * t / 64)) / 2 * adam
    ours = optimizer(VARIANTS["l2-cosine"], 0.05, 0.3)
    np.testing.assert_allclose(end(ours), theta, rtol=1e-10)  # 64 steps of float64 roundings.


def test_a_cell_is_the_training_that_it_says(x64):
    # One cell of AdamW in float64, logistic regression, against NumPy.
    config = dataclasses.replace(Config(), depth=0, batch_size=3, steps=16, seeds=2)
    images = tiny()
    variant = VARIANTS["adamw-cosine-normalized"]
    drawn = runs.chance(config, images)
    drawn = jax.tree.map(lambda p: p.astype("float64"), drawn[0]), drawn[1]
    images = images._replace(
        train_images=images.train_images.astype("float64"),
        test_images=images.test_images.astype("float64"),
    )
    swept = runs.function(config, images, variant, drawn)
    rate, decay = 0.05, 0.3
    found = swept(learning_rate=rate, weight_decay=decay, seed=1)

    x, y = np.asarray(images.train_images), images.train_labels
    layer = drawn[0]["Dense_0"]
    params = np.concatenate([np.asarray(layer["kernel"])[1], np.asarray(layer["bias"])[1][None]])
    m, v = np.zeros_like(params), np.zeros_like(params)
    for t, draw in enumerate(np.asarray(drawn[1])[1]):
        at = draw % len(y)
        inputs = np.column_stack([x[at], np.ones(3)])
        errors = (softmax(inputs @ params) - np.eye(3)[y[at]]) / 3
        g = inputs.T @ errors
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        multiplier = (1 + np.cos(np.pi * t / 16)) / 2
        params = params - multiplier * (rate * step + decay / 4 * params)  # sqrt(16)
    for kind, part in (("train", "train"), ("validation", "test")):
        inputs = getattr(images, f"{part}_images")
        labels = getattr(images, f"{part}_labels")
        shares = softmax(np.column_stack([inputs, np.ones(len(labels))]) @ params)
        loss = -np.log(shares[np.arange(len(labels)), labels]).mean()
        np.testing.assert_allclose(found[f"{kind}_loss"], loss, rtol=1e-10)
        error = (shares.argmax(1) != labels).mean()
        np.testing.assert_allclose(found[f"{kind}_error"], error, rtol=1e-12)


def softmax(z):
    shares = np.exp(z - z.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def tiny():
    """Return images in three classes, of nine pixels."""
    rng = np.random.default_rng(0)
    pixels = {kind: rng.uniform(size=(n, 9)).astype("float32") for kind, n in SIZES.items()}
    labels = {kind: (np.arange(n) % 3).astype("int32") for kind, n in SIZES.items()}
    return data.Images(
        pixels["train"],
        labels["train"],
        pixels["test"],
        labels["test"],
        shape=(3, 3),
        name="tiny",
        source="nowhere",
        licence="none",
    )


SIZES = {"train": 23, "test": 11}


@pytest.mark.parametrize("evaluated", [4, 1000])
def test_evaluation_does_not_depend_on_its_parts(evaluated, monkeypatch):
    images = tiny()
    model = runs.network(dataclasses.replace(Config(), width=5), images)
    params = model.init(jax.random.key(0))
    monkeypatch.setattr(runs, "EVALUATED", evaluated)
    train = jnp.asarray(images.train_images), jnp.asarray(images.train_labels)
    test = jnp.asarray(images.test_images), jnp.asarray(images.test_labels)
    found = runs.evaluate(model, params, train, test)
    for kind, (pixels, labels) in (("train", train), ("validation", test)):
        logits = model.apply(params, pixels)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        np.testing.assert_allclose(found[f"{kind}_loss"], losses.mean(), rtol=1e-5)
        wrong = (logits.argmax(1) != labels).mean()
        np.testing.assert_allclose(found[f"{kind}_error"], wrong, rtol=1e-6)


def test_a_network_without_numbers_is_wrong_everywhere():
    images = tiny()
    model = runs.network(dataclasses.replace(Config(), width=5), images)
    params = jax.tree.map(lambda p: p * jnp.nan, model.init(jax.random.key(0)))
    part = jnp.asarray(images.train_images), jnp.asarray(images.train_labels)
    assert float(runs.evaluate(model, params, part, part)["validation_error"]) == 1


def test_the_estimate_is_of_all_runs_and_steps(tmp_path, monkeypatch):
    # Of 4 runs, 4 steps take 2 s and 24 steps take 6 s: 0.05 s a step, and 0.5 s beside 4 steps.
    seconds = iter([2.0, 6.0])

    def sweep(run, grid, **options):
        return xr.Dataset(attrs={"run_seconds": next(seconds)})

    monkeypatch.setattr(runs.nj, "sweep", sweep)
    config = dataclasses.replace(Config(), width=8, seeds=2, steps=100)
    place = lab.Lab(tmp_path, None, EXPERIMENT.parts, images=tiny())
    # 13 heatmaps and their 13 best cells of 2 seeds; 4 x 12 cells of 2 seeds at the
    # 4 lengths that are not the heatmaps' own.
    expected = 13 * (132 + 1) * 2 * (0.5 + 100 * 0.05)
    expected += 48 * 2 * (4 * 0.5 + (25 + 50 + 200 + 400) * 0.05)
    assert runs.estimate(config, place) == pytest.approx(expected)


# The answers.


def answer(slope, fitted=True):
    """Return the first answer if all heatmaps have the basin of this slope."""
    one = numbers.trends(basin(slope, tilt=0.1))
    one |= {} if fitted else {"best": one["best"]._replace(slope=None)}
    return list(answers.independence(dict.fromkeys(answers.ADAMW, one)))


def test_the_answer_says_whether_the_decay_follows_the_rate():
    says, slopes = answer(0.5)
    assert says == (
        "No: AdamW's best weight decay grows with the learning rate under all 5 schedules "
        "with a clear best decay."
    )
    assert re.fullmatch(r".* is 0\.\d\d for the best decay and 0\.\d\d for the tol.*", slopes)
    assert "changes with the learning rate" in answer(-0.5)[0]
    assert answer(0.0)[0].startswith("Perhaps: ")
    says, slopes = answer(0.5, fitted=False)
    assert says == "Too few learning rates have a clear best decay to fit a slope."
    assert "best" not in slopes
