"""Every Python block of the site runs once, when the site is built; what cannot is marked.

MyST-NB runs the cells of a page. Blocks of a page without cells, such as README's, run here, one
after the other. A block that needs more than this machine has says so by its class, `needs-gpu`,
`needs-ray-cluster` or `needs-torch`, and is counted.
"""

import logging as python_logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)
# Of the kernels. Each would warn that it listens on this machine without encryption.
KERNEL = "c.Application.log_level = 'ERROR'\n"
NEEDS = ("needs-gpu", "needs-ray-cluster", "needs-torch")


def _is_python(node):
    return node.get("language") in ("python", "ipython3")


def collect(app, doctree):
    """Run the blocks of a page that are not cells; count all."""
    counts, blocks = Counter(), []
    cells = {
        id(block)
        for cell in doctree.findall(nodes.container)
        if "cell_input" in cell["classes"]
        for block in cell.findall(nodes.literal_block)
    }
    for block in filter(_is_python, doctree.findall(nodes.literal_block)):
        needs = [name for name in NEEDS if name in block["classes"]]
        if needs:
            counts[needs[0]] += 1
        elif id(block) in cells:
            counts["run"] += 1
        else:
            blocks.append(block.astext())
    if blocks and cells:
        logger.warning("%d Python blocks are not cells", len(blocks), location=doctree)
    elif blocks:
        counts["run"] += len(blocks)
        _run(blocks, doctree)
    app.env.metadata[app.env.docname]["blocks"] = dict(counts)


def _run(blocks, doctree):
    with tempfile.TemporaryDirectory() as folder:
        code = "\n".join(blocks)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
        )
    if done.returncode:
        logger.warning("a Python block fails:\n%s", done.stderr[-2000:], location=doctree)


def report(app, error):
    """Print how many blocks ran, and how many did not, with the reason."""
    total = Counter()
    for page in app.env.metadata.values():
        total.update(page.get("blocks", {}))
    rest = ", ".join(f"{total[name]} {name.replace('-', ' ')}" for name in NEEDS)
    # On the screen also with --quiet.
    print(f"{total['run']} Python blocks ran. Not run: {rest}.")


def _set_up_kernels():
    """Give kernels settings in place of the user's, whose start-up files they would run."""
    folder = tempfile.TemporaryDirectory()
    profile = Path(folder.name, "profile_default")
    profile.mkdir()
    (profile / "ipython_kernel_config.py").write_text(KERNEL)
    os.environ["IPYTHONDIR"] = folder.name
    python_logging.getLogger("traitlets").setLevel("ERROR")
    return folder


def setup(app):
    """Look at every page that is read."""
    app.kernel_folder = _set_up_kernels()  # It lasts as long as the build.
    app.connect("doctree-read", collect)
    app.connect("build-finished", report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
