"""Tests of progress bars and interruptions."""

import re
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax.sweeps.engine._local import LocalDevices
from nested_jax.sweeps.engine._store import Store
from tests.sweeps.support import DESCENTS, descend, powers


def test_is_quiet_unless_on_a_terminal(capsys):
    nj.sweep(powers, nj.Grid(base=[1.0], exponent=[1]))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_shows_progress_on_a_terminal(screen, progress):
    def run(a):
        return {"x": 1 / a, "curve": jnp.ones(3) / a}

    nj.sweep(run, nj.Grid(a=[*range(-2, 48)]), chunk=1, progress=progress)
    shown = screen.getvalue()
    for part in ("running", "50/50", "runs/s", "MiB", "1 not finite"):
        assert (part in shown) is progress


def test_what_was_stored_counts_as_done(bars, tmp_path):
    def run(a):
        return {"x": 1 / a}

    grid = nj.Grid(a=[0.0, 1.0, 2.0])
    for _ in range(2):
        nj.sweep(run, grid, chunk=1, store=tmp_path)
        task = bars[-1]._bar.tasks[0]
        assert (task.completed, task.total, bars[-1].diverged) == (3, 3, 1)


def test_leaves_the_terminal_in_order_when_the_run_fails(screen):
    with pytest.raises(ZeroDivisionError):
        nj.sweep(lambda a: 1 / 0, nj.Grid(a=[1.0]))
    assert "compiling" in screen.getvalue()
    assert "\x1b[?25h" in screen.getvalue()  # The cursor is shown again.


def interrupting(monkeypatch, at, times=1):
    """Press Ctrl-C while chunk number `at` is being stored."""
    saved = []
    save_chunk = Store.save

    def press(self, index, arrays, origin):
        saved.append(index)
        if len(saved) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        save_chunk(self, index, arrays, origin)

    monkeypatch.setattr(Store, "save", press)
    return saved


@pytest.mark.parametrize(("devices", "stored"), [(1, 3), (2, 5)])
def test_an_interruption_waits_for_the_chunks_in_flight(monkeypatch, tmp_path, devices, stored):
    def run(word, a):
        return {"x": a * len(word)}

    # Three chunks a word: with two devices they come in waves of 2, 1, 2, 1.
    grid = nj.Grid(word=["a", "bc"], a=[1.0, 2.0, 3.0])
    devices = jax.devices()[:devices]
    handler = signal.getsignal(signal.SIGINT)
    # While a wave is stored, the next one is in flight: it is finished and stored, too.
    interrupting(monkeypatch, at=2 if stored == 3 else 3)
    with pytest.raises(KeyboardInterrupt) as caught:
        nj.sweep(run, grid, chunk=1, store=tmp_path, devices=devices)
    folder = re.escape(str(tmp_path))
    message = f"Stopped with {stored} of 6 chunks stored in {folder}; the same call goes on."
    assert re.fullmatch(message, str(caught.value))
    assert len(list(tmp_path.glob("chunk-*"))) == stored
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    results = nj.sweep(run, grid, store=tmp_path, devices=devices)
    np.testing.assert_array_equal(results.x, [[1, 2, 3], [2, 4, 6]])
    assert len(list(tmp_path.glob("chunk-*"))) == 6


def test_an_interruption_at_the_last_chunk_is_not_forgotten(monkeypatch, tmp_path):
    interrupting(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt, match=r"^Stopped with 3 of 3 chunks stored in"):
        nj.sweep(lambda a: {"x": a}, nj.Grid(a=[1, 2, 3]), chunk=1, store=tmp_path)


def test_a_second_interruption_does_not_wait(monkeypatch, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    interrupting(monkeypatch, at=2, times=2)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        nj.sweep(lambda a: {"x": a}, nj.Grid(a=[1, 2, 3]), chunk=1, store=tmp_path)
    assert len(list(tmp_path.glob("chunk-*"))) == 1
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interruption_without_a_store_says_what_is_lost():
    def run(a):
        return {"x": a}

    class Pressing(LocalDevices):
        def evaluate(self, job, indices):
            for number, wave in enumerate(super().evaluate(job, indices)):
                if number == 0:
                    signal.raise_signal(signal.SIGINT)
                yield wave

    with pytest.raises(KeyboardInterrupt, match=r"^Stopped; nothing was stored\. Pass store="):
        nj.sweep(run, nj.Grid(a=[1, 2, 3]), chunk=1, executor=Pressing())


@pytest.mark.parametrize("at", [2, 9])
def test_an_interruption_of_a_stage_waits_and_the_same_call_goes_on(monkeypatch, tmp_path, at):
    def run(a):
        return nj.Stages(
            lambda: jnp.float32(0), lambda x, _: x + a, lambda x: {"x": x, "twice": 2 * x}, stages=4
        )

    def sweep(store):
        stop = nj.sweeps.halving("x", factor=2)
        return nj.sweep(run, nj.Grid(a=range(8)), stop=stop, chunk=2, store=store)

    with monkeypatch.context() as patch:
        saved = interrupting(patch, at=at)
        # A stage has 4, 2, 1 and 1 chunks, of two files each but in the last stage.
        stage = 0 if at == 2 else 1
        message = f"^Stopped in stage {stage} of 4; the same call goes on\\.$"
        with pytest.raises(KeyboardInterrupt, match=message):
            sweep(tmp_path)
        assert at < len(saved) < 15
    assert sweep(tmp_path).equals(sweep(None))


def test_an_interruption_of_a_stage_without_a_store_says_what_is_lost(monkeypatch):
    evaluate = LocalDevices.evaluate

    def press(self, *args):
        for wave in evaluate(self, *args):
            signal.raise_signal(signal.SIGINT)
            yield wave

    def run(a):
        return nj.Stages(lambda: a, lambda x, _: x + a, lambda x: {"x": x}, stages=2)

    monkeypatch.setattr(LocalDevices, "evaluate", press)
    with pytest.raises(KeyboardInterrupt, match=r"^Stopped; nothing was stored\. Pass store="):
        nj.sweep(run, nj.Grid(a=[1.0, 2.0]), stop=nj.sweeps.diverged("x"))


def test_sweeps_in_threads_do_not_disturb_each_other():
    def work(at):
        found[at] = nj.sweep(descend, DESCENTS.sub(rate=[DESCENTS["rate"].columns["rate"][at]]))

    found = {}
    threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, results in found.items():
        alone = nj.sweep(descend, DESCENTS.sub(rate=results.rate.values))
        assert results.equals(alone)
        assert at in range(3)
    assert len(found) == 3
