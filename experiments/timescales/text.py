"""Characters to learn: the help topics of Python, or a file, divided in three."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

SHARES = (0.8, 0.9)
"""Where the training part ends, and the validation part."""
LARGEST = 255
"""Most characters of a vocabulary, without the unknown one."""
SHORTEST = 20
"""Each part holds at least this many windows that do not overlap."""
UNKNOWN = 0
"""The symbol of all characters that are not in the vocabulary."""


class Text(NamedTuple):
    """A text in symbols.

    Attributes:
        train: Its first 80 %.
        validation: The next 10 %, on which hyperparameters are chosen.
        test: The last 10 %, which is reported.
        vocabulary: The characters of the symbols 1, 2, ...; the most common ones of `train`.
        origin: Where it was read.
    """

    train: Int32[np.ndarray, " train"]
    validation: Int32[np.ndarray, " validation"]
    test: Int32[np.ndarray, " test"]
    vocabulary: str
    origin: str

    @property
    def symbols(self) -> int:
        """Number of symbols, with the unknown one."""
        return 1 + len(self.vocabulary)


def load(name: str, context: int) -> Text:
    """Return the text of a UTF-8 file, or for "" the help topics of Python.

    Args:
        name: Path of the file.
        context: Characters from which the next is predicted.

    Raises:
        ValueError: If the file cannot be read, is not UTF-8, or is too short: each part must hold
            20 windows of `context` + 1 characters.
    """
    return divided(_topics() if name == "" else _read(name), context, name or "pydoc_data.topics")


def divided(characters: str, context: int, origin: str) -> Text:
    """Return a text in its three parts; raises as `load`."""
    least = 10 * SHORTEST * (context + 1)
    if len(characters) < least:
        rule = f"`--text` must hold at least {least:,} characters for a context of {context}"
        raise ValueError(f"{rule}, got {len(characters):,}.")
    ends = [int(share * len(characters)) for share in SHARES]
    parts = np.split(np.array([*characters]), ends)
    common = Counter(parts[0].tolist()).most_common(LARGEST)
    vocabulary = np.sort([character for character, _ in common])
    train, validation, test = (_symbols(part, vocabulary) for part in parts)
    return Text(train, validation, test, "".join(vocabulary), origin)


def _symbols(part: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Return the place of each character in the sorted vocabulary, from 1, or `UNKNOWN`."""
    place = np.minimum(np.searchsorted(vocabulary, part), len(vocabulary) - 1)
    return np.where(vocabulary[place] == part, place + 1, UNKNOWN).astype(np.int32)


def _topics() -> str:
    import pydoc_data.topics

    return "\n".join(pydoc_data.topics.topics.values())


def _read(name: str) -> str:
    try:
        return Path(name).read_bytes().decode()
    except UnicodeDecodeError as error:
        rule = f"`--text` must be a UTF-8 file, got {name!r}"
        raise ValueError(f"{rule}, whose byte {error.start} is not.") from error
    except (OSError, ValueError) as error:  # A path with a null character is a ValueError.
        raise ValueError(f"`--text` must name a file that can be read, got {name!r}.") from error
