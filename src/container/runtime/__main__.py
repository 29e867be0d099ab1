#!/usr/bin/python3 -IS
"""`vapp-oci` at its fastest: this file is executable and starts Python without site-packages and environment.

The command that pip installs does the same work and starts some 20 ms later. Callers that start a runtime for
every step, such as podman, are best given the path of this file.
"""

import gc
import os
import sys

if __name__ == "__main__":
    # A short life: what is thrown away in it need not be found and collected.
    gc.disable()
    if __package__ in (None, ""):
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from container.runtime.cli import main

    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is done: taking the interpreter apart would only cost time.
    os._exit(code)
