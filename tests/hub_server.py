"""A hub on 127.0.0.1 that implements the part of the Hugging Face Hub protocol for reading and writing files."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    """Request handler: a repository is a dict of file contents, and its commit a hash of them.

    A data set is named ``datasets/<name>``. A revision other than main has its own entry ``<name>@<revision>``; a
    revision of 40 hexadecimal digits is used as the commit.
    """

    def log_message(self, *_: object) -> None:
        pass

    @property
    def repositories(self) -> dict[str, dict[str, bytes]]:
        return self.server.repositories

    def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def respond_json(self, value: object) -> None:
        self.respond(200, json.dumps(value).encode(), Content_Type="application/json")

    def respond_not_found(self, code: str) -> None:
        self.respond(404, X_Error_Code=code)

    def find_revision(self, name: str, revision: str) -> tuple[dict[str, bytes], str] | None:
        """Files and commit of a repository at a branch or commit; None, after an error response, if it is missing."""
        if name in self.server.refused:
            status, headers = self.server.refused[name]
            shown = self.headers.get("Authorization", "")
            self.respond(status, **{key: value.format(shown=shown) for key, value in headers.items()})
            return None
        if name in self.server.moved:
            self.respond(307, Location=self.path.replace(name, self.server.moved[name], 1))
            return None
        revisions = {full.partition("@")[2] or "main": full for full in self.repositories if full.split("@")[0] == name}
        if not revisions:
            self.respond_not_found("RepoNotFound")
            return None
        for branch, full in revisions.items():
            files = self.repositories[full]
            own = branch if re.fullmatch("[0-9a-f]{40}", branch) else commit(files)
            if revision in (branch, own):
                return files, own
        self.respond_not_found("RevisionNotFound")
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/(models/|(?=datasets/))(.+?)/(revision|tree)/([^/]+)", path):
            name, kind, revision = match[2], match[3], unquote(match[4])
            if (snapshot := self.find_revision(name, revision)) is None:
                return None
            files, commit_id = snapshot
            if kind == "tree":
                return self.respond_json([described(file, data) for file, data in files.items()])
            siblings = [{"rfilename": file} for file in files]
            plain = name.removeprefix("datasets/")
            return self.respond_json({"id": plain, "modelId": plain, "sha": commit_id, "siblings": siblings})
        if match := re.fullmatch(r"/api/models/(.+?)/discussions", path):
            if isinstance(requests := self.server.discussions.get(match[1], 403), int):
                return self.respond(requests)
            return self.respond_json({"count": len(requests), "start": 0, "discussions": requests})
        if match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            if (snapshot := self.find_revision(match[1], unquote(match[2]))) is None:
                return None
            files, commit_id = snapshot
            if (file := unquote(match[3])) not in files:
                return self.respond_not_found("EntryNotFound")
            return self.respond_file(file, files[file], commit_id)
        return self.respond(404)

    def respond_file(self, name: str, data: bytes, commit: str) -> None:
        """Send a file, with its SHA-256 as ETag if it is large; only half of it if `server.broken` names it."""
        etag = described(name, data).get("lfs", {}).get("oid", digest(data))
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit}
        failure = self.server.broken.get(name) if self.command == "GET" else None
        if failure is None:
            return self.respond(200, data, **headers)
        half = data[: len(data) // 2]
        if failure == "short":
            return self.respond(200, half, **headers)
        self.close_connection = True
        if "Range" not in self.headers:
            self.respond(200, half, Content_Length=str(len(data)), **headers)

    def do_POST(self) -> None:
        self.server.requests.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            request = json.loads(body)
            name = "/".join(filter(None, [request.get("organization"), request["name"]]))
            self.repositories.setdefault(name, {})
            return self.respond_json({"url": f"http://{self.headers['Host']}/{name}", "id": name})
        if re.fullmatch(r"/api/models/(.+?)/preupload/main", self.path.partition("?")[0]):
            modes = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.respond_json({"files": [mode | {"shouldIgnore": False, "oid": None} for mode in modes]})
        if match := re.fullmatch(r"/api/models/(.+?)/commit/main", self.path.partition("?")[0]):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[match[1]][line["value"]["path"]] = content
            oid = commit(self.repositories[match[1]])
            address = f"http://{self.headers['Host']}/{match[1]}/commit/{oid}"
            return self.respond_json({"success": True, "commitOid": oid, "commitUrl": address})
        return self.respond(404)


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def described(name: str, data: bytes) -> dict[str, object]:
    """A file's entry in a tree listing; weights and tables are stored as large files (LFS)."""
    entry = {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
    if name.endswith((".safetensors", ".parquet", ".bin")):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def commit(files: dict[str, bytes]) -> str:
    return digest(b"".join(name.encode() + digest(data).encode() for name, data in sorted(files.items())))


def pull_request(repository: str, number: int, author: str) -> dict[str, object]:
    """A pull request as the hub lists it; its files are in the entry ``<repository>@refs/pr/<number>``."""
    repository_info = {"repo": {"name": repository, "type": "model"}, "createdAt": "2023-02-09T21:00:00.000Z"}
    author_info = {"author": {"name": author}, "title": "Adding `safetensors` variant of this model"}
    return {"num": number, "status": "open", "isPullRequest": True, **repository_info, **author_info}


@contextmanager
def running(repositories: dict[str, dict[str, bytes]]) -> Iterator[ThreadingHTTPServer]:
    """Serve repositories on a free port of 127.0.0.1.

    Attributes of the server:
        address: its endpoint.
        requests: the paths that were requested.
        refused: repository -> status and headers of the refusal; "{shown}" in a header becomes the request's
            Authorization header.
        moved: old name of a repository -> new name.
        broken: file -> how its transfer fails: "short" (half of it, sent as if complete) or "cut" (the connection
            closes halfway).
        discussions: repository -> its pull requests (see `pull_request`), or the status of an error.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.requests = repositories, []
    server.refused, server.moved, server.broken, server.discussions = {}, {}, {}, {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
