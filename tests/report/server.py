"""A stub of wandb's server, which stores uploaded runs and fails on request.

The stub implements only the requests of wandb 0.31: GraphQL at /graphql (resume and create a run,
name its files, show it), the lines of a run as JSON at /files/ENTITY/PROJECT/RUN/file_stream, and
PUT of files at /file. Like wandb's server, the stub keeps the last received row of each step.
"""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import wandb

VIEWER = {"id": "1", "entity": "somebody", "username": "somebody", "email": "", "flags": "{}"}


@dataclass
class StoredRun:
    """A run on the server."""

    options: dict[str, Any] = field(default_factory=dict)
    """The properties that the client sends first: displayName, groupName, jobType, tags, project,
    config."""
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    lines: int = 0
    """The number of received lines of history, including replaced lines."""
    exit_code: int | None = None
    stats: int = 0
    """The number of lines of system metrics."""

    @property
    def steps(self) -> list[int]:
        """The files, in the order of their uploads."""
        return list(self.history)

    @property
    def config(self) -> dict[str, Any]:
        return {key: each["value"] for key, each in json.loads(self.options["config"]).items()}

    def logged_file(self, name: str) -> bytes:
        """Return the file that was logged under a name, such as a picture or a table."""
        return self.files[self.summary[name]["path"]]


class WandbServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: defaultdict[str, StoredRun] = defaultdict(StoredRun)
        self.refuses = ""
        """Answer requests that contain this text, such as "PUT /file", with `status`; if empty,
        none."""
        self.status = 500
        self.delay = 0.0
        """Seconds before each answer."""
        self.closed = threading.Event()

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL query."""
        project = {"id": "1", "name": given.get("project"), "entity": {"id": "1", "name": "me"}}
        name = given.get("name")
        match operation:
            case "Viewer" | "GetDefaultEntity":
                return {"viewer": {**VIEWER, "teams": {"edges": []}}}
            case "RunResumeStatus":
                bucket = self._resumed(name) if name in self.runs else None
                return {"model": {**project, "bucket": bucket}}
            case "UpsertBucket":
                run = self.runs[name]
                run.options |= {k: value for k, value in given.items() if value is not None}
                bucket = {"id": name, "name": name, "project": project}
                count = {"historyLineCount": run.lines}
                return {"upsertBucket": {"bucket": bucket | count, "inserted": True}}
            case "CreateRunFiles":
                url = f"{self.url}/file/{given['run']}"
                files = [{"name": n, "uploadUrl": f"{url}/{n}"} for n in given["files"]]
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "CreateArtifact":  # A table; the server already has it.
                sequence = {"id": "1", "latestArtifact": {"id": "1", "versionIndex": 0}}
                artifact = {"id": "1", "state": "COMMITTED", "artifactSequence": sequence}
                return {"createArtifact": {"artifact": artifact}}
            case "Run" if name in self.runs:
                return {"project": {"run": self._shown(name)}}
        return {"project": None}

    def _resumed(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        last = [json.dumps(run.history[max(run.history)])] if run.history else []
        tails = {"historyTail": json.dumps(last), "eventsTail": "[]"}
        counts = {"historyLineCount": run.lines, "eventsLineCount": 0, "logLineCount": 0}
        fields = {"config": "{}", "summaryMetrics": "{}", "wandbConfig": '{"t": {}}'}
        return {"id": name, "name": name, **fields, **counts, **tails}

    def _shown(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        keys = {"lastStep": max(run.history)} if run.history else None
        shown = {"config": "{}", "summaryMetrics": json.dumps(run.summary), "historyKeys": keys}
        return {"id": name, "name": name, "state": "finished", "projectId": 1, **shown}

    def stream(self, name: str, content: dict[str, Any]) -> None:
        run, files = self.runs[name], content.get("files", {})
        if part := files.get("wandb-history.jsonl"):
            rows = list(map(json.loads, part["content"]))
            run.history |= {row["_step"]: row for row in rows}
            run.lines = part["offset"] + len(rows)
        if part := files.get("wandb-summary.json"):
            run.summary = json.loads(part["content"][-1])
        run.stats += len(files.get("wandb-events.jsonl", {}).get("content", []))
        if content.get("complete"):
            run.exit_code = content["exitcode"]

    def handle_error(self, *_: Any) -> None:
        """Print nothing, because wandb aborts connections when it ends."""


class _Requests(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.server.closed.wait(self.server.delay):
            return
        refused = self.server.refuses and self.server.refuses in f"{self.command} {self.path}"
        answer = {}
        if self.path == "/graphql" and not refused:
            asked = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            answer = {"data": self.server.answer(operation, asked.get("variables") or {})}
        elif self.path.endswith("/file_stream") and not refused:
            self.server.stream(self.path.split("/")[-2], json.loads(body))
        elif self.command == "PUT" and not refused:
            run, name = self.path.removeprefix("/file/").split("/", 1)
            self.server.runs[run].files[name] = body
        text = json.dumps(answer).encode()
        self.send_response(self.server.status if refused else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server and a login. wandb gives up after two seconds, and retries after a short time."""
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", server.url)
        patch.setenv("WANDB_API_KEY", "0" * 40)
        patch.setenv("WANDB_INIT_TIMEOUT", "2")
        patch.setenv("WANDB_FINISH_TIMEOUT", "2")
        for client in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
            for end in ("MIN", "MAX"):
                patch.setenv(f"WANDB_X_{client}_RETRY_WAIT_{end}_SECONDS", "0.1")
        wandb.teardown()  # wandb reads the environment only once.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closed.set()
            wandb.teardown()
            server.shutdown()
            thread.join()
