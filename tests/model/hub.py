"""A hub on loopback: what the real client asks of one, over HTTP, for repositories in folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from huggingface_hub import snapshot_download

from kronos_stream.model import checkpoints

BRANCH: Final = "main"


class Hub:
    """Repositories below `folder` as OWNER/NAME, each with one commit; `tags` are more names of
    every commit."""

    def __init__(self, folder: Path, *, tags: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.names = (BRANCH, *tags)
        self.resolved: list[tuple[str, str]] = []
        """Repositories and the revisions that were asked for, in their order."""
        self.asked: list[tuple[str, str, str]] = []
        """Repositories, commits and files, once by their headers and once by their content."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                status, headers, content = hub.answer(self.path)
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(content))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def do_GET(self) -> None:
                self.do_HEAD()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests ask what was fetched."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator["Hub"]:
        """Answers until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def instead_of_the_public_one(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """The real client asks here, and keeps what it fetches in `cache`."""
        here = partial(snapshot_download, endpoint=self.endpoint, cache_dir=cache)
        monkeypatch.setattr(checkpoints, "snapshot_download", here)

    @staticmethod
    def commit(repository: str) -> str:
        """The one commit of a repository."""
        return _digest(repository.encode())

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content: of a revision, the files of a commit, or one file."""
        parts = urlsplit(path).path.strip("/").removeprefix("api/models/").split("/")
        repository, (what, revision, *rest) = "/".join(parts[:2]), parts[2:]
        folder, commit = self.folder / repository, self.commit(repository)
        if not folder.is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in (*self.names, commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if what == "revision":
            self.resolved.append((repository, revision))
            return _json({"id": repository, "sha": commit, "siblings": []})
        if what == "tree":
            return _json([_entry(file) for file in sorted(folder.iterdir())])
        self.asked.append((repository, revision, rest[0]))
        content = (folder / rest[0]).read_bytes()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{_digest(content)}"'}, content


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entry(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": _digest(content)}


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
