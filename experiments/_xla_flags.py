"""An option of XLA that is not on by default, and that whoever runs a sweep may turn on."""

OPTIONS = "--xla_backend_extra_options="
SINGLE_LOOP = "xla_cpu_small_while_loop_byte_threshold=1000000000000"


def with_single_loop(flags: str) -> str:
    """Return `XLA_FLAGS` with the option that compiles a whole loop as one kernel on CPU."""
    if SINGLE_LOOP.split("=")[0] in flags:
        return flags
    words = flags.split()
    for i, word in enumerate(words):
        if word.startswith(OPTIONS):
            words[i] = f"{word},{SINGLE_LOOP}"
            return " ".join(words)
    return " ".join([*words, OPTIONS + SINGLE_LOOP])
