"""Fixtures of the tests of sweeps: what was compiled, and what was shown."""

import functools
import io

import jax
import pytest
import rich.console

from nested_jax.sweeps import _sweep


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
