"""The published level sweep's random numbers, bit for bit, in NumPy.

The experiment drew from Rust: `StdRng::seed_from_u64` of rand 0.8, `Normal` of rand_distr 0.4.
Nothing here needs Rust; `tests/experiments/test_rust_stream.py` holds it to values that the crates printed.
"""

import functools
import math
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Where the normal's tail starts and the area of each of the 256 layers, to the very digits that
# the crate's tables were made with: another digit of the area changes every edge.
_TAIL_START = 3.654152885361008796
_LAYER_AREA = 0.00492867323399
_CONTEXT = Context(prec=40)


class PublishedStream(NamedTuple):
    """The standard normals that all runs of the published sweep are made of.

    A run with d data levels reads `data` from its start: the initial weights W_1, ..., W_d (W_1,
    which makes the target, first) are the first d * dim values and its steps follow from offset
    d * dim, each delta (dim values), x (dim), noise (1): at another d, numbers change their roles.

    Attributes:
        model: The model's initial weights before scaling, bias last, of shape (dim + 1,).
        data: One sequence that serves all d, shape (data_levels * dim + steps * (2 * dim + 1),).
    """

    model: NDArray[np.float64]
    data: NDArray[np.float64]


def published_stream(
    *, dim: int, data_levels: int, steps: int, model_seed: int, data_seed: int
) -> PublishedStream:
    """Draw the numbers that all runs of the published sweep share, for the caller to scale.

    Args:
        dim: Dimension of the inputs, at least 1.
        data_levels: The largest number of data levels that will be read, at least 1.
        steps: Number of steps, warm-up included, at least 0.
        model_seed: Of the model's initial weights, in [0, 2**64); published with 42.
        data_seed: Of all else, in [0, 2**64); published with 123.

    Raises:
        TypeError, ValueError: If an argument is not an integer or out of range.
    """
    dim, data_levels = _integer("dim", dim, 1), _integer("data_levels", data_levels, 1)
    length = data_levels * dim + _integer("steps", steps) * (2 * dim + 1)
    model_seed, data_seed = _integer("model_seed", model_seed), _integer("data_seed", data_seed)
    return PublishedStream(
        standard_normals(model_seed, dim + 1), standard_normals(data_seed, length)
    )


def standard_normals(seed: int, count: int) -> NDArray[np.float64]:
    """Return the first samples of `StandardNormal` from `StdRng::seed_from_u64(seed)`.

    A ziggurat takes layer and abscissa from one word. That word alone accepts 98.5 % of the
    candidates, here all at once; the others read further words, which shifts all that follows,
    and are walked in order. Only the tail (1 sample in 4000) and the test at a layer's edge call
    the C library, for log and exp; correctly rounded, these give the published streams as well.

    Args:
        seed: In [0, 2**64).
        count: Number of samples, at least 0.

    Returns:
        Samples of shape (count,), a prefix of any longer call's.

    Raises:
        TypeError, ValueError: If an argument is not an integer or out of range.

    References:
        Marsaglia and Tsang (2000), The ziggurat method, doi:10.18637/jss.v005.i08, in the variant
        of Doornik (2005), ZIGNOR; as in rand_distr 0.4.3, src/utils.rs and src/normal.rs.
    """
    seed, count = _integer("seed", seed), _integer("count", count)
    # A sample takes 1.022 words on average; where that was too few, the loop draws more.
    drawn = count + count // 32
    while len(samples := _ziggurat(u64_stream(seed, drawn))) < count:
        drawn += drawn // 32 + 8
    return samples[:count]


def u64_stream(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the first values of `next_u64` of `StdRng::seed_from_u64(seed)`.

    The generator is ChaCha with 12 rounds, a 64-bit block counter from 0 and stream 0; its key is
    the first eight outputs of PCG32 from the seed.

    Args:
        seed: In [0, 2**64).
        count: Number of values and length of the result, at least 0.

    Raises:
        TypeError, ValueError: If an argument is not an integer or out of range.

    References:
        Bernstein (2008), ChaCha, https://cr.yp.to/chacha.html; O'Neill (2014), PCG (XSH-RR),
        HMC-CS-2014-0905; as in rand 0.8.5, rand_core 0.6.3 and rand_chacha 0.3.1 (src/guts.rs).
    """
    seed, count = _integer("seed", seed), _integer("count", count)
    blocks = -(-count // 8)
    initial = np.zeros((4, 4, blocks), np.uint32)
    initial[0] = np.frombuffer(b"expand 32-byte k", "<u4")[:, None]
    initial[1:3] = _key(seed).reshape(2, 4, 1)
    # The upper half of the counter stays 0: 2**32 blocks are 256 GiB.
    initial[3, 0] = np.arange(blocks)
    state = initial.copy()
    a, b, c, d = state
    for turn in (-1, 1) * 6:
        for d_bits, b_bits in (16, 12), (8, 7):
            a += b
            d ^= a
            d[:] = d << d_bits | d >> 32 - d_bits
            c += d
            b ^= c
            b[:] = b << b_bits | b >> 32 - b_bits
        # Columns are mixed, then diagonals: turn row i by i columns, and back.
        for i in (1, 2, 3):
            state[i] = np.roll(state[i], turn * i, axis=0)
    output = (initial + state).reshape(16, blocks)
    return output.T.astype("<u4", order="C").view("<u8").ravel()[:count].astype(np.uint64)


def _key(seed: int) -> NDArray[np.uint32]:
    state, words = seed, []
    for _ in range(8):
        state = (state * 6364136223846793005 + 11634580027462260723) % 2**64
        word, turn = ((state >> 18 ^ state) >> 27) % 2**32, state >> 59
        words.append((word >> turn | word << 32 - turn) % 2**32)
    return np.array(words, np.uint32)


def _ziggurat(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return all samples that lie within `words`."""
    edges, _ = _tables()
    layer = (words & 0xFF).astype(np.intp)
    # 52 random bits under the exponent of [2, 4) make a number in [-1, 1).
    u = (words >> 12 | 0x4000_0000_0000_0000).view(np.float64) - 3.0
    x = u * edges[layer]
    kept = np.abs(x) < edges[layer + 1]
    free = 0  # The first word that no candidate has read yet.
    for at in np.flatnonzero(~kept).tolist():
        if at < free:
            continue
        try:
            sample, free = _slow_path(words, at, int(layer[at]), float(x[at]))
        except IndexError:  # The words end within this sample.
            kept[at:] = False
            break
        kept[at:free] = False
        if sample is not None:
            x[at], kept[at] = sample, True
    return x[kept]


def _slow_path(
    words: NDArray[np.uint64], at: int, layer: int, x: float
) -> tuple[float | None, int]:
    """Return the sample of the candidate at `at`, None if rejected, and the next one's place."""
    if layer:
        _, heights = _tables()
        outer, inner = float(heights[layer]), float(heights[layer + 1])
        height = inner + (outer - inner) * ((int(words[at + 1]) >> 11) * 2.0**-53)
        return x if height < math.exp(-x * x / 2.0) else None, at + 2
    while True:
        # The tail, by rejection from an exponential; uniforms are the centres of 2**52 cells.
        first, second = (((int(words[at + i]) >> 12) + 0.5) * 2.0**-52 for i in (1, 2))
        at += 2
        beyond = -math.log(first) / _TAIL_START
        if -2.0 * math.log(second) >= beyond * beyond:
            return math.copysign(_TAIL_START + beyond, x), at + 1


@functools.cache
def _tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the layers' right edges (`ZIG_NORM_X`) and the density there (`ZIG_NORM_F`).

    The crate has them printed to 18 decimals, which costs small densities their last bits. Exact
    rounding gives all 514 values; with glibc's exp one is off.
    """

    def density(x: float) -> float:
        return float(Decimal(-x * x / 2.0).exp(_CONTEXT))

    edges = [_LAYER_AREA / density(_TAIL_START), _TAIL_START]
    while len(edges) < 256:
        height = _LAYER_AREA / edges[-1] + density(edges[-1])
        edges.append(math.sqrt(-2.0 * float(Decimal(height).ln(_CONTEXT))))
    edges.append(0.0)
    return np.array(edges), np.array([float(f"{density(x):.18f}") for x in edges])


def _integer(name: str, value: int, low: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an integer, got {value!r}.")
    if not low <= value < 2**64:
        raise ValueError(f"`{name}` must lie in [{low}, 2**64), got {value}.")
    return int(value)
