"""Tests of sweeps in stages: what a rule stops, and the bits of the rest."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps import diverged, halving
from tests.sweeps.staged import GRID, RATES, STAGES, descend, sweep

FLOAT32_RTOL = 1e-5  # 72 steps that contract; a chunk of another shape may fuse in another way.


def assert_same_bits(one, two, where):
    for name in ("loss", "x", "steps"):
        a, b = (each[name].values[where.values] for each in (one, two))
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def unstopped():
    """Return the sweep in stages, of which nothing stops, by `over` and layout."""
    cases = itertools.product([(), ("seed",)], ["vmap", "lanes"])
    return {
        (over, layout): sweep(diverged("steps", over=over), layout=layout) for over, layout in cases
    }


def test_a_sweep_without_a_rule_returns_the_last_report(unstopped):
    whole = nj.sweep(descend, GRID)
    assert "stopped_at" not in whole
    finite = np.isfinite(whole.loss.values)
    for results in unstopped.values():
        # Two programs: the order of the roundings may differ.
        for name in ("loss", "x", "steps"):
            a, b = (each[name].values[finite] for each in (results, whole))
            np.testing.assert_allclose(a, b, rtol=FLOAT32_RTOL, atol=1e-7)
        assert (results.stopped_at == STAGES).all()
        assert (results.stopped_because == "").all()
    assert (whole.steps == 8 * STAGES).all()


@pytest.mark.parametrize("over", [(), ("seed",)])
@pytest.mark.parametrize("layout", ["vmap", "lanes"])
def test_the_runs_that_go_on_have_the_same_bits(unstopped, over, layout):
    """Whatever lane or chunk they move to, on one device and on two."""
    results = sweep(diverged("loss", bound=1e6, over=over), layout=layout)
    left = results.stopped_because == ""
    assert 0.3 < left.mean() < 0.7
    assert_same_bits(results, unstopped[over, layout], left)
    one = sweep(diverged("loss", bound=1e6, over=over), layout=layout, devices=jax.devices()[:1])
    assert one.equals(results)


def test_a_run_stops_at_the_stage_after_which_it_passed_the_bound():
    """Compared with the loop over the stages, one run at a time."""
    grid = GRID.sub(word=["a"])
    results = sweep(diverged("loss", bound=1e6), grid)
    for rate, seed in itertools.product(RATES, range(3)):
        run, losses = descend(rate, seed), []
        state, stage = run.init(), jax.jit(run.advance)
        while len(losses) < STAGES and (not losses or losses[-1] <= 1e6):
            state = stage(state, len(losses))
            losses.append(float(run.report(state)["loss"]))
        at = results.sel(word="a", rate=rate, seed=seed)
        assert int(at.stopped_at) == len(losses)
        expected = "" if losses[-1] <= 1e6 else "above the bound"
        expected = expected if np.isfinite(losses[-1]) else "not finite"
        assert str(at.stopped_because.values) == expected
        np.testing.assert_allclose(at.loss, losses[-1], rtol=1e-3)
        assert int(at.steps) == 8 * len(losses)


def test_the_runs_that_go_on_are_packed_into_fewer_chunks(computed):
    results = sweep(diverged("loss", bound=1e6))
    # Of 30 runs a word, chunks of 6; `init`, and then the stages.
    running = [(results.stopped_at > stage).sum(("rate", "seed")).values for stage in range(STAGES)]
    expected = [range(10), *(range(int(np.sum(-(-each // 6)))) for each in running)]
    assert computed == [*itertools.chain(*expected)]
    assert len(computed) < 70  # Of 100.
    # All chunks of a stage with nobody left: nothing more is computed.
    computed.clear()
    all_lost = sweep(diverged("loss", bound=-1.0))
    assert computed == [*range(10)] * 2
    assert (all_lost.stopped_at == 1).all()
    assert {*all_lost.stopped_because.values.ravel().tolist()} == {"above the bound", "not finite"}


def halve(losses, factor, mode="min"):
    """Return at which stage each cell stops, by lists: losses[cell][stage]."""
    cells = [*range(len(losses))]
    stopped, rungs = [STAGES] * len(losses), {factor**k: factor ** (k + 1) for k in range(10)}
    for done in range(1, STAGES + 1):
        for cell in [cell for cell in cells if not np.isfinite(losses[cell][done - 1])]:
            stopped[cell] = done
            cells.remove(cell)
        if done in rungs and done < STAGES:
            sign = 1 if mode == "min" else -1
            ranked = sorted(cells, key=lambda cell: (sign * losses[cell][done - 1], cell))
            for cell in ranked[-(-len(losses) // rungs[done]) :]:
                stopped[cell] = done
                cells.remove(cell)
    return stopped


TABLE = np.random.default_rng(0).integers(0, 6, (12, 2, STAGES)).astype(np.float32)
TABLE[3, 1, 2:] = np.nan
TABLE[7, 0, 0] = -np.inf


def scripted(cell, seed):
    """Report what a table says, with many ties."""
    table = jnp.asarray(TABLE)[cell, seed]
    return nj.Stages(
        lambda: jnp.int32(0),
        lambda done, stage: stage + 1,
        lambda done: {"loss": table[done - 1], "done": done},
        stages=STAGES,
    )


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("over", [(), "seed"])
def test_halving_is_that_of_the_book(factor, mode, over):
    """Of cells with the same loss, the first in the grid goes on."""
    grid = nj.Grid(cell=range(12), seed=range(2))
    results = nj.sweep(scripted, grid, stop=halving("loss", factor=factor, mode=mode, over=over))
    losses = TABLE.mean(1) if over else TABLE.reshape(24, STAGES)
    expected = np.reshape(halve(losses.tolist(), factor, mode), (12, -1))
    np.testing.assert_array_equal(results.stopped_at, np.broadcast_to(expected, (12, 2)))
    reached = results.stopped_at.values
    np.testing.assert_array_equal(results.done, reached)
    at = TABLE[np.arange(12)[:, None], np.arange(2), reached - 1]
    np.testing.assert_array_equal(results.loss, at)
    stopped = (results.stopped_because == "halving").values
    assert (stopped <= (reached < STAGES)).all()
    assert (results.stopped_because == "").values.sum() == (reached == STAGES).sum()


def test_the_best_point_is_one_that_went_to_the_end(tmp_path):
    losses = jnp.array([[1.0, 1.0, 4.0], [2.0, 2.0, 0.0], [0.5, 3.0, 3.0], [9.0, 9.0, 9.0]])

    def run(cell):
        def report(done):
            return {"loss": losses[cell, done - 1]}

        return nj.Stages(lambda: jnp.int32(0), lambda done, stage: stage + 1, report, stages=3)

    results = nj.sweep(run, nj.Grid(cell=range(4)), stop=halving("loss", factor=2))
    # Cells 0 and 2 are ahead after one stage, cell 0 after two; it ends worse than 1 would have.
    assert results.stopped_at.values.tolist() == [3, 1, 2, 1]
    assert results.loss.values.tolist() == [4.0, 2.0, 3.0, 9.0]
    assert int(nj.best_point(results).cell) == 0
    assert results.attrs["stages"] == 3
    nj.sweeps.save(results, tmp_path / "results.nc")
    assert nj.sweeps.load(tmp_path / "results.nc").identical(results)


def test_a_chunk_is_at_most_an_eighth_of_the_grid_on_each_device():
    grid = nj.Grid(cell=range(12), seed=range(2))
    for devices in (1, 2):
        chosen = nj.sweep(scripted, grid, stop=diverged("done"), devices=jax.devices()[:devices])
        assert chosen.attrs["chunk"] == 24 // 8 // devices


def test_bound_arrays_and_long_states_are_carried():
    """Of more than ten arrays, in order; and an axis with the name of an inner argument."""

    def run(data, run, stage, leaves):
        def init():
            return [data * run + i for i in range(12)]

        return nj.Stages(
            init,
            lambda state, number: [x + stage for x in state],
            lambda state: {f"sum{i}": jnp.sum(x) for i, x in enumerate(state)},
            stages=2,
        )

    data = np.arange(3, dtype=np.float32)
    grid = nj.Grid(run=[1.0, 2.0], stage=[0.5, 1.5], leaves=[0])
    results = nj.sweep(Partial(run, data), grid, stop=diverged("sum0"))
    for i in range(12):
        expected = [[3 * a + 3 * i + 6 * b for b in (0.5, 1.5)] for a in (1.0, 2.0)]
        np.testing.assert_allclose(results[f"sum{i}"].squeeze("leaves"), expected)
