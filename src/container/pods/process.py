"""The process of a container: which program, which environment, as whom. Pure."""

from collections.abc import Sequence
from typing import Any

from blob.oci.image import ContainerConfig
from container.errors import ConfigError
from container.intent import ContainerRunSpec, ExecSpec
from container.linux.capabilities import NAMES as ALL_CAPABILITIES
from container.pods.defaults import CAPABILITIES, PATH
from container.pods.users import User


def arguments(spec: ContainerRunSpec, image: ContainerConfig) -> list[str]:
    """Return argv: a command replaces the entrypoint, args replace Cmd.

    Raises:
        ConfigError: neither the request nor the image names a program.
    """
    entrypoint = image.entrypoint
    if spec.command:
        argv = [*spec.command, *(spec.args or [])]
    elif spec.args:
        argv = [*entrypoint, *spec.args]
    else:
        argv = [*entrypoint, *image.cmd]
    if not argv or not argv[0]:
        raise ConfigError(f"neither the request nor image `{spec.image}` names a program", "give a command to run")
    return argv


def environment(*layers: Sequence[str]) -> list[str]:
    """Merge `KEY=VALUE` lists; later ones win, and each key keeps the place where it first came.

    Raises:
        ConfigError: an entry has no `=` or no key.
    """
    merged: dict[str, str] = {}
    for layer in layers:
        for entry in layer:
            key, equals, value = entry.partition("=")
            if not key or not equals or "\0" in entry:
                raise ConfigError(f"environment entry `{entry}` is not `KEY=VALUE`", "")
            merged[key] = value
    return [f"{key}={value}" for key, value in merged.items()]


def capabilities(spec: ContainerRunSpec) -> list[str]:
    """Return the names of the capabilities that `spec` asks for, sorted."""
    kept = set(ALL_CAPABILITIES if spec.privileged else CAPABILITIES)
    added = _named(spec.capabilities_add)
    dropped = _named(spec.capabilities_drop)
    if "CAP_ALL" in dropped:
        kept = set()
    if "CAP_ALL" in added:
        kept = set(ALL_CAPABILITIES)
    return sorted((kept | added) - dropped - {"CAP_ALL"})


def process(
    spec: ContainerRunSpec,
    image: ContainerConfig,
    user: User,
    hostname: str,
    size: tuple[int, int] = (24, 80),
) -> dict[str, Any]:
    """Return the runtime-spec process object."""
    base = [f"PATH={PATH}", f"HOSTNAME={hostname}", *(["TERM=xterm"] if spec.terminal else [])]
    env = environment(base, _tolerant(image.env), spec.env or [])
    made: dict[str, Any] = {
        "terminal": spec.terminal,
        "user": user_object(user),
        "args": arguments(spec, image),
        "env": _with_home(env, user),
        "cwd": _workdir(spec.workdir or image.working_dir or "/"),
        "capabilities": _sets(capabilities(spec)),
        "noNewPrivileges": not spec.privileged,
    }
    if spec.terminal:
        made["consoleSize"] = {"height": size[0], "width": size[1]}
    return made


def exec_process(main: dict[str, Any], spec: ExecSpec, user: User | None) -> dict[str, Any]:
    """Return the process object of an exec: the container's own with what `spec` changes."""
    term = ["TERM=xterm"] if spec.terminal else []
    made = {**main, "terminal": spec.terminal, "args": list(spec.argv)}
    made.pop("consoleSize", None)
    made["env"] = environment(term, main.get("env", []), spec.env)
    if user is not None:
        made["user"] = user_object(user)
        inherited = [entry for entry in made["env"] if not entry.startswith("HOME=")]
        made["env"] = _with_home(environment(inherited, spec.env), user)
    if spec.workdir is not None:
        made["cwd"] = _workdir(spec.workdir)
    if spec.terminal:
        made["consoleSize"] = {"height": spec.rows, "width": spec.cols}
    if spec.privileged:
        made["capabilities"] = _sets(sorted(ALL_CAPABILITIES))
        made["noNewPrivileges"] = False
    return made


def user_object(user: User) -> dict[str, Any]:
    """Return the runtime-spec user object."""
    found: dict[str, Any] = {"uid": user.uid, "gid": user.gid}
    if user.groups:
        found["additionalGids"] = list(user.groups)
    return found


def _with_home(env: list[str], user: User) -> list[str]:
    return env if any(entry.startswith("HOME=") for entry in env) else [*env, f"HOME={user.home}"]


def _tolerant(env: Sequence[str]) -> list[str]:
    # Images with entries that are no assignments exist, and run elsewhere.
    return [entry for entry in env if entry.find("=") > 0]


def _sets(names: list[str]) -> dict[str, list[str]]:
    return {"bounding": names, "effective": names, "permitted": names}


def _workdir(path: str) -> str:
    if not path.startswith("/"):
        raise ConfigError(f"working directory `{path}` is not absolute", "begin it with `/`")
    return path


def _named(names: Sequence[str]) -> set[str]:
    found = {name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in names}
    if unknown := found - set(ALL_CAPABILITIES) - {"CAP_ALL"}:
        raise ConfigError(f"capability `{min(unknown)}` is unknown", "see capabilities(7) for the names")
    return found
