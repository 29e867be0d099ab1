"""Containers as a user asks for them: run, stop, exec, logs, remove; and what is left from last time.

One engine per daemon. It joins three sources: the record on disk (what was asked for, how it ended),
the shim (what runs), and the operations under way. Out of scope: the wire, the runtime, image storage.

A container's life: `run` makes its directory and record, prepares the root file system, writes the
bundle, lets the shim start it, and leaves a monitor that waits for its end and keeps the exit code.
Whatever an interrupted or failed start had made is removed, now or by `restore` after a crash.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec

from container.errors import ContainerError, ExistsError, HostError, NotFoundError, StateError
from container.intent import (
    ContainerDetail,
    ContainerInfo,
    ContainerRunSpec,
    ExecSpec,
    ExitStatus,
    InstanceHandle,
    InstanceState,
    Provisioning,
    SocketEndpoint,
    StateDetail,
)
from container.paths import Paths
from container.pods import logs, signals
from container.pods.infos import info, main_process
from container.pods.launch import Launcher, Wish
from container.pods.needs import ImageStore, Runtime, State
from container.pods.operations import Operation, Operations
from container.pods.process import exec_process
from container.pods.records import Record, Records
from container.pods.sessions import Attachment, Session, exit_status
from container.progress import Report, ignore

logger = logging.getLogger(__name__)

#: The exit code of a container whose end nobody saw: the machine went down with it.
LOST = 255
SIGKILL = 9
#: How long after SIGKILL the kernel may take.
_KILL_WAIT_S = 30.0


class Engine:
    """All containers of one app directory."""

    def __init__(self, paths: Paths, images: ImageStore, shim: Runtime, *, rootless: bool) -> None:
        self.operations = Operations()
        self._records = Records(paths.bundles)
        self._images = images
        self._shim = shim
        self._launcher = Launcher(self._records, images, shim, rootless=rootless, node=paths.run.name)
        self._monitors: dict[str, asyncio.Task[None]] = {}
        self._held: Counter[str] = Counter()
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()

    async def restore(self) -> None:
        """Take up what an earlier daemon left: watch what runs, keep exit codes, clear interrupted starts."""
        states = await self._states()
        for name in list(self._records.names()):
            record = self._records.read(name)
            state = states.pop(name, None)
            if record is None or not record.started:
                logger.info("clearing interrupted start id=%s", name)
                await self._discard(name)
            elif state is None:
                await self._keep_exit(record, record.exit or ExitStatus(LOST, finished=time.time()))
            else:
                self._monitor(record)
        for name in states:
            logger.info("clearing container without record id=%s", name)
            await self._shim.delete(name, force=True)

    async def close(self) -> None:
        """Stop watching; containers run on."""
        await self.operations.close()
        for monitor in list(self._monitors.values()):
            monitor.cancel()
        await asyncio.gather(*self._monitors.values(), return_exceptions=True)

    async def run(
        self, spec: ContainerRunSpec, report: Report = ignore, terminal_size: tuple[int, int] = (24, 80)
    ) -> InstanceHandle:
        """Start a container and return once it runs.

        Asking again for the same id joins a start under way, returns the handle of a container that
        runs with the same settings, and replaces one that has ended.

        Raises:
            ExistsError: the id runs with other settings.
            ConfigError, ImageError, HostError, LaunchError: it cannot be started; nothing is left of it.
        """
        _, operation = self.begin(spec, terminal_size)
        return await operation.follow(report)

    def begin(
        self, spec: ContainerRunSpec, terminal_size: tuple[int, int] = (24, 80)
    ) -> tuple[str, Operation[InstanceHandle]]:
        """Begin what `run` does, or join it; return the container's id and the operation to follow."""
        container_id = spec.instance_id or f"run-{secrets.token_hex(6)}"
        operation = self.operations.join(
            f"run:{container_id}",
            spec,
            lambda report: self._run(container_id, spec, terminal_size, report),
            f"stop `{container_id}` first, or choose another id",
        )
        return container_id, operation

    async def stop(self, container_id: str, timeout_s: float | None = None) -> None:
        """Send the stop signal, SIGKILL after `timeout_s`, and return when the container has ended."""
        if starting := self.operations.running(f"run:{container_id}"):
            await starting.cancel()
        if self._records.read(container_id) is None:
            if starting:
                return
            raise NotFoundError(f"no container `{container_id}`", "`vappc ps -a` lists all")
        record = self._record(container_id)
        state = (await self._states()).get(container_id)
        if state is None or state.status == "stopped":
            return
        if state.status == "paused":
            # A frozen process gets no signal but SIGKILL.
            await self._shim.resume(container_id)
        await self._signal(container_id, record.stop_signal)
        limit = record.spec.stop_timeout_s if timeout_s is None else timeout_s
        if not await self._ends_within(container_id, limit):
            await self._signal(container_id, SIGKILL, everyone=True)
            if not await self._ends_within(container_id, _KILL_WAIT_S):
                raise StateError(
                    f"container `{container_id}` survives SIGKILL",
                    "a process hangs in the kernel; see `dmesg`",
                )

    async def kill(self, container_id: str, signal: str, *, everyone: bool = False) -> None:
        """Send a signal, by name or number, to the main process or everyone."""
        number = signals.parse(signal)
        await self._alive(container_id)
        await self._shim.kill(container_id, number, everyone=everyone)

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        """Delete a container and all that is its own; with `force` one that runs too."""
        if force:
            await self.stop(container_id, 0)
            if self._records.read(container_id) is None:
                return
        self._record(container_id)
        state = (await self._states()).get(container_id)
        if state is not None and state.status not in ("stopped", "created") and not force:
            raise StateError(f"container `{container_id}` is {state.status}", "stop it first, or remove it with force")
        await self._discard(container_id)

    async def pause(self, container_id: str) -> None:
        """Freeze every process of a container."""
        if (await self._alive(container_id)).status != "paused":
            await self._shim.pause(container_id)

    async def resume(self, container_id: str) -> None:
        """Thaw a paused container."""
        if (await self._alive(container_id)).status == "paused":
            await self._shim.resume(container_id)

    async def wait(self, container_id: str) -> ExitStatus:
        """Wait for the end of a container and return how it ended."""
        with self.hold(container_id):
            record = self._record(container_id)
            if record.exit is None and (monitor := self._monitors.get(container_id)):
                await asyncio.wait({monitor})
                record = self._record(container_id)
            if record.exit is None:
                raise StateError(f"container `{container_id}` has not been started", "start it first")
            return record.exit

    async def list(self) -> list[ContainerInfo]:
        """Return all containers, the newest first."""
        states = await self._states()
        records = [found for name in self._records.names() if (found := self._records.read(name))]
        infos = [info(record, states.get(record.id)) for record in records]
        return sorted(infos, key=lambda found: -found.created)

    async def inspect(self, container_id: str) -> ContainerDetail:
        """Return everything about one container."""
        record = self._record(container_id)
        directory = self._records.directory(record.id)
        try:
            config = (directory / "config.json").read_bytes()
        except FileNotFoundError:
            config = b"null"
        return ContainerDetail(
            info=info(record, (await self._states()).get(record.id)),
            spec=record.spec,
            image_digest=record.image_digest,
            directory=str(directory),
            log_path=str(directory / "log"),
            config=msgspec.json.decode(config),
        )

    async def state(self, container_id: str) -> InstanceState:
        """Return the state in the words of the first release: Running, Stopped or Provisioning."""
        if operation := self.operations.running(f"run:{container_id}"):
            return StateDetail(provisioning=Provisioning(operation.percentage))
        self._record(container_id)
        state = (await self._states()).get(container_id)
        return "Running" if state is not None and state.status == "running" else "Stopped"

    def endpoint(self, container_id: str) -> SocketEndpoint:
        """Return where the container is reached: its directory on the host."""
        self._record(container_id)
        return SocketEndpoint(str(self._records.directory(container_id)))

    async def logs(
        self, container_id: str, *, follow: bool = False, since: float | None = None, tail: int | None = None
    ) -> AsyncIterator[logs.Entry]:
        """Yield what the container wrote; with `follow` until it has ended and all is read."""
        with self.hold(container_id):
            self._record(container_id)
            ended = self._end_event(container_id) if follow else None
            path = self._records.directory(container_id) / "log"
            async for entry in logs.read(path, ended=ended, since=since, tail=tail):
                yield entry

    async def exec(self, container_id: str, spec: ExecSpec) -> Session:
        """Start a process in a running container; its session must be run to its end."""
        state = await self._alive(container_id)
        if state.status != "running":
            raise StateError(f"container `{container_id}` is {state.status}", "resume it first")
        main = main_process(self._records.directory(container_id))
        user = self._launcher.user(container_id, spec.user) if spec.user is not None else None
        exec_id = f"exec-{secrets.token_hex(6)}"
        handle = await self._shim.exec(
            container_id,
            exec_id,
            exec_process(main, spec, user),
            terminal=spec.terminal,
            rows=spec.rows,
            cols=spec.cols,
        )
        session = Session(exec_id, handle)
        if not spec.stdin and not spec.terminal:
            await session.close_input()
        return session

    def attach(self, container_id: str) -> Attachment | None:
        """Return a way to the stdin and terminal of a container's main process, None if it has neither.

        Raises:
            StateError: it has ended.
        """
        spec = self._record(container_id).spec
        if not spec.stdin and not spec.terminal:
            return None
        return Attachment(container_id, self._shim, is_terminal=spec.terminal)

    async def wait_removed(self, container_id: str) -> None:
        """Wait until a container that is removed at its end is gone; at once if none is being removed."""
        if task := self._removals.get(container_id):
            await asyncio.wait({task})

    def layers_in_use(self) -> set[str]:
        """Return the diff ids of the layers that containers are made of."""
        records = (self._records.read(name) for name in self._records.names())
        return {layer for record in records if record for layer in record.layers}

    @contextmanager
    def hold(self, container_id: str) -> Iterator[None]:
        """Keep a container that is to be removed at its end until the block is left."""
        self._held[container_id] += 1
        try:
            yield
        finally:
            self._held[container_id] -= 1
            if not self._held[container_id]:
                del self._held[container_id]
                self._released(container_id)

    async def _run(
        self, container_id: str, spec: ContainerRunSpec, size: tuple[int, int], report: Report
    ) -> InstanceHandle:
        if await self._is_running_already(container_id, spec):
            return self._handle(container_id)
        record = await self._launcher.launch(Wish(container_id, spec, size), report)
        self._monitor(record)
        logger.info("running id=%s image=%s", container_id, spec.image)
        return self._handle(container_id)

    async def _is_running_already(self, container_id: str, spec: ContainerRunSpec) -> bool:
        record = self._records.read(container_id)
        state = (await self._states()).get(container_id)
        if record is not None and record.started and state is not None and state.status in ("running", "paused"):
            if record.spec == spec:
                return True
            raise ExistsError(
                f"container `{container_id}` runs with other settings",
                f"stop it with `vappc stop {container_id}`, or choose another name",
            )
        if state is not None or self._records.directory(container_id).exists():
            await self._discard(container_id)
        return False

    def _handle(self, container_id: str) -> InstanceHandle:
        return InstanceHandle(container_id, SocketEndpoint(str(self._records.directory(container_id))))

    def _monitor(self, record: Record) -> None:
        if record.exit is None:
            task = asyncio.create_task(self._watch(record), name=f"monitor {record.id}")
            self._monitors[record.id] = task
            task.add_done_callback(lambda _: self._released(record.id))

    async def _watch(self, record: Record) -> None:
        try:
            found = await self._shim.wait(record.id)
        except NotFoundError:
            return  # it was removed while it ran
        except ContainerError as error:
            logger.error("cannot wait for container id=%s error=%s", record.id, error)
            return
        logger.info("ended id=%s code=%d", record.id, found.code)
        await self._keep_exit(record, exit_status(found))

    async def _keep_exit(self, record: Record, status: ExitStatus) -> None:
        if record.exit is None and self._records.directory(record.id).exists():
            try:
                await self._records.write(msgspec.structs.replace(record, exit=status))
            except HostError as error:
                # The shim keeps the code too, so a full disk now is no loss yet.
                logger.error("cannot keep exit code id=%s code=%d error=%s", record.id, status.code, error)

    def _released(self, container_id: str) -> None:
        """Remove a container that has ended, is to be removed, and that nobody looks at any more."""
        record = self._records.read(container_id)
        if record is None or not record.spec.remove or record.exit is None or self._held[container_id]:
            return
        if container_id not in self._removals:
            task = asyncio.create_task(self._remove_ended(record), name=f"remove {container_id}")
            self._removals[container_id] = task
            task.add_done_callback(lambda _: self._removals.pop(container_id, None))

    async def _remove_ended(self, record: Record) -> None:
        container_id = record.id
        try:
            await self._discard(container_id, only=record)
        except (ContainerError, OSError) as error:
            logger.error("cannot remove container id=%s error=%s", container_id, error)

    async def _discard(self, container_id: str, only: Record | None = None) -> None:
        """Remove a container; with `only` not another one that has taken the id meanwhile."""
        async with self._exclusive(container_id):
            found = self._records.read(container_id)
            if only is None or (found is not None and found.created == only.created):
                monitor = self._monitors.pop(container_id, None)
                if monitor is not None:
                    monitor.cancel()
                    await asyncio.wait({monitor})
                await self._launcher.discard(container_id)

    @asynccontextmanager
    async def _exclusive(self, container_id: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(container_id, asyncio.Lock())
        self._waiting[container_id] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[container_id] -= 1
            if not self._waiting[container_id]:
                del self._waiting[container_id], self._locks[container_id]

    def _end_event(self, container_id: str) -> asyncio.Event:
        ended = asyncio.Event()
        monitor = self._monitors.get(container_id)
        if monitor is None or monitor.done():
            ended.set()
        else:
            monitor.add_done_callback(lambda _: ended.set())
        return ended

    async def _ends_within(self, container_id: str, limit_s: float) -> bool:
        monitor = self._monitors.get(container_id)
        if monitor is None:
            return True
        await asyncio.wait({monitor}, timeout=limit_s)
        return monitor.done()

    async def _signal(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        try:
            await self._shim.kill(container_id, number, everyone=everyone)
        except (NotFoundError, StateError):
            pass  # it ended just now

    async def _states(self) -> dict[str, State]:
        return {state.id: state for state in await self._shim.states()}

    async def _alive(self, container_id: str) -> State:
        self._record(container_id)
        state = (await self._states()).get(container_id)
        if state is None or state.status == "stopped":
            raise StateError(f"container `{container_id}` does not run", "run it again")
        return state

    def _record(self, container_id: str) -> Record:
        record = self._records.read(container_id)
        if record is None:
            raise NotFoundError(f"no container `{container_id}`", "`vappc ps -a` lists all")
        return record
