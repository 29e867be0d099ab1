"""The client library: `Client` blocks, `AsyncClient` is for asyncio; both speak through one pure core.

Light on purpose: importing this brings in msgspec and the standard library only, and asyncio not
before `AsyncClient` is touched.

    from vappc.client import Client
    with Client() as client:
        print(client.ping(), [found.id for found in client.list_containers()])
"""

from typing import TYPE_CHECKING

from vappc.client.blocking import Client, ExecResult, ping_over_stream
from vappc.client.process import Process
from vappc.errors import ConnectError, ProtocolError, ServerError, VappcError

if TYPE_CHECKING:
    from vappc.client.concurrent import AsyncClient, AsyncProcess

__all__ = [
    "AsyncClient",
    "AsyncProcess",
    "Client",
    "ConnectError",
    "ExecResult",
    "Process",
    "ProtocolError",
    "ServerError",
    "VappcError",
    "ping_over_stream",
]


def __getattr__(name: str) -> object:
    if name in ("AsyncClient", "AsyncProcess"):
        from vappc.client import concurrent

        return getattr(concurrent, name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
