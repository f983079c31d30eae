"""A web server on this machine that hands out a folder as release pages and the Hugging Face hub do, and breaks off."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REVISION = "c0ffee" * 6 + "c0ff"


@dataclass
class WeightsServer:
    """Answers from `folder`; `break_after` maps a file's name to the bytes after which its next answer breaks off.

    Attributes:
        sent: (path, first byte) of every answer with a body.
    """

    folder: Path
    url: str = ""
    break_after: dict[str, int] = field(default_factory=dict)
    sent: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def serving_weights(folder: Path) -> Iterator[WeightsServer]:
    """Serve a folder: /<path> as it lies, and as the hub's repository org/<first folder> at `REVISION`."""
    state = WeightsServer(folder)
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: WeightsServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *arguments) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/"):
            return self._describe(*path.removeprefix("/api/models/org/").split("/"))
        if path.startswith("/org/"):
            name, _, _, file = path.removeprefix("/org/").split("/", 3)
            path = f"/{name}/{file}"
        file = self.state.folder / path.lstrip("/")
        if not file.is_file():
            return self._say(404, b"")
        self._send(file, path, body)

    def _send(self, file: Path, path: str, body: bool) -> None:
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        asked, start = self.headers.get("Range"), 0
        if asked and self.headers.get("If-Range", f'"{digest}"') == f'"{digest}"':
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        self.state.sent.append((path, start))
        end = self.state.break_after.pop(file.name, None)
        self.wfile.write(data[start:end])
        if end is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def _describe(self, name: str, kind: str, revision: str) -> None:
        folder = self.state.folder / name
        if revision not in (REVISION, "main"):
            return self._say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        rows = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            data = file.read_bytes()
            row = {"size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            if file.suffix == ".safetensors":
                sha = hashlib.sha256(data).hexdigest()
                row["lfs"] = {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": 130}
            place = file.relative_to(folder).as_posix()
            rows.append({"type": "file", "path": place, "rfilename": place, "blobId": row["oid"], **row})
        told = rows if kind == "tree" else {"id": f"org/{name}", "sha": REVISION, "siblings": rows}
        return self._say(200, json.dumps(told).encode())

    def _say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)
