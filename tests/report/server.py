"""A stub of wandb's server: it receives uploads, keeps the histories, and fails as it is told.

It speaks what wandb-core 0.31 needs for uploads, and no more: three GraphQL operations at /graphql
(RunResumeStatus, UpsertBucket, CreateRunFiles), the lines of a run as JSON at
/files/ENTITY/PROJECT/RUN/file_stream, and PUT of files at /file.

Like wandb's server, it keeps one row for each step of a run, the one that came last. It counts all
lines, the replaced ones too: wandb-core numbers the lines that it sends from there on.
"""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

QUICK = {
    f"WANDB_X_{client}_RETRY_WAIT_{end}_SECONDS": "0.1"
    for client in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for end in ("MIN", "MAX")
}
"""Environment with short pauses between wandb's retries."""


class WandbServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.histories: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        """The logged values of each run by their step, in the order in which the steps came."""
        self.lines: Counter[str] = Counter()
        """The number of lines that came for each run."""
        self.uploads: list[str] = []
        """The ids of the runs to which something was uploaded, once an upload."""
        self.runs: list[str] = []
        """The ids of the runs that began, once a request."""
        self.refuses = ""
        """Answer `status` to requests with this text, such as "PUT /file"; to none if empty."""
        self.status = 500
        self.delay = 0.0
        """Seconds before each answer."""
        self.closed = threading.Event()

    @property
    def started(self) -> bool:
        """A run has begun."""
        return bool(self.runs)

    @property
    def all_steps(self) -> list[int]:
        return [step for run in self.histories for step in self.steps(run)]

    def steps(self, run: str) -> list[int]:
        return list(self.histories[run])

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL query, as far as uploads need it."""
        entity = {"id": "1", "name": "somebody"}
        project = {"id": "1", "name": given.get("project"), "entity": entity}
        if operation == "RunResumeStatus":
            return {"model": {**project, "bucket": self._resumed(given["name"])}}
        if operation == "UpsertBucket":
            self.runs.append(given["name"])
            bucket = {"id": given["name"], "name": given["name"], "project": project}
            count = {"historyLineCount": self.lines[given["name"]]}
            return {"upsertBucket": {"bucket": bucket | count, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/file"} for name in given["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {}

    def _resumed(self, run: str) -> dict[str, Any] | None:
        history = self.histories[run]
        if not history:
            return None
        last = json.dumps(history[max(history)])
        tails = {"historyTail": json.dumps([last]), "eventsTail": "[]"}
        counts = {"historyLineCount": self.lines[run], "eventsLineCount": 0, "logLineCount": 0}
        fields = {"config": "{}", "summaryMetrics": "{}", "wandbConfig": '{"t": {}}'}
        return {"id": run, "name": run, **fields, **counts, **tails}

    def stream(self, run: str, content: dict[str, Any]) -> None:
        if part := content.get("files", {}).get("wandb-history.jsonl"):
            rows = list(map(json.loads, part["content"]))
            self.histories[run] |= {row["_step"]: row for row in rows}
            self.lines[run] = part["offset"] + len(rows)
        if content.get("complete"):
            self.uploads.append(run)

    def handle_error(self, *_: Any) -> None:
        """Stay silent: wandb breaks connections off when it ends."""


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
            query = json.loads(body)
            data = self.server.answer(query["operationName"], query["variables"] or {})
            answer = {"data": data}
        elif self.path.endswith("/file_stream") and not refused:
            self.server.stream(self.path.split("/")[-2], json.loads(body))
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
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closed.set()
            server.shutdown()
            thread.join()
