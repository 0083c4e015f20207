"""Reports in sections, made of stored results alone: what was found, figures, tables."""

import html
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from experiments import _artifacts
from nested_jax import plots


class Section(NamedTuple):
    """A question, and what answers it.

    Attributes:
        heading: Its title.
        text: What was asked and done.
        finding: What came of it, in a sentence with numbers.
        figures: Name of the file -> (figure, caption).
        tables: (header, rows, caption) each.
    """

    heading: str
    text: str
    finding: str
    figures: Mapping[str, tuple[Figure, str]]
    tables: Iterable[tuple[list[str], list[list[str]], str]]


def save(folder: Path, figures: Mapping[str, tuple[Figure, str]]) -> None:
    """Write figures as files of their names."""
    (folder / "figures").mkdir(exist_ok=True)
    for name, (figure, _) in figures.items():
        plots.save(figure, folder / "figures" / f"{name}.png")


def drawn(figures: Mapping[str, tuple[Figure, str]]) -> dict[str, str]:
    """Return figures with their captions, for a page."""
    return {
        name: _artifacts.figure(plots.to_svg(figure), caption)
        for name, (figure, caption) in figures.items()
    }


def seconds(results: Mapping[str, xr.Dataset]) -> dict[str, float]:
    """Return how long all parts took to compile and to run."""
    return {
        name: sum(part.attrs.get(name, 0.0) for part in results.values())
        for name in ("compile_seconds", "run_seconds")
    }


def store(folder: Path, made: Mapping[str, Any], results: Mapping[str, xr.Dataset]) -> None:
    """Write the results, and last how they were made."""
    for name, part in results.items():
        _artifacts.write_dataset(folder / f"{name}.nc", part)
    described = {"parts": [*results], **made}
    _artifacts.write(folder / "config.json", json.dumps(described, indent=2) + "\n")


def report(
    folder: Path,
    title: str,
    sections: Callable[[Mapping[str, xr.Dataset]], Iterable[Section]],
    *,
    experiment: str,
    data: str,
    intervals: str = "over seeds",
) -> None:
    """Write figures and report from what `store` left; print the findings.

    Args:
        folder: Where the results are, and the report goes.
        title: Of the page.
        sections: Results -> sections.
        experiment: Name on the command line.
        data: On what it was run, in a sentence.
        intervals: What the intervals are over.
    """
    made = json.loads((folder / "config.json").read_text())
    results = {name: xr.load_dataset(folder / f"{name}.nc") for name in made["parts"]}
    body = []
    for section in sections(results):
        body += [f"<h2>{html.escape(section.heading)}</h2>"]
        body += [f"<p><strong>{html.escape(section.finding)}</strong></p>"]
        body += [f"<p>{html.escape(section.text)}</p>"]
        save(folder, section.figures)
        body += drawn(section.figures).values()
        for table in section.tables:
            body.append(f'<div class="wide">{_artifacts.table(*table)}</div>')
        print(f"{section.heading}: {section.finding}")
    body += _made(made, results, experiment, data, intervals)
    _artifacts.write(folder / "report.html", _artifacts.page(title, body))


def _made(made, results, experiment, data, intervals):
    heading, command, facts = _artifacts.how(experiment, made | seconds(results))
    files = [*(f"{name}.nc" for name in results), "config.json"]
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in files)
    return [
        heading,
        command,
        f"<p>{html.escape(data)} Intervals are 95 % t intervals {intervals}.</p>",
        facts,
        f"<p>Files beside this page: {links}.</p>",
    ]
