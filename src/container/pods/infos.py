"""What is shown of a container, put together from its record and what the shim knows. No decisions."""

from pathlib import Path
from typing import Any

import msgspec

from container.intent import ContainerInfo, Status
from container.pods.needs import State
from container.pods.records import Record


def info(record: Record, state: State | None) -> ContainerInfo:
    """Return the short form of one container."""
    return ContainerInfo(
        id=record.id,
        name=record.spec.name or record.id,
        image=record.spec.image,
        image_id=record.image_id,
        status=status(record, state),
        created=record.created,
        pid=state.pid if state is not None else 0,
        started=record.started,
        exit=record.exit,
        command=record.command,
        labels=record.spec.labels,
    )


def status(record: Record, state: State | None) -> Status:
    """Return the state: the shim's word if it knows the container, else what the record tells."""
    if state is not None:
        for known in ("created", "running", "paused", "creating"):
            if state.status == known:
                return known
    return "stopped" if record.started else "creating"


def main_process(directory: Path) -> dict[str, Any]:
    """Return the process object of the container in `directory`."""
    found: dict[str, Any] = msgspec.json.decode((directory / "config.json").read_bytes())
    process: dict[str, Any] = found["process"]
    return process
