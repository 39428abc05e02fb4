"""What the small Hub answers: the routes that ``huggingface_hub`` uses to create, upload and download."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import yaml

from .hub_server import USER, Commit, Handler, Repo, git_oid, is_large
from .hub_xet import XET_ROUTES


def whoami(at: Handler, body: bytes) -> None:
    if at.may_write():
        at.json(200, {"type": "user", "name": USER, "orgs": []})


def create_repo(at: Handler, body: bytes) -> None:
    if not at.may_write():
        return
    wish = json.loads(body)
    name = f"{wish.get('organization') or USER}/{wish['name']}"
    answer = {"url": f"{at.hub.endpoint}/{name}", "name": name, "id": name}
    if name in at.hub.repos:
        return at.json(409, answer | {"error": "You already created this model repo"})
    at.hub.repos[name] = Repo(private=wish.get("visibility") == "private" or bool(wish.get("private")))
    return at.json(200, answer)


def create_branch(at: Handler, body: bytes, name: str, branch: str) -> None:
    repo = at.repo(name) if at.may_write() else None
    if repo is None:
        return
    if branch in repo.branches:
        return at.json(409, {"error": "Reference already exists"})
    repo.branches[branch] = dict(repo.branches["main"])
    repo.heads[branch] = repo.heads["main"]
    return at.json(200, {})


def validate_yaml(at: Handler, body: bytes) -> None:
    front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
    errors = [] if isinstance(front, dict) else [{"message": "no mapping"}]
    for code in front.get("language", []):
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual", code):
            errors.append({"message": f'"language" holds {code}, which is no ISO 639 code'})
    at.json(400 if errors else 200, {"errors": errors, "warnings": []})


def preupload(at: Handler, body: bytes, name: str, branch: str) -> None:
    tree = at.files(name, branch) if at.may_write() else None
    if tree is None:
        return
    answer = []
    for item in json.loads(body)["files"]:
        large, present = is_large(item["path"], item["size"]), tree.get(item["path"])
        oid = None if present is None else hashlib.sha256(present).hexdigest() if large else git_oid(present)
        mode = "lfs" if large else "regular"
        answer.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    at.json(200, {"files": answer})


def lfs_batch(at: Handler, body: bytes, name: str) -> None:
    if not at.may_write():
        return
    wish, base, size = json.loads(body), at.hub.endpoint, at.hub.part_size
    assert "basic" in wish["transfers"]
    objects = []
    for item in wish["objects"]:
        upload: dict = {"href": f"{base}/lfs/{item['oid']}?X-Amz-Signature=signed"}
        if size is not None and item["size"] > size:
            assert "multipart" in wish["transfers"]
            numbers = range(1, -(-item["size"] // size) + 1)
            header = {str(number): f"{base}/lfs-part/{item['oid']}/{number}" for number in numbers}
            upload = {"href": f"{base}/lfs-complete/{item['oid']}", "header": header | {"chunk_size": str(size)}}
        actions = {"upload": upload, "verify": {"href": f"{base}/lfs-verify"}}
        objects.append(item if item["oid"] in at.hub.blobs else item | {"actions": actions})
    at.json(200, {"transfer": "basic", "objects": objects})


def lfs_put(at: Handler, body: bytes, oid: str) -> None:
    if hashlib.sha256(body).hexdigest() != oid:
        return at.json(400, {"error": "content does not match its id"})
    at.hub.blobs[oid] = body
    return at.json(200, {})


def lfs_part(at: Handler, body: bytes, oid: str, number: str) -> None:
    at.hub.parts.setdefault(oid, {})[int(number)] = body
    at.send(200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})


def lfs_complete(at: Handler, body: bytes, oid: str) -> None:
    wish, parts = json.loads(body), at.hub.parts.get(oid, {})
    content = b"".join(parts[part["partNumber"]] for part in wish["parts"])
    etags = [part["etag"].strip('"') for part in wish["parts"]]
    if etags != [hashlib.md5(parts[number]).hexdigest() for number in sorted(parts)]:
        return at.json(400, {"error": "an ETag does not match"})
    return lfs_put(at, content, oid)


def lfs_verify(at: Handler, body: bytes) -> None:
    wish = json.loads(body)
    blob = at.hub.blobs.get(wish["oid"])
    ok = blob is not None and len(blob) == wish["size"]
    at.json(200 if ok else 404, {} if ok else {"error": "not uploaded"})


def commit(at: Handler, body: bytes, name: str, branch: str) -> None:
    repo = at.repo(name) if at.may_write() else None
    if repo is None:
        return
    if branch not in repo.branches:
        return at.error(404, "RevisionNotFound", "no such branch")
    lines = [json.loads(line) for line in body.splitlines()]
    header, as_pull = lines[0]["value"], "create_pr" in at.query
    if header.get("parentCommit", repo.heads[branch]) != repo.heads[branch] and not as_pull:
        return at.json(412, {"error": "A commit has happened since. Please refresh and try again."})
    files, gone = {}, []
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "deletedFile":
            gone.append(value["path"])
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in at.hub.blobs:
                return at.json(400, {"error": f"LFS object {value['oid']} does not exist"})
            files[value["path"]] = at.hub.blobs[value["oid"]]
    if set(gone) - set(repo.branches[branch]):
        return at.json(404, {"error": "A file with this name doesn't exist"})
    number = len(repo.commits) + 1
    target = f"refs/pr/{number}" if as_pull else branch
    if as_pull:
        repo.branches[target] = dict(repo.branches[branch])
        repo.pulls[number] = header["summary"]
    repo.branches[target].update(files)
    for path in gone:
        del repo.branches[target][path]
    oid = hashlib.sha1(b"%d" % number + body).hexdigest()
    repo.heads[target] = oid
    repo.commits.append(Commit(target, header["summary"], tuple(sorted(files)), oid, dict(repo.branches[target])))
    base = f"{at.hub.endpoint}/{name}"
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{base}/commit/{oid}"}
    return at.json(200, answer | {"pullRequestUrl": f"{base}/discussions/{number}" if as_pull else None})


def discussions(at: Handler, body: bytes, name: str) -> None:
    repo = at.repo(name)
    if repo is None:
        return
    found = [
        {
            "title": title,
            "num": number,
            "author": {"name": USER},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "status": "open",
            "repo": {"name": name, "type": "model"},
            "isPullRequest": True,
        }
        for number, title in repo.pulls.items()
    ]
    at.json(200, {"count": len(found), "start": 0, "discussions": found})


def resolve(at: Handler, body: bytes, name: str, revision: str, path: str) -> None:
    tree = at.files(name, revision)
    if tree is None:
        return None
    if path not in tree:
        return at.error(404, "EntryNotFound", "Entry not found")
    content, heads = tree[path], at.hub.repos[name].heads
    headers = {"ETag": f'"{git_oid(content)}"', "X-Repo-Commit": heads.get(revision, revision)}
    if is_large(path, len(content)):
        sha = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-ETag": f'"{sha}"', "X-Linked-Size": str(len(content))}
        if sha in at.hub.xet:
            route = f"{at.hub.endpoint}/api/models/{name}/xet-read-token/{headers['X-Repo-Commit']}"
            headers |= {"X-Xet-Hash": at.hub.xet[sha], "X-Xet-Refresh-Route": route}
    return at.send(200, content, headers)


def info(at: Handler, body: bytes, name: str, revision: str = "main") -> None:
    tree = at.files(name, revision)
    if tree is None:
        return
    repo = at.hub.repos[name]
    siblings = [{"rfilename": path} for path in sorted(tree)]
    front = {"id": name, "modelId": name, "sha": repo.heads.get(revision, revision), "private": repo.private}
    at.json(200, front | {"siblings": siblings, "tags": []})


def tree(at: Handler, body: bytes, name: str, revision: str) -> None:
    files = at.files(name, revision)
    if files is None:
        return
    found = []
    for path, content in sorted(files.items()):
        item = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if is_large(path, len(content)):
            sha = hashlib.sha256(content).hexdigest()
            item["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
        found.append(item)
    at.json(200, found)


_NAME = r"([\w.-]+/[\w.-]+)"
_REVISION = r"(refs/pr/\d+|[^/]+)"
ROUTES: tuple = (
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create_repo),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("POST", rf"/api/models/{_NAME}/branch/(.+)", create_branch),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", preupload),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", lfs_put),
    ("PUT", r"/lfs-part/([0-9a-f]{64})/(\d+)", lfs_part),
    ("POST", r"/lfs-complete/([0-9a-f]{64})", lfs_complete),
    ("POST", r"/lfs-verify", lfs_verify),
    ("GET", rf"/api/models/{_NAME}", info),
    ("GET", rf"/api/models/{_NAME}/discussions", discussions),
    ("GET", rf"/api/models/{_NAME}/revision/{_REVISION}", info),
    ("GET", rf"/api/models/{_NAME}/tree/{_REVISION}(?:/.*)?", tree),
    (("GET", "HEAD"), rf"/{_NAME}/resolve/{_REVISION}/(.+)", resolve),
    *XET_ROUTES,
)
