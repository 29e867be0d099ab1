"""What is known of a node: the record that node.json holds, and whether it still fits.

Out of scope: making and joining namespaces (container.shim.node).
"""

import json
import os

from container.errors import ContainerError
from container.linux.files import replace_file
from container.linux.process import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.shim.subids import Extent

RECORD = "node.json"

_VERSION = 1
_PINNED = ("user", "net", "cgroup")


class Node:
    """The namespaces that this process is in now.

    Attributes:
        mode: `root` (no user namespace of ours), `subids` (many ids) or `single` (one id).
        uids, gids: (first id inside, first id outside, how many); as root those of this process.
        findings: (name, detail, fix) of what the host lacks; names as in container.doctor.
        pid: the process that made the namespaces.
        keeper: (pid, start time) of the process that holds them, None as root.
        pasta: (pid, start time) of the uplink, None without one.
        joined: whether they were there already.
    """

    __slots__ = ("findings", "gids", "joined", "keeper", "mode", "namespaces", "pasta", "pid", "uids")

    def __init__(self, mode: str, uids: "list[Extent]", gids: "list[Extent]") -> None:
        self.mode = mode
        self.uids = uids
        self.gids = gids
        self.findings: list[tuple[str, str, str]] = []
        self.pid = 0
        self.keeper: tuple[int, int] | None = None
        self.pasta: tuple[int, int] | None = None
        self.namespaces: dict[str, int] = {}
        self.joined = False

    def to_json(self) -> "dict[str, Any]":
        """Return what node.json holds."""
        return {"version": _VERSION} | {name: getattr(self, name) for name in self.__slots__ if name != "joined"}

    @classmethod
    def from_json(cls, document: "dict[str, Any]") -> "Node":
        """Read what `to_json` made."""
        node = cls(document["mode"], tuples(document["uids"]), tuples(document["gids"]))
        node.findings = tuples(document["findings"])
        node.pid = document["pid"]
        node.keeper = tuple(document["keeper"]) if document["keeper"] else None
        node.pasta = tuple(document["pasta"]) if document["pasta"] else None
        node.namespaces = document["namespaces"]
        return node

    def add_finding(self, name: str, error: ContainerError) -> None:
        """Note what the host lacks."""
        self.findings.append((name, error.message, error.hint))


def read_record(run_dir: str) -> "Node | None":
    """Return the node that node.json names, None without one or if another version of us wrote it."""
    try:
        with open(f"{run_dir}/{RECORD}", encoding="utf-8") as file:
            document = json.load(file)
        return Node.from_json(document) if document["version"] == _VERSION else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def is_joinable(node: Node, pid: int) -> bool:
    """Tell whether `pid` runs, is the same process as then, and is in the namespaces of `node`."""
    if node.keeper is not None and pid == node.keeper[0] and not is_alive(*node.keeper):
        return False
    try:
        return bool(node.namespaces) and read_namespaces(pid) == node.namespaces
    except OSError:
        return False


def read_namespaces(pid: "int | str") -> "dict[str, int]":
    """Return the inode numbers of the namespaces that a node is known by."""
    return {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in _PINNED}


def write_record(run_dir: str, node: Node) -> None:
    """Write node.json, whole or not at all."""
    replace_file(f"{run_dir}/{RECORD}", json.dumps(node.to_json()).encode(), 0o600)


def tuples(rows: "list[Any]") -> "list[Any]":
    """Return the lists that JSON makes of tuples as tuples again."""
    return [tuple(row) for row in rows]
