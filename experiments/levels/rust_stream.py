"""The random numbers of the published level sweep, bit for bit, in NumPy.

The published experiment was written in Rust: `StdRng::seed_from_u64` of rand 0.8 and `Normal` of
rand_distr 0.4. No Rust is needed here; `tests/experiments/test_rust_stream.py` compares with values
that the crates printed.
"""

import functools
import math
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Start of the normal's tail and area of each of the 256 layers, with exactly the digits of the
# crate: another digit of the area changes every edge.
_TAIL_START = 3.654152885361008796
_LAYER_AREA = 0.00492867323399
_CONTEXT = Context(prec=40)


class PublishedStream(NamedTuple):
    """The standard normals that all runs of the published sweep read.

    A run with d data levels reads `data` from the start. The first d * dim values are the initial
    weights W_1, ..., W_d, where W_1 makes the target. Each step then reads delta (dim values),
    x (dim values) and noise (1 value). So the same number has another role at another d.

    Attributes:
        model: Initial weights of the model before scaling, bias last, of shape (dim + 1,).
        data: One sequence for all d, of shape (data_levels * dim + steps * (2 * dim + 1),).
    """

    model: NDArray[np.float64]
    data: NDArray[np.float64]


def published_stream(
    *, dim: int, data_levels: int, steps: int, model_seed: int, data_seed: int
) -> PublishedStream:
    """Draw the numbers that all runs of the published sweep share, unscaled.

    Args:
        dim: Dimension of the inputs, at least 1.
        data_levels: Largest number of data levels of any run, at least 1.
        steps: Number of steps, warm-up included, at least 0.
        model_seed: Seed of the model's initial weights, in [0, 2**64); 42 in the publication.
        data_seed: Seed of all other numbers, in [0, 2**64); 123 in the publication.
    """
    length = data_levels * dim + steps * (2 * dim + 1)
    return PublishedStream(
        standard_normals(model_seed, dim + 1), standard_normals(data_seed, length)
    )


def standard_normals(seed: int, count: int) -> NDArray[np.float64]:
    """Return the first samples of `StandardNormal` from `StdRng::seed_from_u64(seed)`.

    A ziggurat takes layer and abscissa from one word. That word suffices to accept 98.5 % of the
    candidates, which are computed all at once. The others read further words, which shifts all
    that follows, so a loop visits them in order. Only the tail (1 sample in 4000) and the test at a
    layer's edge call log and exp of the C library. Correctly rounded log and exp give the same
    published streams.

    Args:
        seed: In [0, 2**64).
        count: Number of samples, at least 0.

    Returns:
        Samples of shape (count,), a prefix of those of any longer call.

    References:
        Marsaglia and Tsang (2000), The ziggurat method, doi:10.18637/jss.v005.i08, in the variant
        of Doornik (2005), ZIGNOR; as in rand_distr 0.4.3, src/utils.rs and src/normal.rs.
    """
    # A sample takes 1.022 words on average; the loop draws more if these were too few.
    drawn = count + count // 32
    while len(samples := _ziggurat(u64_stream(seed, drawn))) < count:
        drawn += drawn // 32 + 8
    return samples[:count]


def u64_stream(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the first values of `next_u64` of `StdRng::seed_from_u64(seed)`.

    The generator is ChaCha with 12 rounds, a 64-bit block counter from 0, and stream 0. Its key is
    the first eight outputs of PCG32 from the seed.

    Args:
        seed: In [0, 2**64).
        count: Number of values and length of the result, at least 0.

    References:
        Bernstein (2008), ChaCha, https://cr.yp.to/chacha.html; O'Neill (2014), PCG (XSH-RR),
        HMC-CS-2014-0905; as in rand 0.8.5, rand_core 0.6.3 and rand_chacha 0.3.1 (src/guts.rs).
    """
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
        # Mix columns, then diagonals: rotate row i by i columns, and back.
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
    """Return all samples that `words` give."""
    edges, _ = _tables()
    layer = (words & 0xFF).astype(np.intp)
    # 52 random bits under the exponent of [2, 4) make a number in [-1, 1).
    u = (words >> 12 | 0x4000_0000_0000_0000).view(np.float64) - 3.0
    x = u * edges[layer]
    kept = np.abs(x) < edges[layer + 1]
    free = 0  # The first word that no candidate has read.
    for at in np.flatnonzero(~kept).tolist():
        if at < free:
            continue
        try:
            sample, free = _slow_path(words, at, int(layer[at]), float(x[at]))
        except IndexError:  # The words end before this sample does.
            kept[at:] = False
            break
        kept[at:free] = False
        if sample is not None:
            x[at], kept[at] = sample, True
    return x[kept]


def _slow_path(
    words: NDArray[np.uint64], at: int, layer: int, x: float
) -> tuple[float | None, int]:
    """Return the sample of the candidate at `at` (None if rejected) and the place of the next."""
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

    The crate has them with 18 decimals, so small densities lack their last bits. Exact rounding
    gives all 514 values; with glibc's exp, one differs.
    """

    def density(x: float) -> float:
        return float(Decimal(-x * x / 2.0).exp(_CONTEXT))

    edges = [_LAYER_AREA / density(_TAIL_START), _TAIL_START]
    while len(edges) < 256:
        height = _LAYER_AREA / edges[-1] + density(edges[-1])
        edges.append(math.sqrt(-2.0 * float(Decimal(height).ln(_CONTEXT))))
    edges.append(0.0)
    return np.array(edges), np.array([float(f"{density(x):.18f}") for x in edges])
