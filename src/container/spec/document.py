"""JSON without the `json` package: its import (re, enum, functools) would cost a start more than its parsing.

The C halves of that package, `_json`, do the work and are used directly; where they are missing or have
another shape the package itself takes their place. Out of scope: what a document means (container.spec.config).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SPACE = " \t\n\r"


class _Scanner:
    """The settings that the C scanner reads from its context."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(word: str) -> object:
        raise ValueError(f"`{word}` is not a number in JSON")


def decode(raw: "bytes | str") -> object:
    """Return the value that `raw` is the JSON of.

    Raises:
        ValueError: it is not JSON in UTF-8.
        RecursionError: it is nested too deeply.
    """
    text = raw if isinstance(raw, str) else raw.decode()
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"a value is missing at character {stop.value}") from None
    except SystemError:
        return _explain(text)
    rest = text[end:].lstrip(_SPACE)
    if rest:
        raise ValueError(f"there is something behind the end: `{rest[:20]}`")
    return value


def _explain(text: str) -> object:
    # The C scanner looks for the class of its error in json.decoder, and fails where that is not imported.
    import json

    return json.loads(text, parse_constant=_Scanner.parse_constant)


def encode(value: object) -> str:
    """Return `value` as JSON in one line."""
    return "".join(_encode(value, 0))


def pretty(value: object, indent: str = "") -> str:
    """Return `value` as JSON with two spaces per level, as people and runc's callers read it."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{deeper}{_string(str(key))}: {pretty(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)) and value:
        return "[\n" + ",\n".join(deeper + pretty(item, deeper) for item in value) + f"\n{indent}]"
    return encode(value)


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _open() -> "tuple[Callable[..., tuple[object, int]], Callable[..., tuple[str, ...]], Callable[[str], str]]":
    try:
        import _json

        scan = _json.make_scanner(_Scanner)  # type: ignore[arg-type] # anything with these attributes will do
        encoder = _json.make_encoder({}, _refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False)
        if "".join(encoder({"a": [1]}, 0)) != '{"a": [1]}':
            raise ImportError("`_json` has another interface")
    except (ImportError, AttributeError, TypeError):
        return _open_package()
    return scan, encoder, _json.encode_basestring_ascii


def _open_package() -> "tuple[Callable[..., tuple[object, int]], Callable[..., tuple[str, ...]], Callable[[str], str]]":
    import json

    return (
        json.JSONDecoder(parse_constant=_Scanner.parse_constant).scan_once,  # type: ignore[attr-defined] # no stub
        lambda value, _level: (json.dumps(value, allow_nan=False),),
        json.dumps,
    )


_scan, _encode, _string = _open()
