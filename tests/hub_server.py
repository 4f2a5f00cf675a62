"""A hub on 127.0.0.1 that speaks the part of the Hugging Face hub's protocol that reading and writing files needs."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One repository is a dict of file contents; its commit is a hash of them."""

    def log_message(self, *_: object) -> None:
        pass

    @property
    def repositories(self) -> dict[str, dict[str, bytes]]:
        return self.server.repositories

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def not_found(self, code: str) -> None:
        self.answer(404, X_Error_Code=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/(.+?)/(revision|tree)/[^/]+", path):
            name, kind = found.groups()
            if name not in self.repositories:
                return self.not_found("RepoNotFound")
            files = self.repositories[name]
            if kind == "tree":
                listed = [{"type": "file", "path": f, "size": len(d), "oid": digest(d)} for f, d in files.items()]
                return self.answer_json(listed)
            siblings = [{"rfilename": file} for file in files]
            return self.answer_json({"id": name, "modelId": name, "sha": commit(files), "siblings": siblings})
        if found := re.fullmatch(r"/(.+?)/resolve/[^/]+/(.+)", path):
            files = self.repositories.get(found[1], {})
            if found[2] not in files:
                return self.not_found("EntryNotFound" if files else "RepoNotFound")
            data = files[found[2]]
            return self.answer(200, data, ETag=f'"{digest(data)}"', X_Repo_Commit=commit(files))
        return self.answer(404)

    def do_POST(self) -> None:
        self.server.requests.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.repositories.setdefault(name, {})
            return self.answer_json({"url": f"http://{self.headers['Host']}/{name}", "id": name})
        if found := re.fullmatch(r"/api/models/(.+?)/preupload/main", self.path.partition("?")[0]):
            modes = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.answer_json({"files": [mode | {"shouldIgnore": False, "oid": None} for mode in modes]})
        if found := re.fullmatch(r"/api/models/(.+?)/commit/main", self.path.partition("?")[0]):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[found[1]][line["value"]["path"]] = content
            oid = commit(self.repositories[found[1]])
            address = f"http://{self.headers['Host']}/{found[1]}/commit/{oid}"
            return self.answer_json({"success": True, "commitOid": oid, "commitUrl": address})
        return self.answer(404)


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def commit(files: dict[str, bytes]) -> str:
    return digest(b"".join(name.encode() + digest(data).encode() for name, data in sorted(files.items())))


@contextmanager
def running(repositories: dict[str, dict[str, bytes]]) -> Iterator[ThreadingHTTPServer]:
    """Serve repositories on a free port of 127.0.0.1; `.address` is the endpoint, `.requests` what was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.requests = repositories, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
