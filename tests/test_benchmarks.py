"""Tests of the benchmark: that all peers do the same work, and that a worse ratio is found."""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest

from benchmarks import (
    __main__,
    _check,
    _peers_c,
    _peers_jax,
    _peers_numba,
    _peers_numpy,
    _peers_torch,
    _report,
    heatmap,
    level_sweep,
    sweep_scaling,
)
from benchmarks._task import LEVELS, RTOL, compare, task

STEPS = 300
# No run has diverged after 300 steps: what remains are roundings of sums of 300 losses.
TOLERANCE = {"float64": 1e-12, "float32": 1e-4}


@pytest.fixture(scope="module")
def expected():
    return _peers_numpy.sweep(task(STEPS, "float64"))


def agree(peers, expected, dtype="float64"):
    """Hold the losses of peers against those of NumPy in float64; return who has none."""
    silent = []
    for name, peer in peers.items():
        seconds, losses = peer()
        assert seconds > 0
        if losses is None:
            silent.append(name)
            continue
        assert losses.dtype == dtype
        np.testing.assert_allclose(losses, expected, rtol=TOLERANCE[dtype], err_msg=name)
    return silent


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_c_comes_to_the_losses_of_numpy(dtype, tmp_path, expected):
    peers = _peers_c.peers(task(STEPS, dtype), tmp_path)
    if not peers:
        pytest.skip("there is no C compiler")
    assert _peers_c.YARDSTICK in peers
    assert agree(peers, expected, dtype) == []


def test_numba_comes_to_the_losses_of_numpy(expected):
    pytest.importorskip("numba")
    assert agree(_peers_numba.peers(task(STEPS, "float64")), expected) == []


def test_pytorch_comes_to_the_losses_of_numpy(expected):
    pytest.importorskip("torch")
    losses = _peers_torch.sweep(task(STEPS, "float64"))
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_jax_comes_to_the_losses_of_numpy(dtype, expected):
    with jax.enable_x64(dtype == "float64"):
        peers, compile_seconds = _peers_jax.peers(task(STEPS, dtype))
        silent = agree(peers, expected, dtype)
    assert [*peers] == [*compile_seconds]
    # These draw numbers of their own; the published ones are float64.
    assert silent == [*level_sweep.OURS[1 : 3 if dtype == "float64" else 2]]
    assert {level_sweep.RECORDED, level_sweep.BY_HAND} <= {*peers}


@pytest.mark.parametrize("devices", [1, 2])
def test_the_sweep_by_hand_is_the_same_on_any_number_of_devices(devices, expected, x64):
    program, arguments = _peers_jax._by_hand(task(STEPS, "float64"), jax.devices()[:devices])
    losses = np.asarray(program(*arguments))[:, :LEVELS]
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE["float64"])


def test_peers_that_run_a_part_are_scaled_up():
    whole = task(50, "float64")
    short = whole.first(20)
    assert (short.steps, short.warmup) == (20, 2)
    np.testing.assert_array_equal(short.draws["inputs"], whole.draws["inputs"][:20])
    assert whole.first(100).steps == 50
    part, all_of_it = (_peers_numpy.peers(whole, steps)[_peers_numpy.NAME] for steps in (10, 50))
    # Of the same sweep: a factor of 5 if the part was not scaled up.
    assert 0.4 < min(part()[0] for _ in range(3)) / min(all_of_it()[0] for _ in range(3)) < 2.5


def test_other_losses_are_an_error():
    losses = np.full((LEVELS, LEVELS), 2.0)
    wrong = losses * (1 + 3 * RTOL["float64"])
    with pytest.raises(AssertionError, match="theirs"):
        level_sweep.in_turn({"mine": lambda: (1.0, losses), "theirs": lambda: (1.0, wrong)}, 1)
    inside = losses.astype(np.float32)
    beyond = np.where(np.eye(LEVELS, dtype=bool), np.float32(np.inf), inside)
    compare("theirs", beyond, beyond)
    for pair in ((inside, beyond), (beyond, inside)):
        with pytest.raises(AssertionError, match="theirs"):
            compare("theirs", *pair)


def test_peers_take_turns():
    calls = []

    def peer(name):
        def timed():
            calls.append(name)
            return float(len(calls)), None

        return timed

    seconds = level_sweep.in_turn({"a": peer("a"), "b": peer("b")}, 2)
    assert calls == ["a", "b", "a", "b"]
    assert seconds == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert _report.quotients(seconds, [("b", "a"), ("b", "missing")]) == {"b / a": 2.0}


def test_what_is_not_installed_is_a_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(level_sweep._peers_jax, "peers", lambda task: ({}, {}))
    monkeypatch.setattr(level_sweep.lab, "use_device", lambda device, x64: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    out = tmp_path / "record.json"
    level_sweep.main(level_sweep.Config(steps=20, repeats=1, part_steps=5, out=out))
    printed = capsys.readouterr().out
    for name in ("C compiler", "numba", "PyTorch"):
        assert f"There is no {name} here: it is left out.\n" in printed
    assert [*json.loads(out.read_text())["seconds"]] == [_peers_numpy.NAME]


def measured(**ratios):
    config = level_sweep.Config(out=None)
    found = _report.record(config, ratios, {"a": 1.1, "absent": 1.0}, {"x": [1.0]}, more=[1])
    return {"part": found}


def test_a_record_is_the_same_after_a_round_trip(tmp_path):
    record = measured(a=1.5, b=0.25)["part"]
    path = tmp_path / "new" / "record.json"
    _report.write(path, record)
    assert json.loads(path.read_text()) == record
    assert [*path.parent.iterdir()] == [path]
    assert record["machine"] == _report.machine()
    assert record["versions"]["jax"] == jax.__version__
    assert record["config"] == {
        "dtype": "float64",
        "steps": 30_000,
        "repeats": 5,
        "part_steps": 1_000,
    }
    assert record["goals"] == {"a": 1.1}
    assert record["more"] == [1]


def test_a_name_of_a_file_is_that_of_the_machine():
    name = _report.file_name("Some(R) CPU @ 2.5GHz, 2 cores, JAX 0.12")
    assert name == "some-r-cpu-2.5ghz-2-cores-jax-0.12.json"
    assert _report.machine().endswith(f", JAX {'.'.join(jax.__version__.split('.')[:2])}")


@pytest.mark.parametrize(
    ("now", "worse"),
    [(2.0, False), (2.59, False), (2.61, True), (0.1, False), (math.nan, True), (math.inf, True)],
)
def test_a_ratio_is_worse_beyond_the_tolerance(now, worse):
    one, other = _check.compare(measured(a=now, b=1.0), measured(a=2.0, b=1.0))
    assert (one.worse(1.3), other.worse(1.3)) == (worse, False)
    assert (one.name, one.now, one.kept, one.goal) == ("a", now, 2.0, 1.1) or math.isnan(now)


def test_ratios_of_other_options_and_of_other_peers_are_not_compared():
    kept = measured(a=1.0, b=1.0)
    found = {one.name: one for one in _check.compare(measured(a=9.0, c=9.0), kept)}
    assert [name for name, one in found.items() if one.worse(1.3)] == ["a"]
    assert found["b"].now is None
    kept["part"]["config"]["steps"] = 10
    assert not any(one.worse(1.3) for one in _check.compare(measured(a=9.0), kept))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Make a benchmark of one part that reports the ratio it is told to, with files of its own."""
    program = "import json, sys; json.dump({'ratios': %s}, open(sys.argv[-1], 'w'))"
    monkeypatch.setattr(_check, "KEPT", tmp_path / "kept")

    def measure(ratios, *words):
        (tmp_path / "tiny_part.py").write_text(program % ratios)
        return __main__.main([*words, "--results", str(tmp_path / "results")])

    monkeypatch.setattr(__main__, "PARTS", {"tiny": ("tiny_part",), "broken": ("no_such_module",)})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return measure


def test_the_command_line_measures_keeps_and_checks(tiny, tmp_path, capsys):
    assert tiny({"a / b": 1.0}, "tiny", "--check") == 0
    assert f"Nothing is kept for {_report.machine()}" in capsys.readouterr().out
    assert tiny({}, "--keep") == 0
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [
        _report.file_name(_report.machine())
    ]
    assert tiny({"a / b": 1.2}, "tiny", "--check") == 0
    capsys.readouterr()
    assert tiny({"a / b": 1.5, "c / d": 1.0}, "tiny", "--check") == 1
    assert capsys.readouterr().err == "worse: tiny: a / b: 1.5, kept 1\n"
    # The last measurement is checked again where no part is named.
    assert tiny({}, "--check") == 1
    assert tiny({}, "--check", "--tolerance", "2") == 0
    assert tiny({"a / b": 1.5}, "tiny") == 0


def test_parts_that_fail_are_named(tiny, capsys):
    assert tiny({"a / b": 1.0}, "tiny", "broken") == 1
    output = capsys.readouterr()
    assert "These parts failed: broken." in output.err
    assert "a / b" in output.out
    assert tiny({}, "nonsense") == 1
    assert "`PART` must be one of tiny, broken, got nonsense." in capsys.readouterr().err


def test_nothing_measured_is_said(tiny, capsys):
    assert tiny({}, "--check") == 1
    assert "Nothing was measured" in capsys.readouterr().err


def test_every_part_is_there():
    for module, *_ in __main__.PARTS.values():
        assert importlib.util.find_spec(module)


def test_ratios_of_a_growing_sweep():
    config = sweep_scaling.Config(steps=10, seeds=2, memory_steps=(10, 20))
    rows = {
        (1, 1, 10): {"seconds": 1.0, "runs": 361, "peak_mib": 100},
        (2, 1, 10): {"seconds": 0.8, "runs": 361, "peak_mib": 100},
        (1, 2, 10): {"seconds": 3.0, "runs": 722, "peak_mib": 100},
        (2, 2, 10): {"seconds": 1.5, "runs": 722, "peak_mib": 100},
        (1, 1, 20): {"seconds": 2.0, "runs": 361, "peak_mib": 120},
    }
    ratios, goals = sweep_scaling._ratios(config, rows)
    assert ratios == {
        "a run, devices: 1, of 722 runs / of 361 runs": 1.5,
        "a run, devices: 2, of 722 runs / of 361 runs": pytest.approx(0.9375),
        "361 runs, 2 devices / 1": 0.8,
        "722 runs, 2 devices / 1": 0.5,
        "memory, 20 steps / 10 steps": 1.2,
    }
    assert goals["722 runs, 2 devices / 1"] == pytest.approx(1 / 1.8)
    assert "361 runs, 2 devices / 1" not in goals


def test_ratios_of_the_heatmap():
    first = {heatmap.OURS: 2.0, heatmap.OURS_ALONE: 4.0, heatmap.COMPILED: 100.0}
    later = {name: [seconds / 2, seconds] for name, seconds in first.items()}
    record = heatmap._record(heatmap.Config(), first, later)
    assert record["ratios"] == {
        f"first call, {heatmap.OURS} / {heatmap.COMPILED}": 0.02,
        f"later, {heatmap.OURS} / {heatmap.COMPILED}": 0.02,
    }
    assert {*record["goals"].values()} == {0.2}
