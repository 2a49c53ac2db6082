"""A schema registry on loopback: as much of Confluent's REST interface as its own client and ours use."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RegistryServer:
    """Schemas by id, in memory. ``fail_with`` answers everything with a status; ``seen`` notes requests."""

    def __init__(self) -> None:
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.fail_with = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET", None)

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                self._answer("POST", json.loads(self.rfile.read(length)))

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, method: str, body: Any) -> None:
                path = self.path.partition("?")[0]
                server.seen.append((method, path, self.headers.get("authorization")))
                status, reply = server.answer(method, path, body)
                raw = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def add(self, text: str, **more: Any) -> int:
        entry = {"schema": text, **more}
        if entry not in self.schemas:
            self.schemas.append(entry)
        return self.schemas.index(entry) + 1

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self.fail_with:
            return self.fail_with, {"error_code": self.fail_with, "message": "told to fail"}
        match method, path.strip("/").split("/"):
            case "GET", ["schemas", "ids", number] if 0 < int(number) <= len(self.schemas):
                return 200, self.schemas[int(number) - 1]
            case "POST", ["subjects", subject, "versions"]:
                schema_id = self.add(body["schema"])
                self.subjects.setdefault(subject, []).append(schema_id)
                return 200, {"id": schema_id, "version": len(self.subjects[subject]), "schema": body["schema"]}
            case "POST", ["subjects", subject]:
                for version, schema_id in enumerate(self.subjects.get(subject, []), 1):
                    if self.schemas[schema_id - 1]["schema"] == body["schema"]:
                        return 200, {"id": schema_id, "version": version, "subject": subject, **body}
        return 404, {"error_code": 40403, "message": "Schema not found"}

    @contextmanager
    def running(self) -> Iterator["RegistryServer"]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()
