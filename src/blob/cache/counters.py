"""What the cache did, counted; the server shows it.

Out of scope: how it is shown.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Plain numbers that only grow; one object per process."""

    manifest_hits: int = 0
    manifest_misses: int = 0
    manifest_stale: int = 0
    blob_hits: int = 0
    blob_misses: int = 0
