"""What is kept on disk about a container, in `<root>/<id>/`.

    state.json   who it is: pid and start time, bundle, cgroup; written with the cgroup, again when it is created
    config.json  the document it was created from (hooks and exec need it, and the bundle may change)
    started      empty until the user's program was started; written by the init itself
    start.sock   where the init waits for `start`; absent where the launcher starts it at once
    exit.json    how it ended; written by whoever reaped it, or learned it from a pidfd

Together they say everything, so that any process can take over after all of ours died. The status is
never stored: it follows from the files and from /proc.
"""

import errno
import os
import time

from container.errors import ConfigError, ExistsError, NotFoundError, StateError
from container.linux.files import read_file, replace_file
from container.linux.process import is_alive, start_time
from container.spec.config import OCI_VERSION
from container.spec.document import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: As runc and crun have it; the name of a directory besides.
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")
_ID_LENGTH = 255

VERSION = 1


class State:
    """One container; attributes as in state.json.

    Attributes:
        id, bundle, rootfs, annotations: from the caller.
        pid, started_ticks: the init; the pid alone could be somebody else's by now.
        created: seconds since the epoch.
        owner: uid of the creator.
        cgroup: controller -> directory.
        hooks: the phases that config.json has hooks for.
        later: limits to set once the program runs (Cgroup.apply_after_start), None if there are none.
        directory: where all this lies.
    """

    __slots__ = (
        "annotations",
        "bundle",
        "cgroup",
        "created",
        "directory",
        "hooks",
        "id",
        "later",
        "owner",
        "pid",
        "rootfs",
        "started_ticks",
    )

    def __init__(self, container_id: str, directory: str, bundle: str) -> None:
        self.id = container_id
        self.directory = directory
        self.bundle = bundle
        self.rootfs = ""
        self.annotations: dict[str, str] = {}
        self.pid = 0
        self.started_ticks: int | None = None
        self.created = time.time()
        self.owner = os.getuid()
        self.cgroup: dict[str, str] = {}
        self.hooks: list[str] = []
        self.later: dict[str, Any] | None = None

    def save(self) -> None:
        """Write state.json."""
        document = {
            "version": VERSION,
            "id": self.id,
            "pid": self.pid,
            "startTime": self.started_ticks,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "owner": self.owner,
            "cgroup": self.cgroup,
            "hooks": self.hooks,
            "later": self.later,
            "annotations": self.annotations,
        }
        replace_file(f"{self.directory}/state.json", encode(document).encode(), 0o600)

    def set_pid(self, pid: int) -> None:
        """Remember the init by its pid and start time."""
        self.pid = pid
        self.started_ticks = start_time(pid)

    def is_alive(self) -> bool:
        """Tell whether the init still runs."""
        return self.pid > 0 and is_alive(self.pid, self.started_ticks)

    def was_started(self) -> bool:
        """Tell whether the user's program was started."""
        try:
            return os.stat(f"{self.directory}/started").st_size > 0
        except FileNotFoundError:
            return False

    def status(self) -> str:
        """Return creating, created, running or stopped; paused is the cgroup's to know."""
        if not self.pid:
            return "creating"
        if not self.is_alive():
            return "stopped"
        return "running" if self.was_started() else "created"

    def document(self, status: str) -> "dict[str, object]":
        """Return runtime.md's state, with the fields that runc adds."""
        return {
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "pid": 0 if status == "stopped" else self.pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": format_time(self.created),
            "owner": str(self.owner),
            "annotations": self.annotations,
        }


def format_time(seconds: float) -> str:
    """Return RFC 3339 in UTC with nanoseconds, as runc prints times."""
    whole = int(seconds)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{stamp}.{int((seconds - whole) * 1e9):09d}Z"


def is_id(text: str) -> bool:
    """Tell whether `text` may name a container."""
    return 0 < len(text) <= _ID_LENGTH and text[0] != "." and _ID_CHARACTERS.issuperset(text)


def check_id(container_id: str) -> None:
    """Raise ConfigError unless `container_id` may name a container."""
    if not is_id(container_id):
        raise ConfigError(
            f"invalid character in container ID `{container_id}`, or it is too long",
            "letters, digits, `_`, `+`, `-` and `.`, not beginning with a dot",
        )


def create(root: str, container_id: str, bundle: str) -> State:
    """Claim `container_id` below `root` by making its directory.

    Raises:
        ExistsError: the id is taken.
    """
    check_id(container_id)
    directory = f"{root}/{container_id}"
    os.makedirs(root, 0o700, exist_ok=True)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        raise ExistsError(
            f"container with given ID already exists: `{container_id}`",
            f"remove it first: `delete {container_id}`",
        ) from None
    return State(container_id, directory, bundle)


def load(root: str, container_id: str, unfinished: bool = False) -> State:
    """Return the state of `container_id`, with `unfinished` also of one that is being created.

    Raises:
        NotFoundError: there is none, or its creation is not done yet.
        StateError: the file is damaged.
    """
    check_id(container_id)
    directory = f"{root}/{container_id}"
    try:
        raw = read_file(f"{directory}/state.json")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFoundError(f"container does not exist: `{container_id}`") from error
        raise
    try:
        document: Any = decode(raw)
        state = State(document["id"], directory, document["bundle"])
        state.pid = document["pid"]
        state.started_ticks = document["startTime"]
        state.rootfs = document["rootfs"]
        state.created = document["created"]
        state.owner = document["owner"]
        state.cgroup = document["cgroup"]
        state.hooks = document["hooks"]
        state.later = document.get("later")
        state.annotations = document["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"`{directory}/state.json` is damaged",
            f"remove the container with `delete --force {container_id}`",
        ) from error
    if not state.pid and not unfinished:
        raise NotFoundError(f"container does not exist: `{container_id}` is being created")
    return state


def ids(root: str) -> "list[str]":
    """Return every id below `root`, sorted."""
    try:
        return sorted(name for name in os.listdir(root) if is_id(name) and os.path.isdir(f"{root}/{name}"))
    except FileNotFoundError:
        return []


def remove_directory(directory: str) -> None:
    """Remove the files of a container; they are a flat list."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except FileNotFoundError:
        return
