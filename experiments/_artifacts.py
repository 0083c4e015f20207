"""What an experiment leaves behind: a folder of files and a report, none of them half-written."""

import dataclasses
import datetime
import html
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._cli import UsageError
from nested_jax._core.files import write

if TYPE_CHECKING:
    import xarray as xr

PACKAGES = ("nested-jax", "jax", "jaxlib", "optax", "numpy", "statsmodels", "xarray")


def claim(folder: Path, config: Any) -> bytes | None:
    """Make `folder` this configuration's own, and make sure that it can be written.

    Returns:
        What config.json told of the last run, None if there was none.

    Raises:
        UsageError: If it cannot be written, or holds files of another configuration.
    """
    described, told = describe(config), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            _compare(folder, described)
            told = (folder / "config.json").read_bytes()
        write(folder / "config.json", json.dumps({"config": described}, indent=2))
        return told
    except OSError as error:
        raise not_writable(folder, error) from error


def not_writable(folder: Path, error: OSError) -> UsageError:
    """Return what to raise where `folder` cannot be written."""
    reason = error.strerror or type(error).__name__
    return UsageError(f"`--out` must be a folder to write in, got {folder} ({reason}).")


def describe(config: Any) -> dict[str, Any]:
    """Return what identifies a configuration: all of it but where results go."""
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
            f"--{name.replace('_', '-')} {found.get(name)} and not {described.get(name)}"
            for name in other
        )
        raise UsageError(f"{rule}, got {folder} with results of {what}.")


def write_dataset(path: Path, dataset: "xr.Dataset") -> None:
    """Write a dataset as netCDF 4, aside and renamed like every file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        dataset.to_netcdf(aside, engine="h5netcdf")
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def provenance(device: Any) -> dict[str, Any]:
    """Return with what, on what and when an experiment ran."""
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


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e5e5e5; }
th:first-child, td:first-child { text-align: left; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
tfoot td { color: #555; text-align: left; border: 0; font-size: .9em; }
.wide { overflow-x: auto; } .wide table { font-size: .72rem; }
.wide th, .wide td { padding: .1rem .28rem; }
.wide th:first-child { position: sticky; left: 0; background: #fff; }
.diverged { background: #fbe3d6; color: #8a2b06; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #555; } code { background: #f4f4f4; padding: .1em .3em; }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; }
.facts td { text-align: left; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return an HTML page that needs nothing from outside."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return an HTML table of text, the first column being the rows' names."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        + "</tr>\n"
        for first, *rest in rows
    )
    name = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{name}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def figure(svg: str, caption: str) -> str:
    """Return a figure with its caption."""
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def facts(title: str, values: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    rows = [(name.replace("_", " "), str(value)) for name, value in values.items()]
    return f'<div class="facts">{table(("", ""), rows, title)}</div>'


def how(experiment: str, made: Mapping[str, Any]) -> list[str]:
    """Return what a page ends with: heading, command, and how its numbers were made."""
    words = [
        "--" + name.replace("_", "-") + ("" if value is True else f" {value}")
        for name, value in made["config"].items()
        if value is not False
    ]
    told = {name: value for name, value in made.items() if name not in ("config", "parts")}
    told["versions"] = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    for name in {"compile_seconds", "run_seconds"} & set(told):
        told[name] = f"{told[name]:.1f}"
    return [
        "<h2>What was run</h2>",
        f"<pre>python -m experiments {experiment} {html.escape(' '.join(words))}</pre>",
        facts("How it was made", told),
    ]
