import asyncio
import sys

import pytest

from container.errors import ContainerError, DigestError
from container.images.children import run_child, spawn_local


async def run(code: str, job: dict | None = None) -> tuple[dict, list[int]]:
    seen: list[int] = []
    return await run_child(spawn_local, [sys.executable, "-c", code], job, seen.append), seen


async def test_progress_comes_before_the_result():
    code = 'import sys; j = sys.stdin.readline().strip(); print(\'{"bytes": 1}\\n{"bytes": 2}\\n{"ok": \' + j + "}")'
    assert await run(code, {"a": 1}) == ({"a": 1}, [1, 2])


async def test_error_of_the_child_keeps_its_class():
    code = 'print(\'{"error": {"code": "digest-mismatch", "message": "m", "hint": "h", "retryable": true}}\')'
    with pytest.raises(DigestError) as caught:
        await run(code)
    assert (caught.value.message, caught.value.hint, caught.value.retryable) == ("m", "h", True)


@pytest.mark.parametrize("code", ["", "print('what')", "print('x' * 100000)", "import os; os.kill(os.getpid(), 9)"])
async def test_nonsense_and_silence_are_errors(code):
    with pytest.raises(ContainerError):
        await run(code)


async def test_child_is_gone_when_its_caller_is_cancelled(tmp_path):
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(60)"
    task = asyncio.create_task(run(code))
    while not (pid_file.exists() and pid_file.read_text().endswith(".")):  # noqa: ASYNC110 - the child's doing
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = pid_file.read_text().rstrip(".")
    with pytest.raises(FileNotFoundError):
        open(f"/proc/{pid}/status")
