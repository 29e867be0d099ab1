"""The process that fetches and unpacks one layer: `python -m container.images.unpacker`.

It is a process of its own so that layers use all processors, and so that in rootless mode it can
run inside the node's user namespace, where files may have any owner.

In: one JSON object on a line of standard input, `digest`, `size`, `diff_id`, `directory` and `source`
(`url`, `socket`, `headers`). Out: lines `{"bytes": N}` with the bytes fetched so far, then one of
`{"ok": {...}}` and `{"error": {"code", "message", "hint", "retryable"}}`. Exit status 0 means ok.

It removes what it began when it fails, also because nobody reads its output any more; what a killed one
left is removed by the next for the same layer.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from blob.errors import DigestFormatError
from container.errors import ConfigError, ContainerError, StateError
from container.images import download, layers

_PROGRESS_S = 0.1


def emit(message: dict[str, Any]) -> None:
    """Write one line of output.

    Raises:
        StateError: nobody reads it.
    """
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise StateError("nobody reads the progress any more") from error


def describe(error: ContainerError) -> dict[str, Any]:
    """Return the line that tells the parent about `error`."""
    fields = {"code": error.code, "message": error.message, "hint": error.hint, "retryable": error.retryable}
    return {"error": fields}


def parse_job(line: str) -> tuple[layers.Layer, download.Source]:
    """Parse the job.

    Raises:
        ConfigError: a field is missing or of the wrong type.
    """
    try:
        job = json.loads(line)
        source = job["source"]
        layer = layers.Layer(str(job["digest"]), int(job["size"]), str(job["diff_id"]), str(job["directory"]))
        layers.layer_name(layer.digest), layers.layer_name(layer.diff_id)
        headers = {str(key): str(value) for key, value in (source.get("headers") or {}).items()}
        return layer, download.Source(str(source["url"]), str(source.get("socket") or ""), headers)
    except (ValueError, LookupError, TypeError, AttributeError, DigestFormatError) as error:
        raise ConfigError(f"malformed job: {str(error).lower() or type(error).__name__}") from error


def run(line: str) -> dict[str, Any]:
    """Do the job and return the last line of output."""
    layer, source = parse_job(line)
    counts = layers.unpack(layer, lambda: _report(download.fetch(source, layer.size)))
    return {"ok": {"diff_id": layer.diff_id, "present": counts is None, **(asdict(counts) if counts else {})}}


def _report(chunks: Iterator[bytes]) -> Iterator[bytes]:
    done, reported_at = 0, 0.0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        now = time.monotonic()
        if now - reported_at >= _PROGRESS_S:
            emit({"bytes": done})
            reported_at = now
    emit({"bytes": done})


def main() -> int:
    """Run the process."""
    try:
        emit(run(sys.stdin.readline()))
    except ContainerError as error:
        try:
            emit(describe(error))
        except StateError:
            pass
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
