"""A stand-in for the Hugging Face Hub: repositories of small files, in memory.

It implements the requests of huggingface_hub 0.30 to 2.4 that create a repository, commit files,
and download the files of a revision. There are no large files, and no branches except main.
"""

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Commit = dict[str, bytes]
"""The files of a repository."""


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: defaultdict[str, dict[str, Commit]] = defaultdict(dict)
        """The commits of each repository by hash, from the first to the last."""
        self.status = 200
        """If this is not 200, answer all requests with this status; 0 closes the connection without
        an answer."""

    def newest(self, repository: str) -> str:
        return list(self.repositories[repository])[-1]

    def commit(self, repository: str, changes: Commit) -> str:
        commits = self.repositories[repository]
        files = (commits[self.newest(repository)] if commits else {}) | changes
        commits[hashlib.sha1(f"{len(commits)} {sorted(files)}".encode()).hexdigest()] = files
        return self.newest(repository)


class _Requests(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        lines = [json.loads(line) for line in body.splitlines()]
        path = urlsplit(self.path).path
        if self.server.status != 200:
            self.answer({"error": "not allowed"}, self.server.status)
        elif path == "/api/repos/create":
            name = f"{lines[0]['organization']}/{lines[0]['name']}"
            is_new = name not in self.server.repositories
            if is_new:
                self.server.commit(name, {".gitattributes": b""})
            self.answer({"url": f"{self.server.url}/{name}"}, 200 if is_new else 409)
        elif path == "/api/validate-yaml":
            self.answer({})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": f["path"], **modes} for f in lines[0]["files"]]})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            files = [line["value"] for line in lines if line["key"] == "file"]
            changes = {file["path"]: base64.b64decode(file["content"]) for file in files}
            commit = self.server.commit(match[1], changes)
            self.answer({"commitUrl": f"{self.server.url}/{match[1]}", "commitOid": commit})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        pattern = r"(?:/api/models)?/([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?"
        repository, what, revision, name = re.fullmatch(pattern, path).groups()
        commits = self.server.repositories.get(repository)
        if self.server.status != 200:
            self.answer({"error": "not allowed"}, self.server.status)
        elif commits is None:
            self.answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", *commits):
            self.answer({"error": "not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            commit = self.server.newest(repository) if revision in (None, "main") else revision
            self.show(what, repository, commit, name)

    do_HEAD = do_GET  # noqa: N815

    def show(self, what: str | None, repository: str, commit: str, name: str) -> None:
        files = self.server.repositories[repository][commit]
        if what == "resolve":
            tag = hashlib.sha1(files[name]).hexdigest()
            self.answer(files[name], headers={"X-Repo-Commit": commit, "ETag": f'"{tag}"'})
        elif what == "tree":
            sizes = {name: len(content) for name, content in files.items()}
            entry = {"type": "file", "oid": "0" * 40}
            self.answer([{**entry, "path": name, "size": size} for name, size in sizes.items()])
        else:
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": repository, "sha": commit, "siblings": siblings, "tags": []})

    def answer(
        self, content: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        if status == 0:
            self.close_connection = True
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@cache
def _server() -> Hub:
    """The server of this process: huggingface_hub reads HF_ENDPOINT when it is imported."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        from huggingface_hub import constants

        assert server.url == constants.ENDPOINT, "imported before, by another test"
    return server


@contextmanager
def empty_hub(cache: Path) -> Iterator[Hub]:
    """A Hub without repositories, and an empty cache of its downloads."""
    server = _server()
    from huggingface_hub import constants

    server.repositories.clear()
    server.status = 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield server
