"""What the stages of this command send (`posttrain.runtime.events`): the file that they write to, read as it grows."""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from posttrain.runtime import events

POLL_SECONDS = 0.25


class Messages:
    """Makes the events file, names it to the stages that this process starts, and passes on each event as it comes."""

    def __init__(self, lock: threading.RLock) -> None:
        """`lock` is held while events are passed on; the logger's handler shows its records under the same lock."""
        self.lock = lock
        prefix = f"posttrain-{os.getpid()}-"
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):  # by this process before it began anew
            shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        file = self.folder / "events.jsonl"
        file.touch()
        self.stream = file.open()
        os.environ[events.VARIABLE] = str(file)
        self.receive: Callable[[dict], None] = lambda event: None
        self.tick: Callable[[], None] = lambda: None
        self._rest = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def start(self, receive: Callable[[dict], None], tick: Callable[[], None]) -> None:
        """Begin to pass events to `receive`, and call `tick` four times a second."""
        self.receive, self.tick = receive, tick
        self._thread.start()

    def read(self) -> None:
        """Pass on what has come since; a line that is not whole yet waits."""
        with self.lock:
            *lines, self._rest = (self._rest + self.stream.read()).split("\n")
            for line in lines:
                self.receive(json.loads(line))

    def close(self) -> None:
        """Pass on the last events and remove the file: a stage that outlives this command writes to its own terminal."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=4 * POLL_SECONDS)  # not for ever: whoever closes may hold the lock
        self.read()
        os.environ.pop(events.VARIABLE, None)
        self.stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _poll(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            with self.lock:
                self.read()
                self.tick()
