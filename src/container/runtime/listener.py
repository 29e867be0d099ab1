"""Handing a seccomp listener to the agent that `linux.seccomp.listenerPath` names (config-linux.md)."""

import os

from container.errors import LaunchError
from container.runtime.channel import send_descriptor
from container.spec.config import OCI_VERSION
from container.spec.document import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Config


def hand_over(config: "Config", state: "dict[str, object]", pid: int, listener: int) -> None:
    """Send `listener` with the container process state to the agent; it is closed here.

    Raises:
        LaunchError: no agent is named, or it does not take it: nobody would answer the program's calls.
    """
    path = None
    try:
        seccomp = (config.get("linux") or {}).get("seccomp")
        path = seccomp.get("listenerPath") if seccomp else None
        if seccomp is None or not path:
            raise LaunchError("`linux.seccomp` uses SCMP_ACT_NOTIFY without `listenerPath`", "name the agent's socket")
        document = {
            "ociVersion": OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": seccomp.get("listenerMetadata", ""),
            "state": state,
        }
        send_descriptor(path, listener, encode(document).encode())
    except OSError as error:
        raise LaunchError(
            f"cannot hand the seccomp listener to `{path}`: {(error.strerror or '').lower()}",
            "is the agent running?",
            error.errno or 0,
        ) from error
    finally:
        os.close(listener)
