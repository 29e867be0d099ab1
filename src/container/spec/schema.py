"""Checking a JSON document against the classes of container.spec.types.

The annotations are strings; `check` interprets them. A wrong document gives one ConfigError that names
the field by its path, such as `process.args[0]`, and what was found there.
"""

from container.errors import ConfigError
from container.spec import types

_PRIMITIVES = {"str": str, "int": int, "bool": bool}
_WORDS = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    float: "a number",
    type(None): "null",
}


def check(value: object, annotation: str, where: str) -> None:
    """Raise ConfigError unless `value` is what `annotation` says; `where` is the path for the message."""
    if annotation == "Any":
        return
    name, _, inner = annotation.partition("[")
    inner = inner[:-1]
    if name == "Required":
        check(value, inner, where)
    elif name in _PRIMITIVES:
        _expect(value, _PRIMITIVES[name], where)
    elif name == "list":
        _check_list(value, inner, where)
    elif name == "dict":
        _check_dict(value, inner.partition(",")[2].strip(), where)
    else:
        check_object(value, getattr(types, name), where)


def check_object(value: object, cls: type, where: str) -> None:
    """Raise ConfigError unless `value` is a JSON object with the fields of `cls`; unknown fields pass."""
    _expect(value, dict, where)
    assert isinstance(value, dict)
    for field, annotation in cls.__annotations__.items():
        path = f"{where}.{field}" if where else field
        found = value.get(field)
        if found is not None:
            check(found, annotation, path)
        elif annotation.startswith("Required"):
            raise ConfigError(f"`{path}` is missing")


def _check_list(value: object, inner: str, where: str) -> None:
    _expect(value, list, where)
    assert isinstance(value, list)
    for index, item in enumerate(value):
        check(item, inner, f"{where}[{index}]")


def _check_dict(value: object, inner: str, where: str) -> None:
    _expect(value, dict, where)
    assert isinstance(value, dict)
    for key, item in value.items():
        check(item, inner, f"{where}.{key}")


def _expect(value: object, wanted: type, where: str) -> None:
    # JSON numbers may be written 1.0; bool is an int to Python, not to JSON.
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return
    found = repr(value)
    if len(found) > 60:
        found = found[:57] + "..."
    raise ConfigError(f"`{where}` must be {_WORDS[wanted]}, not {_WORDS.get(type(value), '?')} `{found}`")
