"""The process itself: `python -I -S` with nothing but this package, started by container.shim.client.

It prints one JSON line when it serves, or why it cannot. Its arguments are the run directory and whether the
node namespaces want an uplink.
"""

import _socket
import gc
import json
import os
import sys

from container.cgroups.hierarchy import open_hierarchy
from container.errors import ContainerError, StateError
from container.linux import prctl
from container.linux.files import replace_file
from container.runtime import channel
from container.shim.loop import Loop
from container.shim.node import end_node, enter_node
from container.shim.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(argv: "list[str]") -> int:
    """Serve the run directory `argv[0]`."""
    run_dir = argv[0]
    try:
        node = _enter(run_dir, uplink="--no-uplink" not in argv)
        listener = _listen(f"{run_dir}/shim.sock")
    except ContainerError as error:
        _say({"error": {"code": error.code, "category": error.category, "message": error.message, "hint": error.hint}})
        return 1
    replace_file(f"{run_dir}/shim.pid", str(os.getpid()).encode())
    prctl.set_subreaper()
    _say({"ready": os.getpid(), "node": node})
    _detach()
    # What is here now is what every child starts with: not looked at again by the collector, it is not copied.
    gc.collect()
    gc.freeze()
    gc.disable()
    server = Server(Loop(), f"{run_dir}/containers", node)
    server.serve(listener)
    for name in ("shim.sock", "shim.pid"):
        os.unlink(f"{run_dir}/{name}")
    if server.is_over:
        open_hierarchy().remove_parent(os.path.basename(run_dir))
        end_node(run_dir)
        remove_tree(run_dir)
    return 0


def remove_tree(run_dir: str) -> None:
    """Remove the run directory and what it holds, a tree of two levels; what is in use by others stays."""
    for directory, _, names in os.walk(run_dir, topdown=False):
        for name in names:
            os.unlink(f"{directory}/{name}")
        try:
            os.rmdir(directory)
        except OSError:
            return


def _enter(run_dir: str, uplink: bool) -> "dict[str, Any]":
    return enter_node(run_dir, uplink=uplink).to_json()


def _listen(path: str) -> "_socket.socket":
    if os.path.exists(path):
        try:
            channel.connect(path).close()
        except OSError:
            os.unlink(path)  # its owner died
        else:
            raise StateError(f"another shim serves `{path}`")
    sock = channel.listen(path)
    os.chmod(path, 0o600)
    sock.listen(64)
    return sock


def _say(document: "dict[str, Any]") -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _detach() -> None:
    """Let go of whoever started us."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
