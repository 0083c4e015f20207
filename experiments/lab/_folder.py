"""The folder of an experiment: it belongs to one configuration, and no file is half-written."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.lab._options import UsageError, option_name
from nested_jax.sweeps import write_file

PACKAGES = ("nested-jax", "jax", "jaxlib", "optax", "numpy", "statsmodels", "xarray")


@contextlib.contextmanager
def claimed(config: Any) -> Iterator[Path]:
    """Reserve the folder of a configuration while it runs.

    Raises:
        UsageError: If the folder cannot be written, or holds files of another configuration.
    """
    folder = config.out
    before = claim(folder, config)
    try:
        yield folder
    except ValueError as error:
        if not str(error).startswith("`store`"):
            raise
        if before is not None:
            # The store was refused and is untouched, so the description of its run stays too.
            write_file(folder / "config.json", before)
        raise UsageError(
            f"`--out` must be a new folder, or as it was left: {error} To run all of it again, "
            f"pass another or remove {folder / 'store'}."
        ) from error
    except OSError as error:
        if str(folder) not in str(error):
            raise
        raise _not_writable(folder, error) from error


def claim(folder: Path, config: Any) -> bytes | None:
    """Reserve `folder` for a configuration and make sure that it can be written.

    Returns:
        The content of config.json after the last run, or None if there was none.

    Raises:
        UsageError: If it cannot be written, or holds files of another configuration.
    """
    described, before = describe(config), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            _compare(folder, described)
            before = (folder / "config.json").read_bytes()
        write_file(folder / "config.json", json.dumps({"config": described}, indent=2))
        return before
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> UsageError:
    reason = error.strerror or type(error).__name__
    return UsageError(f"`--out` must be a folder to write in, got {folder} ({reason}).")


def describe(config: Any) -> dict[str, Any]:
    """Return what identifies a configuration: all options except where results go."""
    fields = dataclasses.asdict(config)
    del fields["out"]
    return fields


def _compare(folder: Path, described: Mapping[str, Any]) -> None:
    rule = "`--out` must be a new folder or one of the same configuration"
    try:
        found = dict(json.loads((folder / "config.json").read_text())["config"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise UsageError(f"{rule}, got {folder} with files of unknown origin.") from None
    names = sorted(set(found) | set(described))
    other = [name for name in names if found.get(name) != described.get(name)]
    if other:
        what = ", ".join(
            f"{option_name(name)} {found.get(name)} and not {described.get(name)}" for name in other
        )
        raise UsageError(f"{rule}, got {folder} with results of {what}.")


def provenance(device: Any) -> dict[str, Any]:
    """Return the versions, device and time of a run."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": _commit(),
        "device": f"{device.platform}: {device.device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Return the commit of this checkout, marked if files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        run = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], **run).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + (" with uncommitted changes" if changed else "")
