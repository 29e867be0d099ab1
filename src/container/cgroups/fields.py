"""Reading numbers and words out of a runtime-spec document, with errors that name field and value. PURE.

Out of scope: what the fields mean (container.cgroups.resources, limits_v1, limits_v2).
"""

from container.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: One planned value: (controller, file, value).
    Write = tuple[str, str, str]

#: config-linux.md: limits are int64, sizes uint64; what is outside of both is a slip of the pen.
_LARGEST = (1 << 64) - 1
_SMALLEST = -(1 << 63)


def read_section(resources: "dict[str, Any]", name: str) -> "dict[str, Any]":
    """Return the object `name` of linux.resources, empty where it is absent or null."""
    found = resources.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"linux.resources.{name}: `{found}` is not an object", "write it as {...}")
    return found


def read_list(section: "dict[str, Any]", name: str, where: str) -> "list[dict[str, Any]]":
    """Return the list of objects `name`, empty where it is absent or null."""
    found = section.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ConfigError(f"{where}.{name}: `{found}` is not a list of objects", "write it as [{...}]")
    return found


def read_number(section: "dict[str, Any]", name: str, where: str, least: int = _SMALLEST) -> "int | None":
    """Return the integer `name`, None where it is absent or null."""
    found = section.get(name)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool):
        raise ConfigError(f"{where}.{name}: `{found}` is not an integer", "write a number without quotes")
    if not least <= found <= _LARGEST:
        raise ConfigError(f"{where}.{name}: `{found}` is out of range", f"the least value is {least}")
    return found


def read_text(section: "dict[str, Any]", name: str, where: str) -> "str | None":
    """Return the text `name`, None where it is absent, null or empty (an empty text means unset)."""
    found = section.get(name)
    if found is None or found == "":
        return None
    if not isinstance(found, str) or "\n" in found or "\0" in found:
        raise ConfigError(f"{where}.{name}: `{found}` is not one line of text", "write it as a text")
    return found


def read_device(item: "dict[str, Any]", where: str) -> str:
    """Return `major:minor` of a block device object."""
    major = read_number(item, "major", where, 0)
    minor = read_number(item, "minor", where, 0)
    if major is None or minor is None:
        raise ConfigError(f"{where}: `{item}` lacks major or minor", "name the device by both numbers")
    return f"{major}:{minor}"


def format_limit(value: int) -> str:
    """Return a limit as cgroup files want it: any negative number means none."""
    return "max" if value < 0 else str(value)
