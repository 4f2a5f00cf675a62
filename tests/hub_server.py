"""A hub on 127.0.0.1 that speaks the part of the Hugging Face hub's protocol that reading and writing files needs."""

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
    """One repository is a dict of file contents; its commit is a hash of them.

    A data set is named ``datasets/<name>``; another revision than main is an entry of its own, ``<name>@<revision>``,
    and where that revision is a commit, it is the repository's.
    """

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

    def found(self, name: str, revision: str) -> tuple[dict[str, bytes], str] | None:
        """Files and commit of a repository at a branch or a commit; answers and gives None where it shows nothing."""
        if name in self.server.refused:
            status, headers = self.server.refused[name]
            shown = self.headers.get("Authorization", "")
            self.answer(status, **{key: value.format(shown=shown) for key, value in headers.items()})
            return None
        if name in self.server.moved:
            self.answer(307, Location=self.path.replace(name, self.server.moved[name], 1))
            return None
        revisions = {full.partition("@")[2] or "main": full for full in self.repositories if full.split("@")[0] == name}
        if not revisions:
            self.not_found("RepoNotFound")
            return None
        for branch, full in revisions.items():
            files = self.repositories[full]
            own = branch if re.fullmatch("[0-9a-f]{40}", branch) else commit(files)
            if revision in (branch, own):
                return files, own
        self.not_found("RevisionNotFound")
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/(models/|(?=datasets/))(.+?)/(revision|tree)/([^/]+)", path):
            name, kind, revision = found[2], found[3], unquote(found[4])
            if (at := self.found(name, revision)) is None:
                return None
            files, own = at
            if kind == "tree":
                return self.answer_json([described(file, data) for file, data in files.items()])
            siblings = [{"rfilename": file} for file in files]
            plain = name.removeprefix("datasets/")
            return self.answer_json({"id": plain, "modelId": plain, "sha": own, "siblings": siblings})
        if found := re.fullmatch(r"/api/models/(.+?)/discussions", path):
            if isinstance(requests := self.server.discussions.get(found[1], 403), int):
                return self.answer(requests)
            return self.answer_json({"count": len(requests), "start": 0, "discussions": requests})
        if found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            if (at := self.found(found[1], unquote(found[2]))) is None:
                return None
            files, own = at
            if (file := unquote(found[3])) not in files:
                return self.not_found("EntryNotFound")
            return self.answer_file(file, files[file], own)
        return self.answer(404)

    def answer_file(self, name: str, data: bytes, commit: str) -> None:
        """A file; a large one is named by its SHA-256. Those of `server.broken` come in half, and no further."""
        etag = described(name, data).get("lfs", {}).get("oid", digest(data))
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit}
        how = self.server.broken.get(name) if self.command == "GET" else None
        if how is None:
            return self.answer(200, data, **headers)
        half = data[: len(data) // 2]
        if how == "short":
            return self.answer(200, half, **headers)
        self.close_connection = True
        if "Range" not in self.headers:
            self.answer(200, half, Content_Length=str(len(data)), **headers)

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


def described(name: str, data: bytes) -> dict[str, object]:
    """A file as a tree lists it; weights and tables are what the hub keeps as large files."""
    entry = {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
    if name.endswith((".safetensors", ".parquet", ".bin")):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def commit(files: dict[str, bytes]) -> str:
    return digest(b"".join(name.encode() + digest(data).encode() for name, data in sorted(files.items())))


def pull_request(repository: str, number: int, author: str) -> dict[str, object]:
    """A discussion as the hub lists it; its files are those of the entry ``<repository>@refs/pr/<number>``."""
    place = {"repo": {"name": repository, "type": "model"}, "createdAt": "2023-02-09T21:00:00.000Z"}
    who = {"author": {"name": author}, "title": "Adding `safetensors` variant of this model"}
    return {"num": number, "status": "open", "isPullRequest": True, **place, **who}


@contextmanager
def running(repositories: dict[str, dict[str, bytes]]) -> Iterator[ThreadingHTTPServer]:
    """Serve repositories on a free port of 127.0.0.1.

    `.address` is the endpoint, `.requests` what was asked for, `.refused` maps names of repositories to the status and
    headers that they are refused with ("{shown}" in a header becomes what authorised the request), `.moved` maps
    their old names to new ones, `.broken` names of files to how their transfer fails: "short" (half of it as if it were
    all) or "cut" (the connection ends), `.discussions` a repository to what is discussed there, see `pull_request`, or
    to a status.
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
