"""Experiments: one claim a file, run by `python -m experiments NAME`."""
