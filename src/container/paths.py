"""Where everything lives: the app directory survives a reboot, the run directory does not.

The tree itself is drawn in ARCHITECTURE.md. This module knows names only; it makes the two roots
with mode 0700 and refuses a run directory that belongs to somebody else.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from container.errors import ConfigError, HostError

#: sockaddr_un.sun_path holds 108 bytes with its NUL (unix(7)); the longest name below the run
#: directory must fit behind it.
_LONGEST_SOCKET = len("/shim.sock") + 1
_SUN_PATH = 108


@dataclass(frozen=True, slots=True)
class Paths:
    """The two roots of one daemon and what lies below them."""

    app: Path
    run: Path

    @property
    def images(self) -> Path:
        """The image store."""
        return self.app / "images"

    @property
    def blob(self) -> Path:
        """The registry's store."""
        return self.app / "blob"

    @property
    def bundles(self) -> Path:
        """One directory per container: bundle, upper layer, log."""
        return self.app / "containers"

    @property
    def states(self) -> Path:
        """The runtime's state directory, as `vapp-oci --root` takes it."""
        return self.run / "containers"

    @property
    def shim_socket(self) -> Path:
        """Where the shim listens."""
        return self.run / "shim.sock"

    @property
    def blob_socket(self) -> Path:
        """Where the registry listens for this user's own processes."""
        return self.run / "blob.sock"


def default_app_dir() -> Path:
    """Return `~/.vapp`; without a home `/tmp/.vapp` as the platform always had it."""
    home = os.environ.get("HOME")
    return Path(home, ".vapp") if home else Path("/tmp/.vapp")


def run_root() -> Path:
    """Return the directory that run directories live in: `$XDG_RUNTIME_DIR/vapp`, `/run/vapp` for root."""
    if os.getuid() == 0:
        return Path("/run/vapp")
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir and os.path.isdir(runtime_dir):
        return Path(runtime_dir, "vapp")
    return Path(f"/tmp/vapp-{os.getuid()}")


def open_paths(app_dir: Path) -> Paths:
    """Make both roots for `app_dir` and return them.

    Raises:
        ConfigError: the app directory cannot be made or written.
        HostError: the run directory exists and is not ours alone.
    """
    app = Path(os.path.abspath(app_dir))
    try:
        app.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make app directory `{app}`: {(error.strerror or '').lower()}",
            "name a directory that you may write with `--app-dir`",
        ) from error
    if not os.access(app, os.W_OK | os.X_OK) or os.statvfs(app).f_flag & os.ST_RDONLY:
        raise ConfigError(
            f"app directory `{app}` is not writable", "name a directory that you may write with `--app-dir`"
        )
    run = run_root() / hashlib.sha256(os.fsencode(app)).hexdigest()[:12]
    if len(os.fsencode(run)) + _LONGEST_SOCKET > _SUN_PATH:
        raise HostError(f"run directory `{run}` is too long for a socket in it", "set a shorter XDG_RUNTIME_DIR")
    # The service's API socket lies in the same directory, and its group must get there.
    _make_private(run.parent, 0o711)
    _make_private(run, 0o700)
    return Paths(app, run)


def _make_private(directory: Path, mode: int) -> None:
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise HostError(
            f"cannot make run directory `{directory}`: {(error.strerror or '').lower()}",
            "set XDG_RUNTIME_DIR to a directory of yours",
        ) from error
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or not directory.is_dir():
        raise HostError(
            f"run directory `{directory}` belongs to somebody else or is open to others",
            "remove it, or set XDG_RUNTIME_DIR to a directory of yours",
        )
