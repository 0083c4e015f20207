"""Tests of sweeps that are killed, interrupted, or spread over processes that die.

Every process is a real one. Whatever happens to it, the end has the bits of an undisturbed run.
"""

import contextlib
import os
import random
import re
import signal
import socket
import sys
import time

import pytest

from tests.sweeps.processes import (
    CHUNKS,
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


def wait_for(store, count, *processes):
    """Wait until a store has `count` chunks, or a process has ended."""
    deadline = time.monotonic() + DEADLINE
    running = [getattr(each, "poll", lambda each=each: each.exitcode) for each in processes]
    while len(list(store.glob("chunk-*"))) < count and all(poll() is None for poll in running):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the results of the sweep, run once on one device."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = script(folder, LOCAL)
    finish(start(path, 1, folder / "store", folder / "results.npz"))
    assert len(chunks(folder / "store")) == CHUNKS
    return contents(folder / "results.npz")


def kill_until_whole(path, store, results, chance):
    """Kill pairs of processes that share a store; return the kills and the files left half."""
    kills, leftovers, kept = 0, 0, {}
    while True:
        # Begun on one device, it may go on on two.
        pair = [fork(path, chance.choice((1, 2)), store, results, "slowly") for _ in range(2)]
        # Up to a handful of chunks further, and then at any moment of the next one.
        wait_for(store, len(kept) + chance.randint(1, 8), *pair)
        for process in pair:
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
        for process in pair:
            process.join(DEADLINE)
            assert process.exitcode in (0, -signal.SIGKILL)
            kills += process.exitcode != 0
        found = chunks(store)
        # What was there once stays, and all of it is whole.
        assert kept.items() <= found.items()
        assert_whole(found)
        leftovers += len(list(store.glob(".*")))
        kept = found
        if len(kept) > CHUNKS - 5:
            return kills, leftovers


@pytest.mark.slow
def test_a_sweep_survives_being_killed_at_any_moment(tmp_path, undisturbed):
    """By two processes at once; set `NESTED_JAX_KILLS` for more kills."""
    chance = random.Random(3)
    path, number, kills, leftovers = script(tmp_path, LOCAL), 0, 0, 0
    while kills < KILLS:
        number += 1
        store, results = tmp_path / f"store{number}", tmp_path / f"results{number}.npz"
        here, left = kill_until_whole(path, store, results, chance)
        kills, leftovers = kills + here, leftovers + left
        # What killed processes left is removed when it is old, and not before.
        young = [*store.glob(".*")][::2]
        for file in {*store.glob(".*")} - {*young}:
            os.utime(file, (0, 0))
        last = fork(path, 1, store, results)
        last.join(DEADLINE)
        assert last.exitcode == 0
        assert {*store.glob(".*")} == {*young}
        assert len(chunks(store)) == CHUNKS
        assert contents(results) == undisturbed
    print(f"{kills} kills, {leftovers} files left half, {number} stores")
    # Some were killed while they wrote.
    assert leftovers > 0


@pytest.mark.slow
def test_ctrl_c_finishes_the_chunk_in_flight_and_says_how_to_go_on(tmp_path, undisturbed):
    path, store, results = script(tmp_path, LOCAL), tmp_path / "store", tmp_path / "results.npz"
    process = start(path, 1, store, results, "slowly")
    wait_for(store, 4, process)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=DEADLINE)[1]
    # How Python ends by an interruption that nobody caught.
    assert process.returncode == -signal.SIGINT
    stored = len(chunks(store))
    folder = re.escape(str(store))
    assert re.search(
        f"KeyboardInterrupt: Stopped with {stored} of {CHUNKS} chunks stored in {folder}; the same "
        "call goes on.",
        err,
    )
    assert 4 <= stored < CHUNKS
    assert_whole(chunks(store))
    assert not list(store.glob(".*"))
    assert not results.exists()
    finish(start(path, 2, store, results))
    assert contents(results) == undisturbed


DISTRIBUTED = """
index, count, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, count, index)
if index:
    time.sleep(0.2)
for number, store in enumerate((None, sys.argv[4], sys.argv[4])):
    if number == 2 and not index:
        # A part of the store is lost.
        for path in sorted(pathlib.Path(store).glob("chunk-*"))[::7]:
            path.unlink()
    jax.experimental.multihost_utils.sync_global_devices(str(number))
    keep(nj.sweep(run, GRID, chunk=3, store=store), f"{sys.argv[5]}-{index}-{number}.npz")
print("automatic", nj.sweep(run, GRID).attrs["chunk"])
"""


@pytest.mark.slow
def test_two_processes_of_jax_distributed_give_the_arrays_of_one(tmp_path, undisturbed):
    path = script(tmp_path, "import jax.experimental.multihost_utils\n" + DISTRIBUTED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    store = tmp_path / "store"
    processes = [start(path, index, 2, address, store, tmp_path / "results") for index in range(2)]
    for process in processes:
        # Of a word's 15 x 6 points, one part for each of the four devices.
        assert "automatic 24" in finish(process)
    for index in range(2):
        for number in range(3):
            assert contents(tmp_path / f"results-{index}-{number}.npz") == undisturbed
    assert len(chunks(store)) == CHUNKS
    assert_whole(chunks(store))


FAILING = """
import sys
index, address, store = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize(address, 2, index)
if index:
    from nested_jax.sweeps.engine._store import Store

    def fail(self, index, arrays, origin):
        raise OSError(28, "No space left on device")

    Store.save = fail
nj.sweep(run, GRID, chunk=3, store=store)
"""


@pytest.mark.slow
def test_what_ends_one_process_ends_the_others(tmp_path):
    path, store = script(tmp_path, FAILING), tmp_path / "store"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start(path, index, address, store) for index in range(2)]
    errors = [process.communicate(timeout=DEADLINE)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert "RuntimeError: Process 1 of 2 failed, and says why" in errors[0]
    assert "No space left on device" in errors[1]
    # Half of the chunks are the other's, and stored.
    assert len(chunks(store)) == CHUNKS // 2


RAY = """
import signal, threading
import ray
from jax.tree_util import Partial
from nested_jax.sweeps import RayWorkers
from nested_jax.sweeps.engine import _ray

def chunks(store):
    return len(list(pathlib.Path(store).glob("chunk-*")))

def when(store, count, act):
    # Act as soon as the store has so many chunks.
    def watch():
        while chunks(store) < count:
            time.sleep(0.002)
        act()

    threading.Thread(target=watch, daemon=True).start()

def restarts(workers):
    return ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in workers])

what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
workers = RayWorkers(2, cpus=0.5, num_cpus=2, include_dashboard=False)
try:
    if what == "killed":
        # The driver dies after some chunks.
        when(folder / "store", 10, lambda: os.kill(os.getpid(), signal.SIGKILL))
    results = nj.sweep(run, GRID, chunk=3, executor=workers, store=folder / "store")
    keep(results, folder / "store.npz")

    # A worker dies while it is at a chunk; each takes a while.
    def slow_run(data, key, offset, word, rate, seed):
        LENGTH = 20000
        def step(x, _):
            return x - rate * jnp.sin(x) / len(word), None
        x = jax.random.normal(jax.random.fold_in(key, seed), (300,)) + data
        return {"loss": jax.lax.scan(step, x, length=LENGTH)[0].sum() * offset}

    bound = Partial(slow_run, np.arange(300.0), jax.random.key(5), 2)
    grid = GRID.sub(rate=GRID["rate"].columns["rate"][:4])
    before = restarts(workers._actors)
    when(folder / "slow", 4, lambda: os.kill(before[0], signal.SIGKILL))
    results = nj.sweep(bound, grid, chunk=3, executor=workers, store=folder / "slow")
    after = restarts(workers._actors)
    print("restarted", before[0] != after[0], before[1] == after[1])
    assert results.attrs["devices"] == 2

    # A worker is lost without dying: what it was at is computed by the other.
    _ray.LATE_SECONDS = 1
    stopped = restarts(workers._actors)[0]
    when(folder / "late", 4, lambda: os.kill(stopped, signal.SIGSTOP))
    late = nj.sweep(bound, grid, chunk=3, executor=workers, store=folder / "late")
    print("late", late.loss.equals(results.loss), len(os.listdir(folder / "late")))
    os.kill(stopped, signal.SIGCONT)

    # The same function on another grid, and with other arrays: on the same workers.
    for again, other in ((bound, grid.sub(seed=[1, 2, 4])),
                         (Partial(slow_run, np.arange(300.0) + 1, jax.random.key(6), 2.5), grid)):
        there = nj.sweep(again, other, chunk=3, executor=workers)
        here = nj.sweep(again, other, chunk=3, devices=jax.devices()[:1])
        print("same", there.equals(here), not there.loss.equals(results.loss))
    print("same", results.equals(nj.sweep(bound, grid, store=folder / "slow")))
    with jax.enable_x64(True):
        there = nj.sweep(run, GRID, chunk=3, executor=workers)
        print("same", there.loss.dtype == np.float64, there.equals(nj.sweep(run, GRID, chunk=3)))
    automatic = nj.sweep(run, GRID, executor=workers)
    print("automatic", automatic.attrs["chunk"])
    def fail(rate):
        return {"x": jax.pure_callback(lambda x: 1 / 0, rate, rate, vmap_method="sequential")}

    try:
        nj.sweep(fail, nj.Grid(rate=[1.0]), executor=workers)
    except Exception as error:
        print("raised", "ZeroDivisionError" in str(error))
    workers.shutdown()
finally:
    ray.shutdown()
"""


def session_of(process):
    """Return the processes that a process began, and those that they did, and so on."""
    found = []
    for other in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(other)) == process.pid:
                found.append(int(other))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ray_workers_and_drivers_may_die(tmp_path, undisturbed):
    pytest.importorskip("ray")
    path, store = script(tmp_path, RAY), tmp_path / "store"
    killed = start(path, "killed", tmp_path)
    killed.wait(timeout=DEADLINE)
    assert killed.returncode == -signal.SIGKILL
    kept = chunks(store)
    assert 10 <= len(kept) < CHUNKS
    assert_whole(kept)
    # What watches over the cluster would notice only after a minute.
    for process in session_of(killed):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    killed.communicate(timeout=DEADLINE)

    resumed = start(path, "resume", tmp_path)
    out = finish(resumed)
    assert contents(tmp_path / "store.npz") == undisturbed
    assert kept.items() <= chunks(store).items()
    assert len(chunks(tmp_path / "slow")) >= 16
    assert [line for line in out.splitlines() if "(raylet)" not in line] == [
        "restarted True True",
        "late True 17",
        "same True True",
        "same True True",
        "same True",
        "same True True",
        "automatic 90",
        "raised True",
    ]
    deadline = time.monotonic() + DEADLINE
    while session_of(resumed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not session_of(resumed)
