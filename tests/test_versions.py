"""Tests of `python -m tests.versions`; that the settings themselves pass is checked by CI."""

import re
import sys

import pytest

from tests import versions
from tests.versions import FLOORS, NEWEST, SETTINGS, Setting


def test_the_constraint_files_pin_what_they_say():
    floors, newest = FLOORS.read_text(), NEWEST.read_text()
    project = (versions.ROOT / "pyproject.toml").read_text()
    for name in ("jax", "jaxlib", "numpy", "pandas", "matplotlib", "flax", "xarray"):
        lowest = re.search(rf'"{name}>=([\d.]+)"', project)[1]
        pinned = re.search(rf"^{name}==([\d.]+)$", floors, re.MULTILINE)[1]
        assert pinned.startswith(lowest), name
    # One file for all Pythons: the newest JAX for 3.11 is not that for 3.12.
    assert re.search(r"^jax==0\.10\.\d+ ; python_full_version < '3\.12'$", newest, re.MULTILINE)
    assert not re.search("https?:|file:", floors + newest)


def test_a_setting_may_have_a_jax_of_its_own(tmp_path):
    path = versions.pinned(SETTINGS["jax-0.11"], tmp_path / "constraints.txt")
    pins = [line for line in path.read_text().splitlines() if line.startswith(("jax==", "jaxlib"))]
    assert pins == ["jax==0.11.2", "jaxlib==0.11.2"]
    assert "optax==" in path.read_text()
    assert versions.pinned(SETTINGS["newest"], tmp_path / "other.txt") == NEWEST


def test_the_first_interpreter_that_runs_is_taken(tmp_path, monkeypatch):
    """A shim of pyenv's is there for every version, and fails for those not selected."""
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o700)
    monkeypatch.setattr(versions, "candidates", lambda version: [str(shim), sys.executable])
    assert versions.interpreter("3.13") == sys.executable
    monkeypatch.setattr(versions, "candidates", lambda version: [str(shim)])
    assert versions.interpreter("3.13") is None


@pytest.fixture
def ran(monkeypatch):
    """Replace the runs by their outcome: settings named "bad" fail."""
    names = []

    def run(name, setting, python):
        names.append((name, python))
        code = int(name == "bad")
        return code, versions.Outcome(name, python, "0.12", "1 failed" if code else "9 passed", 1.0)

    monkeypatch.setattr(versions, "run", run)
    monkeypatch.setattr(versions, "interpreter", {"3.12": "p12", "3.11": "p11"}.get)
    return names


def settings(monkeypatch, **pythons):
    made = {name: Setting(found, NEWEST) for name, found in pythons.items()}
    monkeypatch.setattr(versions, "SETTINGS", made)


def test_a_missing_interpreter_is_named_and_the_rest_runs(ran, monkeypatch, capsys):
    settings(monkeypatch, new=("3.13", "3.12"), gone=("3.13",), old=("3.11",))
    assert versions.main([]) == 0
    assert ran == [("new", "p12"), ("old", "p11")]
    table = capsys.readouterr().out
    assert re.search(r"gone +– +– +there is no Python 3\.13", table)
    assert re.search(r"old +p11 +0\.12 +9 passed +1\.0", table)


def test_fails_if_a_setting_does_or_none_can_run(ran, monkeypatch):
    settings(monkeypatch, good=("3.12",), bad=("3.12",), gone=("3.13",))
    assert versions.main(["good"]) == 0
    assert versions.main(["good", "bad"]) == 1
    assert versions.main(["gone"]) == 1


def test_an_unknown_setting_is_an_error_that_names_the_others(capsys):
    with pytest.raises(SystemExit):
        versions.main(["newst"])
    assert "`settings` must be of floors, jax-0.11, newest, got newst." in capsys.readouterr().err


def test_the_workflow_runs_every_setting_and_only_targets_that_exist():
    workflow = (versions.ROOT / ".github" / "workflows" / "ci.yml").read_text()
    found = re.findall(r'\{setting: ([\w.-]+), python: "([\d.]+)"\}', workflow)
    assert found == [(name, setting.pythons[0]) for name, setting in SETTINGS.items()]
    (targets,) = re.findall(r"target: \[(.+)\]", workflow)
    called = {*targets.split(", "), *re.findall(r"run: make (\w+)", workflow)}
    makefile = (versions.ROOT / "Makefile").read_text()
    assert called <= {*re.findall(r"^(\w+):", makefile, re.MULTILINE)}
