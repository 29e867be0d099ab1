"""Benchmarks: scenarios run side by side with rivals from Debian, in one run on one machine.

Every number that matters is a ratio of medians-of-pairs from interleaved runs; absolute numbers of two runs
are not to be compared. Out of scope: pass or fail. Nothing here asserts a time.
"""
