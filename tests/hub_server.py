"""A small Hub on 127.0.0.1, its state and its plumbing; ``hub_routes`` holds what it answers."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

WRITE_TOKEN = "hf_" + "W" * 30
READ_TOKEN = "hf_" + "R" * 30
USER = "me"
FIRST_COMMIT = "0" * 40
"""What a branch points at before anything was committed."""

Tree = dict[str, bytes]


@dataclass
class Commit:
    """One commit: where, what was said, and the files as they are after it."""

    branch: str
    summary: str
    paths: tuple[str, ...]
    oid: str
    tree: Tree = field(default_factory=dict, repr=False)


@dataclass
class Repo:
    """A repository: branches of files; tests may write to them."""

    private: bool = False
    branches: dict[str, Tree] = field(default_factory=lambda: {"main": {}})
    commits: list[Commit] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=lambda: {"main": FIRST_COMMIT})
    pulls: dict[int, str] = field(default_factory=dict)
    """Titles of pull requests by number."""

    def files_at(self, revision: str) -> Tree | None:
        """The files of a branch or a commit; None if there is no such revision."""
        for branch, oid in self.heads.items():
            if revision in (branch, oid):
                return self.branches[branch]
        return next((commit.tree for commit in self.commits if commit.oid == revision), None)


@dataclass
class Failure:
    """What happens to a request instead of, or after, its being served.

    Attributes:
        pattern: Regular expression for ``METHOD path``.
        status: The status to answer with; 0 cuts the connection.
        message: What the answer says.
        headers: Headers of the answer.
        times: How often.
        served: Whether the request is served first, so that only its answer is lost.
        stall: Seconds without an answer before that.
        action: Called as the request comes in.
    """

    pattern: str
    status: int = 0
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 10**6
    served: bool = False
    stall: float = 0.0
    action: Callable[[], None] | None = None


@dataclass
class Hub:
    """State of the server; tests read it, and plan failures."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256, as they came by LFS."""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Parts of large files that are on their way."""
    part_size: int | None = None
    """Bytes of a part of a large file; None takes it as one."""
    failures: list[Failure] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    xorbs: dict[str, bytes] = field(default_factory=dict)
    """Xet's stores of chunks by their hash."""
    shards: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    """Ranges of chunks of which a file consists, by Xet's name of it."""
    xet: dict[str, str] = field(default_factory=dict)
    """Xet's name of a file by its SHA-256."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def planned_failure(self, method: str, path: str) -> Failure | None:
        """Return the failure that meets a request, and count it down."""
        for failure in self.failures:
            if failure.times > 0 and re.search(failure.pattern, f"{method} {path}"):
                failure.times -= 1
                return failure
        return None

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path in self.requests)


def git_oid(content: bytes) -> str:
    """The id that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int) -> bool:
    """Whether a file is kept outside of git."""
    return path.endswith(".safetensors") or size > 10 * 2**20


class Handler(BaseHTTPRequestHandler):
    """Answers one request; the table of routes says how."""

    protocol_version = "HTTP/1.1"
    protocol_version = "HTTP/1.1"
    server: Server
    wbufsize = 2**16  # head and body in one packet: in two, the second waits for an acknowledgement

    def log_message(self, format: str, *args) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        """Answer."""
        with suppress(ConnectionError):  # a client that gave up
            self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    @property
    def hub(self) -> Hub:
        """The state."""
        return self.server.hub

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path, hub = unquote(parts.path), self.hub
        with hub.lock:
            hub.requests.append((self.command, path))
            failure = hub.planned_failure(self.command, path)
        if failure is not None and failure.status == 0 and not failure.served and not failure.stall:
            if failure.action:
                failure.action()
            return self._cut()  # in the middle of the upload: its body is never read
        body = self._body()
        if failure is None:
            return self._route(body, path)
        if failure.action:
            failure.action()
        if failure.served:
            self.muted = True
            self._route(body, path)
            self.muted = False
        threading.Event().wait(failure.stall)  # not time.sleep, which tests replace
        if failure.status == 0:
            return self._cut()
        return self.json(failure.status, {"error": failure.message}, failure.headers)

    muted = False
    """Whether answers are dropped."""

    def _route(self, body: bytes, path: str) -> None:
        with self.hub.lock:
            for method, pattern, handle in self.server.routes:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    return handle(self, body, *match.groups())
            return self.error(404, "EntryNotFound", f"no route {self.command} {path}")

    def _cut(self) -> None:
        """Drop the connection."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        """Read the body, whole or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Answer."""
        if self.muted:
            return
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, status: int, data, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self.send(status, json.dumps(data).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def error(self, status: int, code: str, message: str) -> None:
        """Answer with one of the Hub's own errors."""
        self.json(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def token(self) -> str:
        """The token that came along."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def may_write(self) -> bool:
        """Whether the token may write; if not, the answer has been sent."""
        if self.token() == WRITE_TOKEN:
            return True
        if self.token() == READ_TOKEN:
            self.json(403, {"error": "You don't have the rights to write here"})
        else:
            self.json(401, {"error": "Invalid username or password."})
        return False

    def repo(self, name: str) -> Repo | None:
        """The repository; if there is none, the answer has been sent."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token() not in (WRITE_TOKEN, READ_TOKEN)):
            self.error(404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def files(self, name: str, revision: str) -> Tree | None:
        """The files of a revision; if there is none, the answer has been sent."""
        repo = self.repo(name)
        found = None if repo is None else repo.files_at(revision)
        if repo is not None and found is None:
            self.error(404, "RevisionNotFound", "no such branch")
        return found


class Server(ThreadingHTTPServer):
    """The server with its state."""

    hub: Hub
    routes: tuple
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Stay quiet about connections that were cut."""


@contextmanager
def running_hub(port: int = 0) -> Iterator[Hub]:
    """Run a Hub for a while."""
    from .hub_routes import ROUTES

    server = Server(("127.0.0.1", port), Handler)
    server.routes = ROUTES
    server.hub = Hub(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
