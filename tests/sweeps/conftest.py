"""Fixtures of the tests of sweeps: what was compiled, computed and shown."""

import functools
import io

import jax
import pytest
import rich.console

from nested_jax.sweeps import _sweep
from nested_jax.sweeps.engine._local import LocalDevices
from nested_jax.sweeps.lanes import _layout


@pytest.fixture
def compilations():
    """Return a list to which every compilation adds its seconds."""
    seconds = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seconds
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def screen(monkeypatch):
    """Return what is shown on the error stream, which is a terminal."""
    screen = io.StringIO()
    terminal = functools.partial(rich.console.Console, file=screen, force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", terminal)
    return screen


@pytest.fixture
def bars(monkeypatch):
    """Return the progress of every sweep, in order."""
    made = []

    class Progress(_sweep.Progress):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(_sweep, "Progress", Progress)
    return made


def listening(monkeypatch, told):
    """Return a list to which every chunk that is computed adds `told(job, index)`."""
    heard = []
    evaluate = LocalDevices.evaluate

    def listen(self, job, missing, *programs):
        missing = [*missing]
        heard.extend(told(job, index) for index in missing)
        return evaluate(self, job, missing, *programs)

    monkeypatch.setattr(LocalDevices, "evaluate", listen)
    return heard


@pytest.fixture
def computed(monkeypatch):
    """Return a list to which every chunk that is computed adds its index."""
    return listening(monkeypatch, lambda job, index: index)


@pytest.fixture
def runs(monkeypatch):
    """Return a list to which every chunk that is computed adds its number of runs."""
    return listening(monkeypatch, lambda job, index: job.runs(index))


@pytest.fixture
def small(monkeypatch):
    """Let lanes, and pieces, pay for short loops over few points."""
    monkeypatch.setattr(_layout, "STEPS", 2)
    monkeypatch.setattr(_layout, "LANES", 2)
    monkeypatch.setattr(_layout, "LANES_OF_A_PIECE", {4: 1, 8: 1})
