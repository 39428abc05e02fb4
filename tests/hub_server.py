"""A small Hub on 127.0.0.1: the routes that ``huggingface_hub`` uses to create, upload and download."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITE_TOKEN = "hf_" + "W" * 30
READ_TOKEN = "hf_" + "R" * 30
USER = "me"
Tree = dict[str, bytes]


@dataclass
class Commit:
    """One commit: where, what was said, and the files as they are after it."""

    branch: str
    summary: str
    paths: tuple[str, ...]
    oid: str


@dataclass
class Repo:
    """A repository: branches of files."""

    private: bool = False
    branches: dict[str, Tree] = field(default_factory=lambda: {"main": {}})
    commits: list[Commit] = field(default_factory=list)


@dataclass
class Failure:
    """An answer to give instead of the real one."""

    pattern: str
    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 10**6


@dataclass
class Hub:
    """State of the server; tests read it, and plan failures."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256, as they came by LFS."""
    failures: list[Failure] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def planned_failure(self, method: str, path: str) -> Failure | None:
        """Return the failure that meets a request, and count it down."""
        for failure in self.failures:
            if failure.times > 0 and re.search(failure.pattern, f"{method} {path}"):
                failure.times -= 1
                return failure
        return None


def git_oid(content: bytes) -> str:
    """The id that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; the table ``ROUTES`` says which method of it does."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        body, path, hub = self._body(), unquote(parts.path), self.server.hub
        with hub.lock:
            hub.requests.append((self.command, path))
            failure = hub.planned_failure(self.command, path)
            if failure is not None:
                return self._json(failure.status, {"error": failure.message}, failure.headers)
            for method, pattern, handle in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    return handle(self, body, *match.groups())
        return self._error(404, "EntryNotFound", f"no route {self.command} {path}")

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

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, status: int, data, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _error(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _may_write(self) -> bool:
        """Whether the token may write; if not, the answer has been sent."""
        if self._token() == WRITE_TOKEN:
            return True
        if self._token() == READ_TOKEN:
            self._json(403, {"error": "You don't have the rights to write here"})
        else:
            self._json(401, {"error": "Invalid username or password."})
        return False

    def _repo(self, name: str) -> Repo | None:
        """The repository; if there is none, the answer has been sent."""
        repo = self.server.hub.repos.get(name)
        if repo is None or (repo.private and self._token() not in (WRITE_TOKEN, READ_TOKEN)):
            self._error(404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def whoami(self, body: bytes) -> None:
        if self._may_write():
            self._json(200, {"type": "user", "name": USER, "orgs": []})

    def create_repo(self, body: bytes) -> None:
        if not self._may_write():
            return
        wish = json.loads(body)
        name = f"{wish.get('organization') or USER}/{wish['name']}"
        answer = {"url": f"{self.server.hub.endpoint}/{name}", "name": name, "id": name}
        if name in self.server.hub.repos:
            return self._json(409, answer | {"error": "You already created this model repo"})
        self.server.hub.repos[name] = Repo(private=wish.get("visibility") == "private" or bool(wish.get("private")))
        return self._json(200, answer)

    def create_branch(self, body: bytes, name: str, branch: str) -> None:
        repo = self._repo(name) if self._may_write() else None
        if repo is None:
            return
        if branch in repo.branches:
            return self._json(409, {"error": "Reference already exists"})
        repo.branches[branch] = dict(repo.branches["main"])
        return self._json(200, {})

    def validate_yaml(self, body: bytes) -> None:
        front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        errors = [] if isinstance(front, dict) else [{"message": "no mapping"}]
        for code in front.get("language", []):
            if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual", code):
                errors.append({"message": f'"language" holds {code}, which is no ISO 639 code'})
        self._json(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, name: str, branch: str) -> None:
        repo = self._repo(name) if self._may_write() else None
        if repo is None:
            return
        tree = repo.branches.get(branch)
        if tree is None:
            return self._error(404, "RevisionNotFound", "no such branch")
        answer = []
        for item in json.loads(body)["files"]:
            large = item["path"].endswith(".safetensors") or item["size"] > 10 * 2**20
            present = tree.get(item["path"])
            oid = None if present is None else hashlib.sha256(present).hexdigest() if large else git_oid(present)
            answer.append(
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": oid,
                }
            )
        return self._json(200, {"files": answer})

    def lfs_batch(self, body: bytes, name: str) -> None:
        if not self._may_write():
            return
        wish, base = json.loads(body), self.server.hub.endpoint
        assert "basic" in wish["transfers"]
        objects = []
        for item in wish["objects"]:
            actions = {"upload": {"href": f"{base}/lfs/{item['oid']}"}, "verify": {"href": f"{base}/lfs-verify"}}
            known = item["oid"] in self.server.hub.blobs
            objects.append(item if known else item | {"actions": actions})
        self._json(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json(400, {"error": "content does not match its id"})
        self.server.hub.blobs[oid] = body
        return self._json(200, {})

    def lfs_verify(self, body: bytes) -> None:
        wish = json.loads(body)
        blob = self.server.hub.blobs.get(wish["oid"])
        ok = blob is not None and len(blob) == wish["size"]
        self._json(200 if ok else 404, {} if ok else {"error": "not uploaded"})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        repo = self._repo(name) if self._may_write() else None
        if repo is None:
            return
        if branch not in repo.branches:
            return self._error(404, "RevisionNotFound", "no such branch")
        lines = [json.loads(line) for line in body.splitlines()]
        files, gone = {}, []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                gone.append(value["path"])
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.hub.blobs[value["oid"]]
        number = len(repo.commits) + 1
        target = f"refs/pr/{number}" if "create_pr" in self.query else branch
        if target != branch:
            repo.branches[target] = dict(repo.branches[branch])
        repo.branches[target].update(files)
        for path in gone:
            del repo.branches[target][path]
        oid = hashlib.sha1(b"%d" % number + body).hexdigest()
        repo.commits.append(Commit(target, lines[0]["value"]["summary"], tuple(sorted(files)), oid))
        base = f"{self.server.hub.endpoint}/{name}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{base}/commit/{oid}"}
        pull = f"{base}/discussions/{number}" if "create_pr" in self.query else None
        return self._json(200, answer | {"pullRequestUrl": pull})

    def resolve(self, body: bytes, name: str, branch: str, path: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        oids = {commit.oid: commit.branch for commit in repo.commits}
        tree = repo.branches.get(oids.get(branch, branch))
        if tree is None:
            return self._error(404, "RevisionNotFound", "no such branch")
        if path not in tree:
            return self._error(404, "EntryNotFound", "Entry not found")
        oid = repo.commits[-1].oid if repo.commits else "0" * 40
        headers = {"ETag": f'"{git_oid(tree[path])}"', "X-Repo-Commit": oid}
        return self._send(200, tree[path], headers)

    def info(self, body: bytes, name: str, branch: str | None = None) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        tree = repo.branches.get(branch or "main")
        if tree is None:
            return self._error(404, "RevisionNotFound", "no such branch")
        oid = repo.commits[-1].oid if repo.commits else "0" * 40
        siblings = [{"rfilename": path} for path in sorted(tree)]
        return self._json(
            200, {"id": name, "modelId": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []}
        )

    def tree(self, body: bytes, name: str, branch: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        oids = {commit.oid: commit.branch for commit in repo.commits}
        files = repo.branches.get(oids.get(branch, branch), {})
        self._json(
            200,
            [
                {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
                for path, content in sorted(files.items())
            ],
        )


_NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create_repo),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/{_NAME}/branch/(.+)", _Handler.create_branch),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("POST", r"/lfs-verify", _Handler.lfs_verify),
    ("GET", rf"/api/models/{_NAME}", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/revision/(.+)", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/tree/([^/]+)(?:/.*)?", _Handler.tree),
    (("GET", "HEAD"), rf"/{_NAME}/resolve/(refs/pr/\d+|[^/]+)/(.+)", _Handler.resolve),
)


class _Server(ThreadingHTTPServer):
    """The server with its state."""

    hub: Hub
    daemon_threads = True


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a Hub for a while."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
