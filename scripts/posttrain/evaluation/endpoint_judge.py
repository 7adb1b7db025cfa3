"""A judge behind an OpenAI-compatible endpoint: requests with a time limit, tried again a few times, and paid for up to a limit.

The key comes from the environment and goes into one header. It is in no file, log or error; redirections, which could send it
elsewhere, are not followed.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from typing import Any

import requests

from posttrain.evaluation.judging import Reply
from posttrain.runtime.errors import UserError

TRIES = 5
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try, twice as many before each further one, and at most
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses that pass
MAX_BYTES = 4_000_000  # of a response
TEMPLATE_TOKENS = 64  # of the endpoint's chat template, at most: a byte is at least one token's, and this is added
KEPT = "what was judged is kept: the same command asks for the rest"


class EndpointJudge:
    """A model behind `base_url`/chat/completions."""

    def __init__(self, settings: Mapping[str, Any], place: str, pause: float = PAUSE) -> None:
        """Judge by an endpoint.

        Args:
            settings: the suite's `endpoint`, with every key that is not null.
            place: the key of the configuration.
            pause: seconds before the second try.

        Raises:
            UserError: the variable with the key is not set, or is no key.
        """
        self.settings, self.place, self.pause = settings, place, pause
        self.identity: list[Any] = ["endpoint", *(settings[key] for key in ("base_url", "model", "max_tokens"))]
        self._cost = 0.0
        self._reserved: list[float] = []
        self._money, self._ended = threading.Condition(), threading.Event()
        self._key = self._read_key()

    def ask(self, texts: Mapping[str, str], spent: float = 0.0) -> Iterator[tuple[str, Reply]]:
        """The reply to each text, as they come; `spent` counts towards the limit of the cost.

        Raises:
            UserError: the endpoint is not there, refuses, replies with something else, or would cost too much.
        """
        self._cost = spent
        fault: UserError | None = None
        with ThreadPoolExecutor(self.settings["concurrency"]) as pool:
            futures: dict[Future[Reply], str] = {pool.submit(self._reply, text): name for name, text in texts.items()}
            try:
                for future in as_completed(futures):
                    try:
                        reply = future.result()
                    except UserError as error:  # those under way are waited for, and kept
                        fault = fault or error
                    except CancelledError:
                        continue
                    else:
                        yield futures[future], reply
            finally:
                self._ended.set()
        if fault:
            raise fault

    def cost(self, reply: Reply) -> float | None:
        """What a reply costs; None without prices."""
        prices = [self.settings.get(f"price_per_million_{side}") for side in ("input", "output")]
        if None in prices:
            return None
        return (reply.prompt_tokens * prices[0] + reply.completion_tokens * prices[1]) / 1e6

    # ---- one request

    def _reply(self, text: str) -> Reply:
        """The reply to a text, tried again where that may help."""
        most = Reply("", len(text.encode()) + TEMPLATE_TOKENS, self.settings["max_tokens"])
        try:
            reserved, cost = self._reserve(most), 0.0
            try:
                if self._ended.is_set():
                    raise CancelledError
                reply = self._tried(text, most)
                cost = self.cost(reply) or 0.0
            finally:
                self._settle(reserved, cost)
        except UserError:
            self._ended.set()
            raise
        return reply

    def _tried(self, text: str, most: Reply) -> Reply:
        pause, said = self.pause, ""
        for number in range(TRIES):
            try:
                status, wanted, body = self._post(text)
            except requests.RequestException as error:
                said, wanted = _reason(error), None
            else:
                if status == 200:
                    return self._parsed(body, most)
                if status not in AGAIN:
                    raise self._refused(status, body)
                said = f"status {status}"
            if number + 1 < TRIES and self._ended.wait(min(wanted or pause, LONGEST_PAUSE)):
                break
            pause *= 2
        problem = f"no reply from {self.settings['base_url']} in {number + 1} tries ({said})"
        raise UserError("judge-unreachable", self.place, problem, KEPT)

    def _post(self, text: str) -> tuple[int, float | None, bytes]:
        """Status, seconds that the endpoint asks to wait, and body of one request."""
        body = {
            "model": self.settings["model"],
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self.settings["max_tokens"],
        }
        timeout = self.settings["timeout"]
        end = time.monotonic() + timeout
        url = f"{self.settings['base_url']}/chat/completions"
        options = {"timeout": timeout, "allow_redirects": False, "stream": True, "auth": self._authorise}
        with requests.post(url, json=body, **options) as response:
            content = b""
            for piece in response.iter_content(65536):
                content += piece
                if len(content) > MAX_BYTES or time.monotonic() > end:
                    raise requests.Timeout(f"the response has more than {MAX_BYTES} bytes, or does not end")
            wait = response.headers.get("retry-after", "")
            return response.status_code, float(wait) if wait.isdecimal() else None, content

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Give the key; as `auth`, so that requests does not take one from a .netrc file."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _read_key(self) -> str | None:
        name = self.settings.get("key_env")
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            problem = f"the environment variable {name} is {'no key' if key else 'not set'}"
            raise UserError("judge-refused", f"{self.place}.key_env", problem, "set it where the command runs")
        return key

    def _parsed(self, body: bytes, most: Reply) -> Reply:
        """The reply in a response; where it does not count its tokens, as many as there may be."""
        try:
            values = json.loads(body)
            text = values["choices"][0]["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, RecursionError, LookupError, TypeError):
            problem = (
                f"{self.settings['base_url']} replies with something else than a chat completion: {self._shown(body)}"
            )
            hint = "check base_url, which ends before /chat/completions"
            raise UserError("judge-refused", self.place, problem, hint) from None
        usage = values.get("usage")
        counts = [usage.get(f"{kind}_tokens") if isinstance(usage, dict) else None for kind in ("prompt", "completion")]
        known = all(type(count) is int and count >= 0 for count in counts)
        return Reply(text, *(counts if known else most[1:]))

    def _refused(self, status: int, body: bytes) -> UserError:
        """The error for a status that another try does not change."""
        name = self.settings.get("key_env")
        hints = {
            401: f"check the key in the environment variable {name}"
            if name
            else "name the variable with its key: key_env",
            404: "check base_url, which ends before /chat/completions, and model",
        }
        hints[403] = hints[401]
        told = "" if status in (401, 403) else f": {self._shown(body)}"  # some repeat a part of the key
        problem = f"{self.settings['base_url']} refuses with status {status}{told}"
        return UserError("judge-refused", self.place, problem, hints.get(status, KEPT))

    def _shown(self, body: bytes) -> str:
        """The beginning of a response, without the key."""
        text = body[:2000].decode(errors="replace")
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:200] or "nothing"

    # ---- cost

    def _reserve(self, most: Reply) -> float:
        """Set aside what a request may cost at most; those under way, which cost less as a rule, are waited for.

        Raises:
            UserError: it could exceed the limit.
        """
        limit, may = self.settings.get("max_cost"), self.cost(most) or 0.0
        with self._money:
            while limit is not None and self._reserved and self._cost + sum(self._reserved) + may > limit:
                self._money.wait()
            if limit is not None and self._cost + may > limit:
                problem = f"the verdicts cost {self._cost:.4g}, and the next one may exceed max_cost {limit:g}"
                raise UserError("judge-cost", self.place, problem, f"raise max_cost; {KEPT}")
            self._reserved.append(may)
        return may

    def _settle(self, reserved: float, cost: float) -> None:
        with self._money:
            self._reserved.remove(reserved)
            self._cost += cost
            self._money.notify_all()


def _reason(error: requests.RequestException) -> str:
    """Why there was no response, in a few words."""
    if isinstance(error, requests.Timeout):
        return "it takes too long"
    text = str(error)
    found = [
        word
        for word in ("Connection refused", "Name or service not known", "certificate verify failed")
        if word in text
    ]
    return found[0] if found else type(error).__name__
