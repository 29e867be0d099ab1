"""What only newer kernels can do, as marks."""

import os

import pytest

RELEASE = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in os.uname().release.split(".")[:2])

#: Whoever did not reap a process reads its exit status from a pidfd: PIDFD_INFO_EXIT.
needs_exit_info = pytest.mark.skipif(
    RELEASE < (6, 15), reason="Linux 6.15 is the first to tell the exit code of a process that another has reaped"
)

#: A file system's mounts may be idmapped only if it says so; tmpfs does since 6.3.
needs_idmapped_tmpfs = pytest.mark.skipif(RELEASE < (6, 3), reason="tmpfs cannot be idmapped before Linux 6.3")
