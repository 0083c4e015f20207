"""Tests of sweeps in stages that are killed: the end has the bits of an undisturbed run."""

import random
import signal
import time

import pytest

from tests.sweeps.processes import (
    DEADLINE,
    KILLS,
    LOCAL,
    assert_whole,
    chunks,
    contents,
    finish,
    fork,
    script,
    start,
)

HALVING = LOCAL.replace(
    "nj.sweep(run, GRID, chunk=3,",
    'nj.sweep(staged, GRID, chunk=6, stop=nj.sweeps.halving("loss", factor=2, over="seed"),',
).replace(
    "keep(",
    """
def staged(word, rate, seed):
    def advance(x, stage):
        return jax.lax.scan(lambda x, _: (x - rate * jnp.sin(x) / len(word), None), x, length=9)[0]

    def init():
        return jax.random.normal(jax.random.key(seed), (7,))

    return nj.Stages(init, advance, lambda x: {"loss": jnp.sum(x**2), "x": x}, stages=6)

keep(""",
)


def reports(store):
    """Return the number of files that hold reports; they are never removed."""
    return sum(int(path.name.split("-")[1]) % 2 for path in store.glob("chunk-*"))


@pytest.mark.slow
def test_halving_survives_being_killed_at_any_moment(tmp_path):
    """At `NESTED_JAX_KILLS` seeded moments, in every stage."""
    chance, path = random.Random(5), script(tmp_path, HALVING)
    finish(start(path, 1, tmp_path / "undisturbed", tmp_path / "whole.npz"))
    whole, final = contents(tmp_path / "whole.npz"), chunks(tmp_path / "undisturbed")
    kills, number, moments = 0, 0, set()
    while kills < KILLS:
        number += 1
        store, results, code = tmp_path / f"store{number}", tmp_path / f"{number}.npz", None
        while code != 0:
            process = fork(path, chance.choice((1, 2)), store, results, "slowly")
            wanted, deadline = reports(store) + chance.randint(1, 20), time.monotonic() + DEADLINE
            while process.exitcode is None and reports(store) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.join(DEADLINE)
            code = process.exitcode
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
            moments.add(reports(store))
            assert_whole(chunks(store))
        assert contents(results) == whole
        assert chunks(store) == final
    print(f"{kills} kills, {len(moments)} moments, {number} stores")
    assert len(moments) > KILLS // 3
