"""A server of ours on the loopback, in a thread."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import uvicorn

from posttrain.serving import listening
from posttrain.serving.app import Server


@contextlib.contextmanager
def running(server: Server) -> Iterator[str]:
    """The URL of a server that runs in a thread."""
    sock = listening.bind("127.0.0.1", 0, None)
    listener = uvicorn.Server(uvicorn.Config(server.app, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=asyncio.run, args=[listener.serve([sock])])
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    listener.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
