"""Reading a bundle's config.json: bytes to a checked document, and the rules that types cannot say.

Out of scope: whether this host can do what the document asks (container.runtime).
"""

import os
import sys

from container.errors import ConfigError
from container.linux.namespaces import FLAGS
from container.spec import document as json
from container.spec import schema, sysctls, types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.spec.types import Config, Process

OCI_VERSION = "1.3.0"

#: A config.json is caller-supplied: neither its size nor its nesting may cost us the process.
MAX_BYTES = 4 << 20


def load(bundle: str, name: str = "config.json") -> "Config":
    """Return the checked document of `bundle`.

    Raises:
        ConfigError: it is missing, not JSON, or not valid.
    """
    path = os.path.join(bundle, name)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read `{path}`: {(error.strerror or '').lower()}",
            "name a bundle directory with `--bundle`",
        ) from error
    return parse(raw)


def parse(raw: bytes) -> "Config":
    """Return the checked document in `raw`, the same dict that JSON makes."""
    document = decode(raw, "config.json")
    schema.check_object(document, types.Config, "")
    config: Config = document  # type: ignore[assignment] # checked on the line above
    _check_version(config["ociVersion"])
    process = config.get("process")
    if process is not None:
        check_process(process)
    _check_root(config)
    check_resources((config.get("linux") or {}).get("resources") or {})
    kinds = _check_namespaces(config)
    sysctls.check(config, kinds)
    return config


def parse_process(raw: bytes) -> "Process":
    """Return the checked process object in `raw`, as `exec --process` takes it."""
    document = decode(raw, "process")
    schema.check_object(document, types.Process, "")
    process: Process = document  # type: ignore[assignment] # checked on the line above
    check_process(process)
    return process


def read_input(path: str) -> bytes:
    """Return the content of `path`, of standard input for `-`, and a byte more than may be of a larger one."""
    if path == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read `{path}`: {(error.strerror or '').lower()}", "name a file of JSON") from error


def decode(raw: bytes, what: str) -> object:
    """Return the JSON value in `raw`, within our limits of size and nesting."""
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{what} is larger than {MAX_BYTES} bytes")
    try:
        return json.decode(raw)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{what} is not JSON: {reason}") from error


def check_resources(resources: "dict[str, Any]") -> None:
    """Raise ConfigError where the list of devices is wrong; container.cgroups checks the numbers."""
    if resources.get("devices") is not None:
        schema.check(resources["devices"], "list[DeviceRule]", "linux.resources.devices")


def check_process(process: "Process") -> None:
    """Raise ConfigError where config.md's rules for a process are broken."""
    if not process.get("args"):
        raise ConfigError("`process.args` must name a program")
    if not process["cwd"].startswith("/"):
        raise ConfigError(f"`process.cwd` must be an absolute path, not `{process['cwd']}`")
    for index, variable in enumerate(process.get("env") or ()):
        if "=" not in variable or variable.startswith("="):
            raise ConfigError(f"`process.env[{index}]` must be NAME=value, not `{variable}`")
    for text in (*process["args"], process["cwd"], *(process.get("env") or ())):
        if "\0" in text:
            raise ConfigError(f"`process` contains a NUL character in `{text!r}`")
    seen: set[str] = set()
    for rlimit in process.get("rlimits") or ():
        if rlimit["type"] in seen:
            raise ConfigError(f"`process.rlimits` has `{rlimit['type']}` twice")
        if not all(0 <= rlimit[which] < 1 << 64 for which in ("soft", "hard")):
            raise ConfigError(f"`process.rlimits`: a limit of `{rlimit['type']}` is out of range", "0 to 2^64 - 1")
        if rlimit["soft"] > rlimit["hard"]:
            raise ConfigError(f"`process.rlimits`: soft limit of `{rlimit['type']}` is above the hard one")
        seen.add(rlimit["type"])


def _check_version(version: str) -> None:
    major, _, rest = version.partition(".")
    if major != "1" or not rest:
        raise ConfigError(f"`ociVersion` `{version}` is not one of 1.0.0 to {OCI_VERSION}")


def _check_root(config: "Config") -> None:
    root = config.get("root")
    if root is None:
        raise ConfigError("`root` is missing")
    if not root["path"]:
        raise ConfigError("`root.path` is empty")
    for index, mount in enumerate(config.get("mounts") or ()):
        if not mount["destination"]:
            raise ConfigError(f"`mounts[{index}].destination` is empty")


def _check_namespaces(config: "Config") -> "set[str]":
    seen: set[str] = set()
    for index, namespace in enumerate((config.get("linux") or {}).get("namespaces") or ()):
        kind = namespace["type"]
        if kind not in FLAGS:
            raise ConfigError(f"`linux.namespaces[{index}].type` `{kind}` is unknown", f"one of {', '.join(FLAGS)}")
        if kind in seen:
            raise ConfigError(f"`linux.namespaces` has `{kind}` twice")
        seen.add(kind)
    linux = config.get("linux") or {}
    if config.get("hostname") and "uts" not in seen:
        raise ConfigError("`hostname` needs a `uts` namespace in `linux.namespaces`")
    if "user" not in seen and (linux.get("uidMappings") or linux.get("gidMappings")):
        raise ConfigError("`linux.uidMappings` and `linux.gidMappings` need a `user` namespace in `linux.namespaces`")
    if linux.get("netDevices") and "network" not in seen:
        raise ConfigError("`linux.netDevices` needs a `network` namespace in `linux.namespaces`")
    return seen
