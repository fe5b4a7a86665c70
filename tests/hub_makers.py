"""A model hub on this machine, as far as pushing and loading a model need one."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by name, and what is in them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str] = set()
        self.open = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def local_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_) -> None: ...

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub, path = self.server, self.path.split("?")[0]
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if not hub.open:
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            status = 409 if repo in hub.files else 200
            hub.files.setdefault(repo, {})
            hub.private.setdefault(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
            return self.answer({"url": f"{hub.url}/{repo}", "id": repo}, status)
        repo = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        for line in filter(None, body.split(b"\n")):
            entry = json.loads(line)
            if entry["key"] == "file":
                hub.files[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del hub.files[repo][entry["value"]["path"]]
        return self.answer({"commitUrl": f"{hub.url}/{repo}/commit/{REVISION}", "commitOid": REVISION, "success": True})

    def do_GET(self) -> None:
        hub, parts = self.server, self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "api":
            repo = "/".join(parts[2:4])
            if "tree" in parts:
                files = hub.files[repo]
                return self.answer([{"type": "file", "path": f, "size": len(files[f]), "oid": "0" * 40} for f in files])
            about = {"id": repo, "private": hub.private.get(repo, False), "sha": REVISION, "siblings": [], "tags": []}
            return self.answer(about, 200 if repo in hub.files else 404)
        content = hub.files.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        if content is None:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        return self.answer(content, 200, ETag=f'"{etag}"', X_Repo_Commit=REVISION, Accept_Ranges="bytes")

    do_HEAD = do_GET  # noqa: N815 - the library's name
