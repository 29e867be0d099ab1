"""Typed wrappers of the system calls that Python's standard library lacks."""
