"""`python -m vappc.daemon.child PARENT MODULE ARGS…`: run a module that ends when the daemon does.

The parent-death signal must be set in the child itself; by `preexec_fn` it would run our code between
fork and exec, so it is done here, in a fresh interpreter, before the module is imported.
"""

import ctypes
import os
import runpy
import signal
import sys

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arrange to be told of the parent's death, then become the module."""
    parent, module, *arguments = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(0)  # it died before we asked
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
