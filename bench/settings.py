"""Where runtimes are compared: as root with and without cgroups, and as a user.

The contestants of one setting share a worker process, and so its mount namespace. In it the unified tree of a
hybrid cgroup host is unmounted: crun 1.8 refuses such a host, and ours must not have what rivals lack.
Without cgroups nothing is mounted there at all, and crun and vapp-oci are told so.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import bundle
from bench.measure import ContestantError
from bench.user import open_user

REPOSITORY = Path(__file__).resolve().parents[1]

# A worker's mounts are private: what it unmounts stays mounted for everybody else. Its /run is in memory, as it is
# on most machines, so that no disk is measured; the scratch directory is too.
_PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
_NO_UNIFIED = 'mount -t tmpfs tmpfs /run; umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
_NO_CGROUPS = 'mount -t tmpfs tmpfs /run; umount -a -t cgroup,cgroup2; exec "$@"'
_TIMEOUT_S = 900
_GRACE_S = 20


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, ready for workers.

    Attributes:
        limits: whether containers have cgroups.
        bundle: for ours through the shim.
        rival_bundle: for command lines; rootless these make a user namespace each, the shim's has been made.
        prefix: the words before a worker's command line.
    """

    name: str
    limits: bool
    scratch: Path
    bundle: Path
    rival_bundle: Path
    prefix: tuple[str, ...]
    environment: dict[str, str]

    def work(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Run `task` of `bench.worker` in this setting and return its answer.

        Raises:
            ContestantError: the worker failed; the text is what it said.
        """
        job = {
            "task": task,
            "limits": self.limits,
            "scratch": str(self.scratch),
            "bundle": str(self.bundle),
            "rival_bundle": str(self.rival_bundle),
            **arguments,
        }
        # stdout is the answer's alone: containers and rivals write elsewhere.
        process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "bench.worker", json.dumps(job)],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, complaint = _finish(process)
        if process.returncode:
            raise ContestantError(f"{self.name}: {complaint.strip()[-600:]}")
        return dict(json.loads(out))


def _finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait for a worker; if we are interrupted, or it takes too long, let it end what it started."""
    try:
        return process.communicate(timeout=_TIMEOUT_S)
    except BaseException as error:
        process.terminate()
        try:
            process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        if isinstance(error, subprocess.TimeoutExpired):
            raise ContestantError(f"a worker did not end in {_TIMEOUT_S} s") from error
        raise


@contextmanager
def open_settings(scratch: Path, args: list[str]) -> Iterator[list[Setting]]:
    """Yield the settings that this caller can have, with bundles that run `args`."""
    scratch.mkdir()
    rootfs = bundle.make_rootfs(scratch / "rootfs")
    found = _root_settings(scratch, rootfs, args) if os.geteuid() == 0 else []
    with open_user(scratch) as user:
        place = scratch / "rootless"
        place.mkdir()
        os.chown(place, user.ids.uid, user.ids.gid)
        prefix = (*_PRIVATE, _NO_UNIFIED, "sh") if os.geteuid() == 0 else ()
        ours = bundle.make_bundle(scratch / "rootless-ours", rootfs, args, limits=False)
        rivals = bundle.make_bundle(scratch / "rootless-rivals", rootfs, args, limits=False, ids=user.ids)
        rootless = Setting("rootless", False, place, ours, rivals, (*prefix, *user.prefix()), user.environment())
        yield [*found, rootless]


def _root_settings(scratch: Path, rootfs: Path, args: list[str]) -> list[Setting]:
    found = []
    for name, limits, script in (("root", True, _NO_UNIFIED), ("root, no cgroups", False, _NO_CGROUPS)):
        place = scratch / name.replace(", ", "-").replace(" ", "-")
        place.mkdir()
        made = bundle.make_bundle(place / "bundle", rootfs, args, limits=limits)
        found.append(Setting(name, limits, place, made, made, (*_PRIVATE, script, "sh"), dict(os.environ)))
    return found
