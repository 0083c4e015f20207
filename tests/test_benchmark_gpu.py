"""Tests of `python -m benchmarks.gpu`: what it needs, what it reports, and that nothing is lost.

That the command itself runs is checked by `make gpu ARGS="--platform cpu --quick"` in CI.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part

ROOT = Path(__file__).parents[1]
# Not on machines with GPUs.
MISSING = ("beartype", "h5netcdf", "matfree", "ray", "tyro")


def test_it_needs_no_more_than_machines_with_gpus_have():
    block = f"import sys; sys.modules.update(dict.fromkeys({MISSING}))"
    modules = "benchmarks.gpu, benchmarks._gpu_parts, benchmarks.update_step, examples.heatmap"
    code = f"{block}\nimport {modules}, tests.test_gpu"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def row(what, seconds, **more):
    return {"what": what, "seconds": seconds, **more}


RECORD = {
    "machine": "a machine",
    "driver": "a GPU, 580.1",
    "versions": {"jax": "0.11.2"},
    "quick": False,
    "parts": [
        {
            "part": "tests",
            "platform": "gpu",
            "passed": 3,
            "errors": {"test_bad": "0 != 1"},
            "skipped": {"test_none": "nothing there"},
            "failed": "1 tests failed",
        },
        {
            "part": "levels_scan",
            "platform": "gpu",
            "rows": [
                row("few", 0.25, compile_seconds=3.0, peak_mib=100.0),
                row("many", 2.0, compile_seconds=4.0, peak_mib=400.0),
            ],
            "failed": "took more than 90 s",
        },
        {"part": "levels_scan", "platform": "cpu", "rows": [row("few", 0.5, compile_seconds=1.0)]},
    ],
}


def test_the_table_has_gpu_beside_cpu_and_names_what_failed():
    text = gpu.table(RECORD)
    assert "| few | 0.25 | 3 | 100 | 0.5 | 1 | 2 |" in text
    assert "| many | 2 | 4 | 400 |  |  |  |" in text
    assert "a GPU, 580.1; a machine; jax 0.11.2." in text
    assert "- tests on gpu: 3 passed, 1 failed.\n  - failed: test_bad: 0 != 1\n" in text
    assert "  - skipped: test_none: nothing there\n" in text
    assert "- levels_scan on gpu: took more than 90 s.\n" in text
    assert "not a measurement" not in text
    assert "not a measurement" in gpu.table(RECORD | {"quick": True})


@pytest.fixture
def parts(monkeypatch):
    """Let the command run `python -c` in place of its parts."""

    def set_parts(**programs):
        monkeypatch.setattr(gpu, "PARTS", tuple(Part(name, "gpu", 30) for name in programs))
        finished = gpu._finished

        def run(command, environment, limit):
            # The part's name, its platform and the file for its rows come after the module's name.
            name, _, out = command[3:6]
            program = f"import sys\nout = {out!r}\n{programs[name]}"
            return finished([sys.executable, "-c", program], environment, limit)

        monkeypatch.setattr(gpu, "_finished", run)

    return set_parts


def test_a_part_that_fails_is_reported_and_the_rest_still_runs(parts, tmp_path, capsys):
    line = json.dumps(row("kept", 1.0))
    parts(
        first=f"open(out, 'a').write('{line}\\n'); sys.exit('it broke')",
        second=f"open(out, 'a').write('{line}\\n')".replace("kept", "second"),
    )
    assert gpu.main(["--out", str(tmp_path)]) == 1
    first, second = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert first["failed"] == "exit code 1: it broke"
    assert [found["what"] for found in first["rows"]] == ["kept"]
    assert "failed" not in second
    assert "first on gpu: exit code 1: it broke" in (tmp_path / "gpu.md").read_text()
    assert "it broke" in capsys.readouterr().out


def test_all_is_well_if_every_part_is(parts, tmp_path):
    parts(only="pass")
    assert gpu.main(["--out", str(tmp_path)]) == 0


def test_a_part_that_takes_too_long_keeps_its_rows(parts, tmp_path, monkeypatch):
    line = json.dumps(row("kept", 1.0))
    program = f"import time\nopen(out, 'a').write('{line}\\n')\ntime.sleep(60)"
    parts(slow=program, never="pass")
    monkeypatch.setattr(gpu, "LEAST", 1.0)
    started = time.monotonic()
    assert gpu.main(["--out", str(tmp_path), "--budget", "2"]) == 1
    assert time.monotonic() - started < 30
    slow, never = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert slow["failed"] == "took more than 2 s"
    assert [found["what"] for found in slow["rows"]] == ["kept"]
    assert never["failed"] == "did not run: the time was used up"


@pytest.mark.parametrize("options", [["--budget", "0"], ["--budget", "nan"], ["--platform", "tpu"]])
def test_rejects(options, capsys):
    with pytest.raises(SystemExit) as error:
        gpu.main(options)
    assert error.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_all_parts_fit_into_one_call():
    """Nine minutes, with what starting and writing take."""
    assert gpu.BUDGET <= 540
    assert {part.name for part in gpu.QUICK} == {part.name for part in gpu.PARTS}
