"""A local HTTP server that speaks as much of the hub's API as the hub's clients use here.

It holds repositories in memory. Tokens are ``{secret: (user, role)}``; a role is ``read``,
``write`` or ``fineGrained``. With ``echo`` it answers 500 to everything and quotes the request's
headers, as careless proxies do.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0"  # of ada, who may write
READER = "hf_" + "Zx9Cv8Bn7Ma6Sd5Fg4Hj3Kl2Qw1Er0"  # of eve, who may not
LFS_BYTES = 1_000  # larger files go through LFS here; 10 MB there
SHA = "0123456789abcdef0123456789abcdef01234567"
REPO = r"(?P<id>[\w.-]+/[\w.-]+)"
KIND = r"/api/(?P<kind>models|datasets)/" + REPO


@dataclass
class Repo:
    """A repository with one commit a branch: files by name."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    branches: set[str] = field(default_factory=lambda: {"main"})
    lfs: set[str] = field(default_factory=set)


@dataclass
class FakeHub:
    """What the server holds, and the requests that it has seen: method and path."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    echo: bool = False


@contextlib.contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve a hub on a free port of this machine for as long as the context lasts."""
    hub = FakeHub(tokens={TOKEN: ("ada", "write"), READER: ("eve", "read")})
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def environment(hub: FakeHub, folder: Path, **more: str) -> dict[str, str]:
    """The environment of a user of this hub: no token, and a cache of their own in ``folder``.

    The clients read it when they are imported, so that they run in processes of their own.
    """
    kept = {k: v for k, v in os.environ.items() if not re.match("HF_|HUGGING_FACE_", k)}
    kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    return kept | more


def fnsft(
    hub: FakeHub, folder: Path, *words: str | Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run ``fnsft`` in ``folder`` as a user of this hub."""
    return python(hub, folder, "-m", "fnsft", *words, **more)


def python(
    hub: FakeHub, folder: Path, *words: str | Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder`` as a user of this hub."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment(hub, folder, **more),
        capture_output=True,
        text=True,
    )


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.echo:
            quoted = f"broken by {self.headers.get('Authorization')}"
            headers = {"X-Error-Message": quoted, "X-HF-Warning": f"topic; {quoted}"}
            return self.send(500, str(self.headers).encode(), headers)
        try:
            for (method, pattern), action in ROUTES.items():
                if method == self.command and (found := re.fullmatch(pattern, path)):
                    return action(self, **found.groupdict())
            raise _Refused(404, "", f"no route for {self.command} {path}")
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message}
            headers |= {"X-Error-Code": refused.code} if refused.code else {}
            self.send(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def user(self) -> tuple[str, str] | None:
        """The name and role behind the request's token."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        if header.removeprefix("Bearer ") not in self.hub.tokens:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens[header.removeprefix("Bearer ")]

    def repo(self, id: str, revision: str = "main", *, content: bool = False) -> Repo:
        """A repository that the request may see, or whose content it may read."""
        user, repo = self.user(), self.hub.repos.get(id)
        mine = user is not None and (user[0] == id.split("/")[0] or user[0] in repo_readers(repo))
        if repo is None or (repo.private and not mine):
            status = 404 if user else 401
            raise _Refused(status, "RepoNotFound", "Repository not found")
        if revision not in (*repo.branches, SHA):
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if content and repo.gated and not mine:
            text = f"Access to model {id} is restricted and you are not in the authorized list."
            raise _Refused(403 if user else 401, "GatedRepo", text)
        return repo

    def writer(self, owner: str) -> None:
        user = self.user()
        if user is None or user[0] != owner or user[1] == "read":
            text = "You don't have the rights to create a model under this namespace"
            raise _Refused(403 if user else 401, "", text)

    # One method a route.

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise _Refused(401, "", "Invalid username or password.")
        token = {"displayName": "mine", "role": user[1]}
        auth = {"type": "access_token", "accessToken": token}
        self.send_json({"type": "user", "name": user[0], "auth": auth})

    def info(self, kind: str, id: str, revision: str = "main") -> None:
        repo = self.repo(id, revision)
        files = [{"rfilename": name} for name in repo.files]
        about = {"id": id, "sha": SHA, "private": repo.private, "gated": repo.gated}
        self.send_json(about | {"siblings": files, "tags": []})

    def auth_check(self, kind: str, id: str) -> None:
        self.repo(id, content=True)
        self.send_json({})

    def tree(self, kind: str, id: str, revision: str, below: str = "") -> None:
        files = self.repo(id, revision).files
        self.send_json([entry(name, files[name]) for name in files if name.startswith(below)])

    def paths_info(self, kind: str, id: str, revision: str) -> None:
        files, wanted = self.repo(id, revision).files, json.loads(self.body)["paths"]
        self.send_json([entry(name, files[name]) for name in wanted if name in files])

    def resolve(self, id: str, revision: str, name: str, kind: str = "") -> None:
        repo = self.repo(id, revision, content=True)
        if name not in repo.files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        etag = f'"{hashlib.sha1(repo.files[name]).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        self.send(200, repo.files[name], headers)

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        self.writer(asked["organization"])
        status = 409 if name in self.hub.repos else 200
        if status == 200:
            self.hub.repos[name] = Repo(private=asked.get("visibility") == "private")
        answer = {"url": f"{self.hub.url}/{name}", "id": name}
        self.send(status, json.dumps(answer).encode())

    def branch(self, kind: str, id: str, branch: str) -> None:
        self.writer(id.split("/")[0])
        self.repo(id).branches.add(branch)
        self.send_json({})

    def validate_yaml(self) -> None:
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, kind: str, id: str, revision: str) -> None:
        self.writer(id.split("/")[0])
        self.repo(id, revision)
        modes = {True: "lfs", False: "regular"}
        files = [
            {"path": f["path"], "uploadMode": modes[f["size"] > LFS_BYTES], "shouldIgnore": False}
            for f in json.loads(self.body)["files"]
        ]
        self.send_json({"files": files})

    def lfs_batch(self, id: str) -> None:
        self.writer(id.split("/")[0])
        objects = [
            asked | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}
            for asked in json.loads(self.body)["objects"]
        ]
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self.send(200, b"")

    def commit(self, kind: str, id: str, revision: str) -> None:
        self.writer(id.split("/")[0])
        repo = self.repo(id, revision)
        for line in self.body.splitlines():
            item = json.loads(line)
            name = item["value"].get("path", "")
            if item["key"] == "file":
                repo.files[name] = b64decode(item["value"]["content"])
            if item["key"] == "lfsFile":
                repo.files[name] = self.hub.objects[item["value"]["oid"]]
                repo.lfs.add(name)
        address = f"{self.hub.url}/{id}/commit/{SHA}"
        self.send_json({"commitUrl": address, "commitOid": SHA, "success": True})


def repo_readers(repo: Repo | None) -> set[str]:
    return repo.readers if repo else set()


def entry(name: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "path": name}


RESOLVE = r"/(?:(?P<kind>datasets)/)?" + REPO + r"/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
ROUTES = {
    ("GET", "/api/whoami-v2"): _Handler.whoami,
    ("POST", "/api/repos/create"): _Handler.create,
    ("POST", "/api/validate-yaml"): _Handler.validate_yaml,
    ("GET", KIND): _Handler.info,
    ("GET", KIND + r"/revision/(?P<revision>[^/]+)"): _Handler.info,
    ("GET", KIND + "/auth-check"): _Handler.auth_check,
    ("GET", KIND + r"/tree/(?P<revision>[^/]+)/?(?P<below>.*)"): _Handler.tree,
    ("POST", KIND + r"/paths-info/(?P<revision>[^/]+)"): _Handler.paths_info,
    ("POST", KIND + r"/branch/(?P<branch>[^/]+)"): _Handler.branch,
    ("POST", KIND + r"/preupload/(?P<revision>[^/]+)"): _Handler.preupload,
    ("POST", KIND + r"/commit/(?P<revision>[^/]+)"): _Handler.commit,
    ("POST", "/" + REPO + r"\.git/info/lfs/objects/batch"): _Handler.lfs_batch,
    ("PUT", r"/lfs/(?P<oid>\w+)"): _Handler.lfs_put,
    ("GET", RESOLVE): _Handler.resolve,
    ("HEAD", RESOLVE): _Handler.resolve,
}
