"""The section on mitigations of bad conditioning: a matrix of surfaces and mitigations."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments import lab
from experiments.lab.figures import panels
from experiments.momentum.mitigations import CASES, MITIGATIONS, PLAIN
from experiments.momentum.numbers import Cell, matrix
from experiments.momentum.surfaces import SURFACES

Cells = Mapping[tuple[str, str], Cell]
BODY = """
A run has arrived when the loss of the original problem stays below the goal of its surface. An L2
penalty that moves the minimum too far therefore never arrives. Every mitigation runs at the
learning rate (and penalty, or length of the schedule) that is best on half of the starts; the
numbers are medians over the other half, with exact 95 % intervals. “Fewer” and “more” mean that the
interval lies apart from that of plain gradient descent.

- **Features** are divided by their root mean square, or multiplied by the inverse root of their
  second moments (whitened). Runs start from the same functions.
- **L2 penalty**: {penalties} times half the squared length of the parameters.
- **Initialisation** draws weights with variance 1/inputs and sets biases to 0.
- **Cosine schedule** over {cycles} of the steps. **Heavy ball** has the decay {decay:g}.
"""
FACTORS = 2.0
"""Powers of ten of fewer or more steps at which colours end."""


def section(mitigations: xr.Dataset, decay: float) -> lab.Section:
    """Return the section."""
    steps, cells = int(mitigations.attrs["steps"]), matrix(mitigations)
    penalties = [f"{case.penalty:g}" for case in CASES if case.penalty]
    cycles = [f"{case.cycle:.0%}".replace("%", " %") for case in CASES if case.cycle]
    return lab.Section(
        "Which mitigation helps on which surface?",
        answer(cells, steps),
        BODY.format(penalties=" or ".join(penalties), cycles=" or ".join(cycles), decay=decay),
        {"mitigations": (figure(cells, steps), caption(steps))},
        [table(cells, steps)],
    )


def answer(cells: Cells, steps: int) -> str:
    """Say on how many surfaces each mitigation needs fewer steps, and where the gain is largest."""
    counts: dict[tuple[int, int], list[str]] = {}
    for mitigation in MITIGATIONS:
        found = [cell.verdict for (_, name), cell in cells.items() if name == mitigation]
        if mitigation != PLAIN:
            counts.setdefault((found.count("fewer"), len(found)), []).append(mitigation)
    ordered = sorted(counts, key=lambda count: (-count[0] / count[1], -count[1]))
    parts = [f"{_listed(counts[count])} on {count[0]} of {count[1]}" for count in ordered]
    first = f"Surfaces with fewer steps than plain gradient descent: {'; '.join(parts)}."
    gains = {at: _gain(cells, at, steps) for at in cells if cells[at].verdict == "fewer"}
    if not gains:
        return f"{first} No interval lies below that of gradient descent."
    word, name = max(gains, key=gains.__getitem__)
    return (
        f"{first} The largest gain is that of {name} on “{SURFACES[word].title}”: "
        f"{text(cells[word, name], steps)} steps instead of {text(cells[word, PLAIN], steps)}."
    )


def _listed(names: Sequence[str]) -> str:
    """Return names with commas and an “and”."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _gain(cells: Cells, at: tuple[str, str], steps: int) -> float:
    """Return how many times fewer steps a mitigation takes; at most all `steps` count."""
    plain, found = (min(cells[key].steps.value, steps) for key in ((at[0], PLAIN), at))
    return max(plain, 1) / max(found, 1)


def text(cell: Cell, steps: int) -> str:
    """Return the median with its interval."""
    value, low, high = (
        f"> {steps}" if np.isinf(x) else f"{x:.0f}" if x.is_integer() else f"{x:.1f}"
        for x in map(float, cell.steps)
    )
    return value if value == low == high else f"{value} [{low}, {high}]"


def setting(cell: Cell) -> str:
    """Return the learning rate that was chosen, with penalty and schedule."""
    if not cell.arrived:
        return "–"  # Without a run that arrives, no setting is better than another.
    case, parts = CASES[cell.case], [f"rate {cell.learning_rate:.3g}"]
    parts += ["(the least or largest tried)"] if cell.edge else []
    parts += [f"penalty {case.penalty:g}"] if case.penalty else []
    parts += [f"cosine over {case.cycle:.0%}".replace("%", " %")] if case.cycle else []
    return ", ".join(parts).replace(", (", " (")


def table(cells: Cells, steps: int) -> lab.Table:
    """Return every number of the matrix with the setting behind it."""
    header = ["surface", "mitigation", "median steps [95 %]", "arrived", "steps, compared"]
    rows = [
        [
            SURFACES[word].title,
            name,
            text(cell, steps),
            f"{cell.arrived} of {cell.of}",
            "–" if name == PLAIN else cell.verdict,
            setting(cell),
        ]
        for (word, name), cell in cells.items()
    ]
    return lab.Table(f"Steps to the goal, of at most {steps}", [*header, "setting"], rows)


def caption(steps: int) -> str:
    """Return the caption of the figure."""
    return (
        f"Median steps to the goal with 95 % intervals; > {steps}: not within {steps} steps. Blue: "
        "fewer steps than plain gradient descent, red: more, on a logarithmic scale. Bold: the "
        "intervals lie apart. A dash: the surface has no features."
    )


def figure(cells: Cells, steps: int) -> Figure:
    """Return the matrix as a heatmap with its numbers."""
    made, ((ax,),) = panels(1, width=12.8, height=4.0)
    ax.grid(visible=False)
    shape = len(SURFACES), len(MITIGATIONS)
    colours = np.full(shape, np.nan)
    for i, word in enumerate(SURFACES):
        for j, name in enumerate(MITIGATIONS):
            cell, place = cells.get((word, name)), {"ha": "center", "va": "center", "fontsize": 8}
            if cell is None:
                ax.text(j, i, "–", **place)
                continue
            colours[i, j] = np.log10(_gain(cells, (word, name), steps))
            # White is read better on the dark ends of the scale.
            dark = abs(colours[i, j]) > 0.65 * FACTORS
            style = {
                "weight": "normal" if cell.verdict == "alike" else "bold",
                "color": "white" if dark else "black",
            }
            ax.text(j, i, text(cell, steps).replace(" [", "\n["), **place, **style)
    image = ax.imshow(colours, cmap="RdBu", vmin=-FACTORS, vmax=FACTORS, aspect="auto")
    bar = made.colorbar(image, ax=ax, label="times fewer steps", ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["0.01", "0.1", "1", "10", "100"])
    ax.set_xticks(range(shape[1]), [name.replace(" ", "\n", 1) for name in MITIGATIONS])
    ax.set_yticks(range(shape[0]), [s.title.replace(" ", "\n", 1) for s in SURFACES.values()])
    return made
