"""Tests of a store with long axes, and of several writers at once."""

import hashlib
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps.engine import _store
from nested_jax.sweeps.engine._fingerprint import fingerprint_of
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._store import MANIFEST, ORIGIN, Store
from tests.sweeps.stored import CHUNKS, GRID, chunks, contents, sweep
from tests.sweeps.test_store import SCALED

# --- Long axes ---


def test_a_long_axis_is_described_by_its_hash(tmp_path):
    grids = {
        "ours": nj.Grid(rate=range(2000)),
        "same": nj.Grid(rate=np.arange(2000, dtype=np.uint16)),
        "float": nj.Grid(rate=np.arange(2000.0)),
        "order": nj.Grid(rate=[1, 0, *range(2, 2000)]),
        "longer": nj.Grid(rate=range(2001)),
        "large": nj.Grid(rate=np.arange(2000, dtype=np.uint64) + np.uint64(2**63)),
    }
    expected = hashlib.sha256(b"<i8" + np.arange(2000, dtype="<i8").tobytes()).hexdigest()
    assert grids["ours"].describe() == [["rate", {"rate": {"values": 2000, "sha256": expected}}]]
    equal = [name for name, grid in grids.items() if grid == grids["ours"]]
    assert equal == ["ours", "same"]
    assert len({json.dumps(grid.describe()) for grid in grids.values()}) == 5

    def double(rate):
        return {"x": 2 * rate}

    nj.sweep(double, grids["ours"], store=tmp_path)
    assert (tmp_path / MANIFEST).stat().st_size < 2000
    with pytest.raises(ValueError, match="they differ in grid: pass a grid that has"):
        nj.sweep(double, grids["order"], store=tmp_path)
    for path in chunks(tmp_path):
        with np.load(path) as file:
            text, values = file[ORIGIN].tobytes().split(b"\n", 1)
        columns = json.loads(text)["columns"]
        assert columns == [{"rate": ["<i4", len(values) // 4]}]


# --- Several writers ---


def fingerprint(grid):
    return fingerprint_of(Job(Partial(SCALED), grid, (3, 3)), "cpu")


def test_of_two_processes_that_begin_at_once_the_first_decides(tmp_path, monkeypatch):
    ours = fingerprint(GRID)
    theirs = fingerprint(GRID.sub(word=["a"]))
    Store(tmp_path).claim(ours)
    before = contents(tmp_path)
    answers = []
    recorded = Store.recorded
    monkeypatch.setattr(
        Store, "recorded", lambda self: answers.pop() if answers else recorded(self)
    )
    answers.append(None)  # The manifest came after this one looked.
    with pytest.raises(ValueError, match="they differ in grid, programs"):
        Store(tmp_path).claim(theirs)
    assert contents(tmp_path) == before
    answers.append(None)
    Store(tmp_path).claim(ours)
    assert contents(tmp_path) == before


def test_a_store_that_another_process_begins_meanwhile_is_a_store(tmp_path, monkeypatch):
    ours = fingerprint(GRID)
    listed = _store.Path.is_dir

    def is_dir(self):
        monkeypatch.undo()
        Store(tmp_path).claim(ours)
        return listed(self)

    monkeypatch.setattr(_store.Path, "is_dir", is_dir)
    assert Store(tmp_path).recorded() == ours


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first = sweep(tmp_path)
    assert sweep(tmp_path).equals(first)


def test_threads_may_share_a_store(tmp_path):
    def work(at):
        found[at] = sweep(tmp_path)

    found, expected = {}, sweep()
    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at].equals(expected) for at in range(4)] == [True] * 4
    assert len(chunks(tmp_path)) == CHUNKS
    assert not list(tmp_path.glob(".*"))


PROCESS = """
import hashlib, pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np
import nested_jax as nj

def run(word, rate, seed):
    noise = jax.random.normal(jax.random.key(seed), (3,))
    return {"x": jnp.where(rate > 0, noise, 0).sum() * len(word), "y": jax.nn.relu(noise)}

store, busy, ready = pathlib.Path(sys.argv[1]), sys.argv[2] == "busy", pathlib.Path(sys.argv[3])
grid = nj.Grid(word=["a", "bc"], rate=np.linspace(0.1, 0.2, 15), seed=range(3))
if busy:
    # Whatever else the process did must not show in what the program is called.
    jax.nn.relu(jnp.ones(3)), jax.jit(lambda x: jnp.where(x, 1, 2))(jnp.ones(3, bool))
    nj.sweep(lambda rate: {"x": jax.nn.relu(rate)}, nj.Grid(rate=[1.0]))
    nj.sweep(run, nj.Grid(word=["abc"], rate=[0.5], seed=[7]))
ready.joinpath(sys.argv[2]).touch()
while len(list(ready.iterdir())) < 2:
    time.sleep(0.005)
results = nj.sweep(run, grid, chunk=3, store=store)
print(results.attrs["configuration"], hashlib.sha256(results.x.values.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_processes_may_share_a_store(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    store, ready = tmp_path / "store", tmp_path / "ready"
    ready.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(store), what, str(ready)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for what, seed in (("busy", "1"), ("idle", "2"))
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    # The same configuration, whatever came before, and the same bits.
    assert said[0] == said[1]
    assert len(said[0].split()) == 2
    assert len(chunks(store)) == 30
    assert not list(store.glob(".*"))
    for path in chunks(store):
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:32] in path.name
