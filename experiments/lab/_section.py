"""What a report consists of."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NONE: Mapping[str, Any] = MappingProxyType({})


class Diverged(str):
    """The text of a table's cell for a diverged run; it is marked."""


class Table(NamedTuple):
    """A table of text.

    Attributes:
        caption: Its name.
        header: A name for each column.
        rows: One text for each column; the first names the row.
        notes: Lines below the table.
        screen: Whether it is printed in the terminal too.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    screen: bool = False


class Section(NamedTuple):
    """A question and its answer. The first section of a report answers the experiment's question.

    Attributes:
        title: The heading; a question where there is one.
        answer: One or two sentences, with numbers. They are printed in the terminal too.
        body: What was done and how to read the figures, in Markdown.
        figures: Name of the file, without ending -> (figure, caption).
        tables: Tables below the figures.
        files: Name -> content of files to write beside the report.
    """

    title: str
    answer: str
    body: str = ""
    figures: "Mapping[str, tuple[Figure, str]]" = NONE
    tables: Sequence[Table] = ()
    files: Mapping[str, str] = NONE
