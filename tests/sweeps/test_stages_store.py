"""Tests of the store of a sweep in stages: resuming, damage, another rule."""

import itertools

import pytest

import nested_jax as nj
from nested_jax.sweeps import halving
from nested_jax.sweeps.engine._local import LocalDevices
from tests.sweeps.staged import GRID, descend, sweep


def stored(folder, **options):
    return sweep(halving("loss", over="seed"), store=folder, **options)


class KilledError(Exception):
    pass


def kill_after(monkeypatch, chunks):
    """Let a sweep end after `chunks` more chunks are computed."""
    evaluate, left = LocalDevices.evaluate, [chunks]

    def until_killed(self, job, indices, *programs):
        for wave in evaluate(self, job, indices, *programs):
            for each in wave:
                left[0] -= 1
                if left[0] < 0:
                    raise KilledError
                yield [each]

    monkeypatch.setattr(LocalDevices, "evaluate", until_killed)


def test_a_sweep_resumes_at_every_chunk_of_every_stage(tmp_path, monkeypatch, computed):
    whole = stored(None)
    total = len(computed)
    lengths = []
    for killed in range(0, total, 7):
        folder = tmp_path / str(killed)
        with monkeypatch.context() as patch:
            kill_after(patch, killed)
            with pytest.raises(KilledError):
                stored(folder)
        computed.clear()
        assert stored(folder).equals(whole)
        lengths.append(len(computed))
        # The states of a whole sweep are of no use any more.
        names = [int(path.name.split("-")[1]) for path in folder.glob("chunk-*")]
        assert all(name % 2 for name in names)
    # `init` is not stored; else no more is computed than was missing.
    assert lengths[-1] == total - killed
    assert all(after <= before for before, after in itertools.pairwise(lengths))
    computed.clear()
    assert stored(folder).equals(whole)
    assert not computed


def test_a_damaged_state_begins_anew_and_a_damaged_report_is_computed(tmp_path, monkeypatch):
    whole = stored(None)
    with monkeypatch.context() as patch:
        kill_after(patch, 30)
        with pytest.raises(KilledError):
            stored(tmp_path)
    states = [p for p in tmp_path.glob("chunk-*") if int(p.name.split("-")[1]) % 2 == 0]
    assert states
    states[0].write_bytes(b"")
    assert stored(tmp_path).equals(whole)
    sorted(tmp_path.glob("chunk-*"))[-1].write_bytes(b"")
    assert stored(tmp_path).equals(whole)


def test_a_store_of_another_rule_is_refused(tmp_path):
    stored(tmp_path / "halving")
    nj.sweep(descend, GRID, store=tmp_path / "none")
    refused = "^`store` must be of this configuration .* they differ in .*{}: pass .*another folder"
    with pytest.raises(ValueError, match=refused.format("stop")):
        sweep(halving("loss", factor=2, over="seed"), store=tmp_path / "halving")
    with pytest.raises(ValueError, match=refused.format("stop")):
        stored(tmp_path / "none")
    with pytest.raises(ValueError, match=refused.format("stop")):
        nj.sweep(descend, GRID, store=tmp_path / "halving")
    with pytest.raises(ValueError, match=r"`store` must be of a sweep without `stop`, got "):
        nj.sweeps.stored_chunks(tmp_path / "halving", GRID)
