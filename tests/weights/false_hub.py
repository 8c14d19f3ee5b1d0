"""A Hugging Face hub on loopback: as much of it as pushing and fetching a model needs."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_this_test"


class FalseHub(ThreadingHTTPServer):
    """Repositories by name, each a dict of commits, oldest first, and their files."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: list[str] = []
        self.large: dict[str, bytes] = {}  # by SHA-256, as Git LFS has them
        self.fetched: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def false_hub():
    with FalseHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FalseHub

    def log_message(self, *arguments):
        """Nothing on stderr."""

    def answer(self, code, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def files(self, name, revision):
        """(commit, files), or None after the answer that there are none."""
        commits = self.server.repositories.get(name)
        if not commits:
            return self.answer(404, X_Error_Code="RepoNotFound")
        commit = list(commits)[-1] if revision in (None, "main") else revision
        if commit not in commits:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        return commit, commits[commit]

    def do_GET(self):
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/(\w+/\w+)(?:/revision/(\w+))?", path):
            if files := self.files(*found.groups()):
                siblings = [{"rfilename": each} for each in files[1]]
                self.answer(200, {"id": found[1], "sha": files[0], "siblings": siblings})
        elif found := re.fullmatch(r"/api/models/(\w+/\w+)/tree/(\w+)", path):
            if files := self.files(*found.groups()):
                items = files[1].items()
                tree = [
                    {"type": "file", "path": p, "size": len(b), "oid": _sha1(b)} for p, b in items
                ]
                self.answer(200, tree)
        elif found := re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/(.+)", path):
            if files := self.files(found[1], found[2]):
                content = files[1][found[3]]
                if self.command == "GET":
                    self.server.fetched.append(found[3])
                self.answer(200, content, ETag=f'"{_sha1(content)}"', X_Repo_Commit=files[0])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            if name in self.server.repositories:
                return self.answer(409, {"url": f"{self.server.url}/{name}"})
            self.server.repositories[name] = {}
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.server.private.append(name)
            return self.answer(200, {"url": f"{self.server.url}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            files = [each["path"] for each in json.loads(body)["files"]]
            kinds = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in files}
            answers = [
                {"path": p, "uploadMode": k, "shouldIgnore": False} for p, k in kinds.items()
            ]
            return self.answer(200, {"files": answers})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.server.url}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            kind = {"Content_Type": "application/vnd.git-lfs+json"}
            return self.answer(200, {"transfer": "basic", "objects": objects}, **kind)
        if found := re.fullmatch(r"/api/models/(\w+/\w+)/commit/main", self.path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {}
            for line in lines:
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
            commits = self.server.repositories[found[1]]
            commit = hashlib.sha1(body + str(len(commits)).encode()).hexdigest()
            commits[commit] = files
            place = f"{self.server.url}/{found[1]}/commit/{commit}"
            return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": place})
        return self.answer(404)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == f"/large/{hashlib.sha256(content).hexdigest()}"
        self.server.large[self.path.rpartition("/")[2]] = content
        self.answer(200)


def _sha1(content):
    return hashlib.sha1(content).hexdigest()
