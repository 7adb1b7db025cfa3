"""A small stand-in of the Hugging Face Hub on the loopback: what huggingface_hub asks to publish a model and to download it again.

Repositories with branches and commits, files in git and in LFS (no Xet), tokens, and failures to order. In memory, for tests only.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in_for_tests"
LFS = (".safetensors", ".gguf", ".bin")


class Hub:
    """What the server holds, and how it is to fail."""

    def __init__(self) -> None:
        """An empty hub in which the organisation `org` belongs to the token's user."""
        self.url = ""
        self.repositories: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        """LFS objects by SHA-256"""
        self.asked: list[str] = []
        """method and path of each request"""
        self.received: dict[str, int] = {}
        """LFS objects by how often they were sent"""
        self.failures: list[list[Any]] = []
        self.lock = threading.Lock()

    def fail(self, what: str, status: int, times: int = 10**9, message: str = "") -> None:
        """Answer the next requests that match the regular expression, such as `PUT /lfs`, with a status."""
        self.failures.append([what, status, times, message])

    def failure(self, what: str) -> tuple[int, str] | None:
        """The status and message of a request that is to fail."""
        with self.lock:
            self.asked.append(what)
            for order in self.failures:
                if order[2] and re.search(order[0], what):
                    order[2] -= 1
                    return order[1], order[3]
        return None

    def create(self, name: str, private: bool = False, **files: bytes) -> None:
        """A repository with a first commit."""
        self.repositories[name] = {"private": private, "branches": {"main": []}}
        self.commit(name, "main", dict(files), [])

    def commit(self, name: str, branch: str, added: dict[str, bytes], removed: list[str]) -> str:
        """A commit; returns its id."""
        commits = self.repositories[name]["branches"][branch]
        files = (commits[-1]["files"] if commits else {}) | added
        files = {path: content for path, content in files.items() if path not in removed}
        oid = hashlib.sha1(f"{name} {branch} {len(commits)}".encode()).hexdigest()
        commits.append({"oid": oid, "files": files})
        return oid

    def files(self, name: str, revision: str = "main") -> tuple[str, dict[str, bytes]] | None:
        """The id and the files of a branch's last commit, or of the commit of that id."""
        branches = self.repositories[name]["branches"]
        commits = [commit for line in branches.values() for commit in line if commit["oid"] == revision]
        commits = branches.get(revision, commits)
        return (commits[-1]["oid"], commits[-1]["files"]) if commits else None


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers at `hub.url` until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def oid(path: str, content: bytes) -> str:
    """What the hub compares a file by: the SHA-256 of a large one, git's id of a blob otherwise."""
    if path.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """The routes; `repository` is ORG/NAME."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?", "info"),
        ("GET", r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)", "tree"),
        ("POST", r"/api/models/([\w.-]+/[\w.-]+)/branch/([^/]+)", "branch"),
        ("POST", r"/api/models/([\w.-]+/[\w.-]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/models/([\w.-]+/[\w.-]+)/commit/([^/]+)", "commit"),
        ("POST", r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/(\w+)", "store"),
        ("GET", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def do_POST(self) -> None:
        """Answer a request of any method."""
        path = urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if failure := self.hub.failure(f"{self.command} {path}"):
            self.answer(failure[0], {"error": failure[1]}, {"X-Error-Message": failure[1]} if failure[1] else {})
            return
        given = self.headers.get("Authorization")
        if given != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
            message = "Invalid credentials in Authorization header"
            self.answer(401, {"error": message}, {"X-Error-Message": message})
            return
        method = "GET" if self.command == "HEAD" else self.command
        for verb, pattern, name in self.ROUTES:
            if verb == method and (found := re.fullmatch(pattern, path)):
                repository = found[1] if found.re.groups and name != "store" else None
                if repository and repository not in self.hub.repositories:
                    self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                else:
                    getattr(self, f"on_{name}")(*(unquote(part) if part else part for part in found.groups()))
                return
        self.answer(404, {"error": f"no such route: {self.command} {path}"})

    do_GET = do_HEAD = do_PUT = do_POST

    def answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        """Send JSON, or bytes."""
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(raw))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    # ---- repositories

    def on_create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "org":
            message = f"You don't have the rights to create a model under the namespace {asked['organization']}"
            self.answer(403, {"error": message}, {"X-Error-Message": message})
            return
        self.hub.create(name, private=asked.get("visibility") == "private")
        self.answer(200, {"url": f"{self.hub.url}/{name}"})

    def on_branch(self, repository: str, branch: str) -> None:
        branches = self.hub.repositories[repository]["branches"]
        if branch in branches:
            self.answer(409, {"error": "Reference already exists"})
            return
        branches[branch] = list(branches["main"])
        self.answer(200, {})

    def on_info(self, repository: str, revision: str | None) -> None:
        found = self.hub.files(repository, revision or "main")
        if found is None:
            self.answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": path} for path in found[1]]
        private = self.hub.repositories[repository]["private"]
        self.answer(200, {"id": repository, "sha": found[0], "siblings": siblings, "private": private, "tags": []})

    def on_tree(self, repository: str, revision: str) -> None:
        found = self.hub.files(repository, revision)
        rows = []
        for path, content in (found or ("", {}))[1].items():
            lfs = (
                {"lfs": {"oid": oid(path, content), "size": len(content), "pointerSize": 130}}
                if path.endswith(LFS)
                else {}
            )
            rows.append({"type": "file", "path": path, "size": len(content), "oid": oid(path, content), **lfs})
        self.answer(200, rows)

    # ---- uploads

    def on_validate(self) -> None:
        content = json.loads(self.body)["content"]
        if "license:" in content.split("---")[1]:
            self.answer(200, {"errors": [], "warnings": []})
        else:
            self.answer(400, {"errors": [{"message": '"license" is required'}], "warnings": []})

    def on_preupload(self, repository: str, revision: str) -> None:
        _, there = self.hub.files(repository, revision)
        rows = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            known = {"oid": oid(path, there[path])} if path in there else {}
            rows.append(
                {"path": path, "uploadMode": "lfs" if path.endswith(LFS) else "regular", "shouldIgnore": False, **known}
            )
        self.answer(200, {"files": rows})

    def on_batch(self, repository: str) -> None:
        objects = []
        for one in json.loads(self.body)["objects"]:
            row = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.large:
                row["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            objects.append(row)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def on_store(self, name: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == name
        self.hub.large[name] = self.body
        self.hub.received[name] = self.hub.received.get(name, 0) + 1
        self.answer(200, {})

    def on_commit(self, repository: str, branch: str) -> None:
        added, removed = {}, []
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                added[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                removed.append(value["path"])
        made = self.hub.commit(repository, branch, added, removed)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{repository}/commit/{made}", "commitOid": made})

    # ---- downloads

    def on_resolve(self, repository: str, revision: str, path: str) -> None:
        found = self.hub.files(repository, revision)
        commit, files = found or ("", {})
        if path not in files:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        self.answer(200, files[path], {"X-Repo-Commit": commit, "ETag": f'"{oid(path, files[path])}"'})
