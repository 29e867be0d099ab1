"""The control protocol: bytes to messages and back, without I/O. docs/protocol.md describes it.

Public: what `__all__` names is kept stable; requests and answers themselves are the structs of
`vappc.protocol.commands` and `vappc.protocol.answers`, and of `container.intent`.
"""

from vappc.protocol.answers import (
    ANSWERS,
    INTERIM,
    Answer,
    Failure,
    HelloData,
    Interface,
    OutputData,
    ProgressData,
    StartedData,
    output,
    output_bytes,
)
from vappc.protocol.codec import (
    BadRequest,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    failure,
)
from vappc.protocol.commands import COMMANDS, Command, Request
from vappc.protocol.framing import MAX_LINE_BYTES, LineDecoder

#: Counts up when a change would break a client; additions do not.
PROTOCOL_VERSION = 1

__all__ = [
    "ANSWERS",
    "COMMANDS",
    "INTERIM",
    "MAX_LINE_BYTES",
    "PROTOCOL_VERSION",
    "Answer",
    "BadRequest",
    "Command",
    "Failure",
    "HelloData",
    "Interface",
    "LineDecoder",
    "OutputData",
    "ProgressData",
    "Request",
    "StartedData",
    "decode_answer",
    "decode_request",
    "encode_answer",
    "encode_request",
    "failure",
    "output",
    "output_bytes",
]
