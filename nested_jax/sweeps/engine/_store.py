"""`Store`: chunks on disk, written atomically and identified by their checksums."""

import contextlib
import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nested_jax.sweeps.engine._fingerprint import digest

MANIFEST = "manifest.json"
# Name of a chunk's entry that says what it is of.
ORIGIN = "origin"
# No chunk takes this long to write. An older temporary file was left by a process that died.
LEFTOVER_SECONDS = 3600.0


class Store:
    """A folder with one file per chunk and a manifest with the configuration of the sweep.

    A file is written under a temporary name, flushed to disk and renamed, and its name contains the
    checksum of its content. A chunk is therefore stored completely or not at all, even if a process
    is killed at any time. Processes that compute the same chunk write the same file, so any number
    of processes may share a store.

    The content says what it is of: the program, its arguments and the values of the chunk's points.
    A file of another store, or with another chunk's number, is not read.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"`store` must be the name of a folder, got {folder!r}.")
        try:
            self.folder = Path(folder).expanduser()
        except RuntimeError:  # Such as ~nobody.
            raise ValueError(f"`store` must be below a known home, got {folder!r}.") from None
        if not os.fspath(folder):  # pathlib takes it for the current folder.
            raise ValueError("`store` must be the name of a folder, got ''.")

    def recorded(self) -> dict[str, Any] | None:
        """Return the fingerprint in the manifest, or None if the store is new.

        Raises:
            ValueError: If `folder` is not a folder, or has files but no valid manifest.
            OSError: If the manifest cannot be read.
        """
        with self._explained("read", MANIFEST):
            return self._recorded()

    def _recorded(self) -> dict[str, Any] | None:
        try:
            # Reading a pipe would wait for ever.
            if (self.folder / MANIFEST).exists() and not (self.folder / MANIFEST).is_file():
                raise TypeError
            found = json.loads((self.folder / MANIFEST).read_text())["fingerprint"]
            lengths = found.get("chunk", [])
            if not all(type(length) is int and length > 0 for length in lengths):
                raise TypeError
            if not all(isinstance(columns, dict) for _, columns in found.get("grid", [])):
                raise TypeError
            return found
        except FileNotFoundError:
            if not self.folder.is_dir() or all(p.name[0] == "." for p in self.folder.iterdir()):
                return None
            # Another process may have created the store in the meantime.
            if (self.folder / MANIFEST).exists():
                return self._recorded()
            raise ValueError(
                f"`store` must be a new folder or a store, got {self.folder} with other files."
            ) from None
        except NotADirectoryError:
            raise ValueError(f"`store` must be a folder, got {self.folder}.") from None
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"`store` must have a manifest that can be read, got {self.folder / MANIFEST}."
            ) from error

    def claim(self, fingerprint: Mapping[str, Any]) -> None:
        """Write the manifest, or check that the existing one has the same configuration.

        Raises:
            ValueError: If the store holds another configuration.
            OSError: If it cannot be written.
        """
        found = self.recorded()
        if found is None:
            content = {"hash": digest(fingerprint), "fingerprint": fingerprint}
            with self._explained("make"):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._write(MANIFEST, json.dumps(content, indent=1).encode(), _put_once)
            # This is ours, unless another process was first.
            found = self.recorded() or {}
        if digest(found) != digest(fingerprint):
            names = sorted(set(found) | set(fingerprint))
            # As text, like the hash: -0.0 equals 0.0.
            mine, theirs = ({k: digest({k: v}) for k, v in x.items()} for x in (fingerprint, found))
            other = [name for name in names if mine.get(name) != theirs.get(name)]
            cure = {"chunk": "the default chunk or "}
            if "stop" not in found:
                cure["grid"] = "a grid that has its points or "
            raise ValueError(
                f"`store` must be of this configuration ({digest(fingerprint)[:16]}), got "
                f"{self.folder} of {digest(found)[:16]}; they differ in {', '.join(other)}: "
                f"pass {cure.get(other[0], '') if len(other) == 1 else ''}another folder."
            )
        self._remove_leftovers()

    def load(
        self,
        indices: Sequence[int],
        origin: Callable[[int], bytes],
        structure: Mapping[str, tuple[tuple[int, ...], Any]],
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield (index, arrays) for each requested chunk that is stored and intact.

        Args:
            indices: Numbers of chunks.
            origin: Number of a chunk to what it was saved with.
            structure: Name of an array to the shape and dtype that it has in every chunk.
        """
        paths = self._paths()
        for index in indices:
            for path in paths.get(index, ()):
                content = _checked(path)
                arrays = None if content is None else _decoded(content, origin(index))
                # Neither may be broadcast, cast or left out when it is placed.
                if arrays is not None and _structure(arrays) == structure:
                    yield index, arrays
                    break

    def remove(self, indices: Iterable[int]) -> None:
        """Delete the files of chunks."""
        paths = self._paths()
        for path in [path for index in indices for path in paths.get(index, ())]:
            with contextlib.suppress(OSError):  # Another process may have been first.
                path.unlink()

    def count(self) -> int:
        """Return the number of chunks that have a file."""
        return len(self._paths())

    def _paths(self) -> dict[int, list[Path]]:
        # List the folder only once: it may have many files.
        paths: dict[int, list[Path]] = {}
        for path in sorted(self.folder.glob("chunk-*-*.npz")):
            index = path.name.split("-")[1]
            if index.isdigit():
                paths.setdefault(int(index), []).append(path)
        return paths

    def save(self, index: int, arrays: Mapping[str, np.ndarray], origin: bytes) -> None:
        """Write a chunk.

        Args:
            index: Its number.
            arrays: Its results.
            origin: What it is of: the program, its arguments and its points.

        Raises:
            OSError: If it cannot be written. Chunks stored before are left unchanged.
        """
        content = _encoded(arrays, origin)
        name = f"chunk-{index:08d}-{hashlib.sha256(content).hexdigest()[:32]}.npz"
        with self._explained("write", name):
            self._write(name, content, os.replace)

    def _write(self, name: str, content: bytes, put: Callable[[Path, Path], Any]) -> None:
        # Threads, and processes of machines with the same name, may write the same chunk.
        aside = self.folder / f".{name}.{uuid.uuid4().hex}"
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            put(aside, self.folder / name)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        # Sync the folder, so that the file name survives a power loss, too.
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _remove_leftovers(self) -> None:
        """Remove temporary files left by killed processes."""
        for name in (MANIFEST, "chunk-*.npz"):
            for path in self.folder.glob(f".{name}.*"):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                        path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self, what: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"`store`: cannot {what} {self.folder / name}: {error.strerror or error}"
            raise type(error)(error.errno, message) from error


def _put_once(aside: Path, path: Path) -> None:
    """Rename a file, unless the target exists already."""
    try:
        os.link(aside, path)
    except FileExistsError:
        pass  # Another process was first.
    except OSError:
        aside.replace(path)  # The file system has no hard links.


def _checked(path: Path) -> bytes | None:
    """Return the content of a chunk's file, or None if it is unreadable or damaged."""
    with contextlib.suppress(OSError):
        if not path.is_file():  # Reading a pipe would wait for ever.
            return None
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:32] == path.stem.split("-")[-1]:
            return content
        # Damaged: remove it, so that the chunk is computed again.
        path.unlink()
    return None


def _encoded(arrays: Mapping[str, np.ndarray], origin: bytes) -> bytes:
    # NumPy saves bfloat16 as raw bytes without its dtype, so the name of the dtype is kept here.
    named: dict[str, Any] = {ORIGIN: np.frombuffer(origin, np.uint8)}
    for i, (name, values) in enumerate(arrays.items()):
        values = np.asarray(values)
        named[f"{i}|{values.dtype.name}|{name}"] = values
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def _decoded(content: bytes, origin: bytes) -> dict[str, np.ndarray] | None:
    """Return the arrays of a chunk, or None if it is of something else or not ours."""
    arrays = {}
    # zipfile, zlib and NumPy raise ten types of errors for a file that is none of theirs.
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if file[ORIGIN].tobytes() != origin:
                return None
            names = [name for name in file.files if name != ORIGIN]
            for key in sorted(names, key=lambda key: int(key.split("|")[0])):
                _, dtype, name = key.split("|", 2)
                arrays[name] = file[key].view(jnp.dtype(dtype))
    except Exception:
        return None
    return arrays


def _structure(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], Any]]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}
