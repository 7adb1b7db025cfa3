"""An S3 server on the loopback (moto), which remembers the requests that it was sent."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


class Request(NamedTuple):
    """A request as the server got it."""

    method: str
    address: str
    """path and query"""
    sender: str
    """what AWS_SDK_UA_APP_ID names; empty where nothing does"""

    @property
    def is_download(self) -> bool:
        """Whether an object's content was asked for."""
        return self.method == "GET" and "?" not in self.address


@dataclass
class Server:
    """A running server with the bucket `team`."""

    url: str
    requests: list[Request] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """What a command needs to use it."""
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        return keys | {"AWS_DEFAULT_REGION": "us-east-1", "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": self.url}

    def client(self):
        """A client of boto3's."""
        import boto3

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.url, **keys)


@contextmanager
def serve() -> Iterator[Server]:
    """Run a server as long as the block."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_) -> None:
            pass

    application = DomainDispatcherApplication(create_backend_app)

    def counting(environ, start):
        agent = environ.get("HTTP_USER_AGENT", "")
        sender = next((part[4:] for part in agent.split() if part.startswith("app/")), "")
        server.requests.append(Request(environ["REQUEST_METHOD"], environ["RAW_URI"], sender))
        return application(environ, start)

    listening = make_server("127.0.0.1", 0, counting, threaded=True, request_handler=Quiet)
    server = Server(f"http://127.0.0.1:{listening.port}")
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    server.client().create_bucket(Bucket="team")
    server.requests.clear()
    try:
        yield server
    finally:
        listening.shutdown()
