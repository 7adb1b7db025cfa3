"""An OpenAI-compatible endpoint on the loopback whose replies are known, and which counts what it is asked."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def texts(prompt: str) -> tuple[str, str, str]:
    """The request and the answers A and B that a judge was given."""
    found = re.findall(
        r"^\[(?:request|answer A|answer B) (\w{12})\]\n(.*?)\n\[end of (?:request|answer [AB]) \1\]$",
        prompt,
        re.M | re.S,
    )
    (_, request), (_, first), (_, second) = found
    return request, first, second


def longer(prompt: str) -> str:
    """The judge that prefers the longer answer."""
    _, first, second = texts(prompt)
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def completion(text: str, prompt: str = "", **more: Any) -> dict:
    """A response as OpenAI's; a word is a token here."""
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage} | more


class Server(ThreadingHTTPServer):
    """What a test looks at: `url`, `bodies` and `keys` of the requests; `answer` gives status, headers and body for a body."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[dict], tuple[int, dict, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.bodies, self.keys = answer, [], []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.lock = threading.Lock()
        self.ended = threading.Event()

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("authorization"))
        status, headers, content = (
            self.server.answer(body) if self.path == "/v1/chat/completions" else (404, {}, b"no such path")
        )
        with contextlib.suppress(OSError):  # the client gave up
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(
    judge: Callable[[str], str] | None = None, answer: Callable[[dict], tuple[int, dict, bytes]] | None = None
) -> Iterator[Server]:
    """A server that replies what `judge` makes of a prompt, or that answers a request's body by `answer`."""

    def judged(body: dict) -> tuple[int, dict, bytes]:
        prompt = body["messages"][0]["content"]
        return 200, {}, json.dumps(completion(judge(prompt), prompt)).encode()

    server = Server(answer or judged)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
