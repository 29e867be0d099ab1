"""The image store: pull, unpack, list, remove, and snapshots for containers."""
