"""What asks object stores, in a process of its own: obstore's threads do not survive the fork that makes a worker.

Requests come as lines of JSON; each answer is a line of JSON and as many bytes as it says. Many are asked at the same
time. One that fails, stalls or is cut off is asked again, after longer and longer pauses.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import urlsplit

AT_ONCE = 32  # requests
MISSING = ("NotFoundError", "FileNotFoundError")
REFUSED = ("PermissionDeniedError", "UnauthenticatedError", "PermissionError", "NotSupportedError", "ValueError")


class CutOff(Exception):
    """Fewer bytes than were asked for."""


async def answers(timeout: float, pauses: list[float]) -> None:
    """Answer requests until the input ends."""
    at_once = asyncio.Semaphore(AT_ONCE)
    writing = asyncio.Lock()
    running: set[asyncio.Task[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        task = asyncio.create_task(_answer(json.loads(line), timeout, pauses, at_once, writing))
        running.add(task)
        task.add_done_callback(running.discard)
    os._exit(0)  # what is under way is for nobody


async def _answer(
    request: dict[str, Any], timeout: float, pauses: list[float], at_once: asyncio.Semaphore, writing: asyncio.Lock
) -> None:
    content = b""
    about: dict[str, Any] = {}
    async with at_once:
        try:
            about, content = await _persistently(lambda: _ask(request, timeout), timeout, pauses)
        except Exception as error:
            reason = str(error).partition("\n")[0][:300] or type(error).__name__
            about = {"error": reason, "missing": type(error).__name__ in MISSING}
    head = json.dumps({"number": request["number"], "length": len(content), **about}).encode()
    async with writing:
        await asyncio.to_thread(_write, head + b"\n" + content)


def _write(answer: bytes) -> None:
    with suppress(BrokenPipeError):  # nobody waits for it any more
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


async def _persistently(
    ask: Callable[[], Awaitable[tuple[dict[str, Any], bytes]]], timeout: float, pauses: list[float]
) -> tuple[dict[str, Any], bytes]:
    for pause in pauses:
        try:
            return await asyncio.wait_for(ask(), timeout)
        except Exception as error:
            if type(error).__name__ in MISSING + REFUSED:
                raise
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # else all processes ask again at the same time
    return await asyncio.wait_for(ask(), timeout)


async def _ask(request: dict[str, Any], timeout: float) -> tuple[dict[str, Any], bytes]:
    import obstore

    store, path = _store(request["url"], timeout)
    if request["what"] == "list":
        found = [each["path"] async for batch in obstore.list(store, path) for each in batch]
        return {"paths": found}, b""
    if request["what"] == "head":
        return _about(await obstore.head_async(store, path)), b""
    begin = request["begin"]
    end = request["end"]
    got = await obstore.get_async(store, path, options={"range": (begin, end)})
    about = _about(got.meta)
    content = bytes(await got.bytes_async())
    if len(content) != min(end, about["size"]) - begin:
        raise CutOff(f"{len(content)} bytes came, of {end - begin}")
    return about, content


def _about(meta: Any) -> dict[str, Any]:
    return {"size": meta["size"], "version": f"{meta['e_tag']} {meta['last_modified']}"}


def _store(url: str, timeout: float) -> tuple[Any, str]:
    """The store of a URL, and the path in it. Keys and endpoints of buckets come from the environment."""
    parts = urlsplit(url)
    return _store_at(f"{parts.scheme}://{parts.netloc}", timeout), parts.path.lstrip("/")


@cache
def _store_at(root: str, timeout: float) -> Any:
    from obstore.store import from_url

    return from_url(
        root,
        client_options={"allow_http": True, "timeout": timedelta(seconds=timeout)},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=timeout)},
    )


if __name__ == "__main__":
    asyncio.run(answers(float(sys.argv[1]), json.loads(sys.argv[2])))
