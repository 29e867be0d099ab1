"""The JSON Schema of the protocol, made from its types; docs/protocol.schema.json is this, committed.

`python -m vappc.protocol.schema > docs/protocol.schema.json` writes it afresh.
"""

import sys
from typing import Any

import msgspec

from vappc.protocol.answers import ANSWERS
from vappc.protocol.commands import COMMANDS

_ID = {"type": ["integer", "string"], "description": "chosen by the client, echoed on every answer"}


def schema() -> dict[str, Any]:
    """Return the schema: a line is one `request` or one `answer`."""
    kinds = [*COMMANDS.values(), *(kind for kind in ANSWERS.values() if kind is not None)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    by_command = dict(zip(COMMANDS, schemas, strict=False))
    with_data = [name for name, kind in ANSWERS.items() if kind is not None]
    by_answer = dict(zip(with_data, schemas[len(COMMANDS) :], strict=True))
    requests = [_line("cmd", name, by_command[name], _needs_data(kind)) for name, kind in COMMANDS.items()]
    answers = [_line("type", name, by_answer.get(name), name in by_answer) for name in ANSWERS]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vappc control protocol",
        "description": "Newline-delimited JSON, one object a line, at most 1 MiB a line.",
        "oneOf": [{"$ref": "#/$defs/request"}, {"$ref": "#/$defs/answer"}],
        "$defs": {"request": {"oneOf": requests}, "answer": {"oneOf": answers}, **components},
    }


def render() -> str:
    """Return the text of docs/protocol.schema.json."""
    return msgspec.json.format(msgspec.json.encode(schema(), order="deterministic"), indent=2).decode() + "\n"


def _needs_data(kind: type) -> bool:
    return any(found.required for found in msgspec.structs.fields(kind))


def _line(tag: str, name: str, data: dict[str, Any] | None, required: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {tag: {"const": name}, "id": _ID}
    if data is not None:
        properties["data"] = data
    return {
        "type": "object",
        "properties": properties,
        "required": [tag, "data"] if required else [tag],
    }


if __name__ == "__main__":
    sys.stdout.write(render())
