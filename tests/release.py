"""Build what a release uploads, and check it: `make release`.

The source distribution and the wheel go to dist/. The checks: twine accepts both; the wheel is the
same, byte for byte, from the source distribution and from the checkout; it has every module of
`nested_jax` and nothing else; the changelog and the citation name the version.
`tests/test_install.py` installs such a wheel alone and uses it.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(folder: Path, source: Path = ROOT) -> tuple[Path, Path]:
    """Write a source distribution, and the wheel that it builds; return their paths."""
    _call("uv", "build", "--quiet", "--out-dir", str(folder), str(source))
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def check(sdist: Path, wheel: Path) -> None:
    """Raise a `ValueError` that says what is wrong with them."""
    _call("twine", "check", "--strict", str(sdist), str(wheel))
    with tempfile.TemporaryDirectory() as folder:
        _call("uv", "build", "--quiet", "--wheel", "--out-dir", folder, str(ROOT))
        (direct,) = Path(folder).glob("*.whl")
        if direct.read_bytes() != wheel.read_bytes():
            raise ValueError("the wheel of the source distribution is not that of the checkout")
    packed = {
        name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("nested_jax-")
    }
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "nested_jax").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    if packed != modules:
        raise ValueError(f"the wheel differs from the package in {sorted(packed ^ modules)}")
    version = wheel.name.split("-")[1]
    for page, line in {
        "CHANGELOG.md": rf"^## \[{re.escape(version)}\]",
        "CITATION.cff": rf"^version: {re.escape(version)}$",
    }.items():
        if not re.search(line, (ROOT / page).read_text(), re.MULTILINE):
            raise ValueError(f"{page} does not have version {version}")


def _call(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{' '.join(words)}\n{done.stdout}{done.stderr}")


def main() -> None:
    """Build in dist/ and check."""
    dist = ROOT / "dist"
    for old in [*dist.glob("*.whl"), *dist.glob("*.tar.gz")]:
        old.unlink()
    built = build(dist)
    check(*built)
    for path in built:
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:,.0f} kB, checked")


if __name__ == "__main__":
    main()
