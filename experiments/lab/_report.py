"""Reports: one template for all experiments, and the same answers in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markdown_it
import rich.box
import rich.console
import rich.markup
import rich.table
from matplotlib.figure import Figure

from experiments.lab._options import option_name
from experiments.lab._section import Diverged, Section, Table
from nested_jax import plots
from nested_jax.sweeps import write_file

SMOKE = (
    "This is a smoke test (--quick): it shows that everything runs. Its runs are too few and too "
    "short to answer the question."
)
TEMPLATE = Path(__file__).with_name("report.html.j2")
DPI = 150.0
"""Dots per inch of the figures' PNG files."""
FACTS = ("data", "device", "machine", "python", "commit")
"""What the page says of a run. Its times are in config.json, so that a run that was stopped and
resumed gives the same page."""


def write(
    folder: Path,
    name: str,
    question: str,
    made: Mapping[str, Any],
    datasets: Sequence[str],
    sections: Sequence[Section],
) -> None:
    """Write figures, files and the page.

    Args:
        folder: Where to.
        name: The experiment's name on the command line.
        question: What it answers.
        made: Configuration, versions, device and data of the run.
        datasets: Names of the datasets beside the page.
        sections: What the page consists of; the first answers the question.
    """
    (folder / "figures").mkdir(exist_ok=True)
    files = {file: text for section in sections for file, text in section.files.items()}
    for file, text in files.items():
        write_file(folder / file, text)
    for section in sections:
        for file, (figure, _) in section.figures.items():
            _lay_out(figure)
            plots.save(figure, folder / "figures" / f"{file}.png", dpi=DPI)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"svg": plots.to_svg, "markdown": _markdown().render}
    environment.tests["diverged"] = lambda cell: isinstance(cell, Diverged)
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    facts = {fact: made[fact] for fact in FACTS if fact in made} | {"versions": versions}
    page = environment.from_string(TEMPLATE.read_text()).render(
        question=question,
        smoke=SMOKE if made["config"].get("quick") else "",
        sections=sections,
        command=_command(name, made["config"]),
        facts=facts,
        files=[*(f"{dataset}.nc" for dataset in datasets), *files, "config.json", "figures/"],
    )
    write_file(folder / "report.html", page)


def _lay_out(figure: Figure) -> None:
    """Place the parts of a figure once, which takes as long as drawing it, for both its files."""
    engine, dpi = figure.get_layout_engine(), figure.dpi
    if engine:
        figure.dpi = DPI  # Sizes of text depend on it a little.
        engine.execute(figure)
        figure.dpi = dpi
        figure.set_layout_engine(None)


def _markdown() -> markdown_it.MarkdownIt:
    return markdown_it.MarkdownIt("js-default")


def _command(name: str, config: Mapping[str, Any]) -> str:
    words = [
        option_name(field) + ("" if value is True else f" {value}")
        for field, value in config.items()
        if value is not False
    ]
    return " ".join(["python -m experiments", name, *words])


def show(question: str, made: Mapping[str, Any], sections: Sequence[Section]) -> None:
    """Print the question, the answers and the tables that are meant for the terminal."""
    tables = [table for section in sections for table in section.tables if table.screen]
    console = rich.console.Console()
    # A narrow terminal would cut the numbers; lines that it wraps can still be read.
    width = max([console.width, 100, *map(_width, tables)])
    console = rich.console.Console(width=width, highlight=False)
    quick = made["config"].get("quick")
    if quick:
        console.print(SMOKE, markup=False)
    for section in sections:
        title = question if section is sections[0] else section.title
        console.print(f"\n[bold]{rich.markup.escape(title)}[/]")
        if not quick:
            console.print(section.answer, markup=False)
        for table in section.tables:
            if table.screen:
                console.print()
                console.print(_rich(table))


def _width(table: Table) -> int:
    columns = zip(table.header, *table.rows, strict=True)
    return 4 + sum(2 + max(map(len, column)) for column in columns)


def _rich(table: Table) -> rich.table.Table:
    shown = rich.table.Table(
        title=rich.markup.escape(table.caption),
        title_justify="left",
        caption="\n".join(map(rich.markup.escape, table.notes)) or None,
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
    )
    for i, name in enumerate(table.header):
        shown.add_column(rich.markup.escape(name), justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(_rich_cell, row))
    return shown


def _rich_cell(cell: str) -> str:
    text = rich.markup.escape(cell)
    return f"[red]{text}*[/]" if isinstance(cell, Diverged) else text
