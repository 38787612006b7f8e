"""A Hub on 127.0.0.1 for tests: as much of its HTTP interface as the real clients ask for, and faults on demand.

    with HubServer() as server:
        server.add_user("ann", "hf_ann")
        api = HfApi(endpoint=server.url, token="hf_ann")
        api.create_repo("ann/model")
        server.fail("commit", status=503)  # the next commit is refused
        server.repos["ann/model"].files()  # {path: bytes}

Everything is in memory. Keys of `server.repos` are "user/name" for a model, "datasets/user/name" for a dataset.
"""

import base64
import hashlib
import json
import re
import secrets
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partialmethod
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

Headers = Mapping[str, str] | None

LFS_SUFFIXES = (".arrow", ".bin", ".npy", ".npz", ".parquet", ".pickle", ".pkl", ".png", ".pt", ".pth", ".safetensors")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


def _goes_to_lfs(path: str, size: int, sample: bytes) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > 10 * 2**20 or b"\0" in sample


class Request(NamedTuple):
    endpoint: str
    path: str  # as sent, with its query


class User(NamedTuple):
    name: str
    role: str


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool  # kept outside git, as large and binary files are

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def oid(self) -> str:
        """As git names it; only for LFS files, where no client checks it, git would name a pointer instead."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    author: str
    date: str
    files: dict[str, File]

    def listing(self) -> list[dict[str, Any]]:
        """Facts about all files, under the names that they have in a tree and among siblings."""
        entries = []
        for path, file in sorted(self.files.items()):
            size, lfs = len(file.data), {}
            if file.lfs:
                lfs = {"lfs": {"oid": file.sha256, "sha256": file.sha256, "size": size, "pointerSize": 130}}
            names = {"type": "file", "path": path, "rfilename": path}
            entries.append({**names, "oid": file.oid, "blobId": file.oid, "size": size, **lfs})
        return entries


@dataclass
class Repo:
    """A repository: commits, and references (refs/heads/main, refs/tags/v1, refs/pr/1) that point to them."""

    repo_id: str
    repo_type: str = "model"
    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    history: dict[str, Commit] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # LFS objects by sha256, committed or not

    def __post_init__(self) -> None:
        self.append("refs/heads/main", {".gitattributes": File(GITATTRIBUTES, lfs=False)}, "initial commit")

    @property
    def key(self) -> str:
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    def at(self, revision: str = "main") -> Commit:
        """The commit that a branch, a tag, a whole reference or an oid names."""
        refs = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        oid = next((self.refs[ref] for ref in refs if ref in self.refs), revision)
        if oid not in self.history:
            raise _refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[oid]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: file.data for path, file in self.at(revision).files.items()}

    def commits(self, revision: str = "main") -> list[Commit]:
        """From the newest to the initial one."""
        commits = [self.at(revision)]
        while parent := commits[-1].parent:
            commits.append(self.history[parent])
        return commits

    def append(self, ref: str, files: dict[str, File], title: str, author: str = "") -> Commit:
        """Commit `files` on top of what `ref` points to, and point it there."""
        author = author or self.repo_id.split("/")[0]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        commit = Commit(secrets.token_hex(20), self.refs.get(ref), title, author, now, files)
        self.history[commit.oid] = commit
        self.refs[ref] = commit.oid
        self.uploads |= {file.sha256: file.data for file in files.values() if file.lfs}
        return commit


class Reply(Exception):
    """What is answered; raised if it is a refusal. Content that is not bytes is sent as JSON."""

    def __init__(self, status: int, content: Any, headers: Headers = None):
        super().__init__(status, content)
        self.status = status
        self.body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.headers = {"Content-Type": kind, **(headers or {})}


def _refusal(status: int, message: str, code: str = "", headers: Headers = None, **extra: Any) -> Reply:
    codes = {"X-Error-Code": code} if code else {}
    return Reply(status, {"error": message, **extra}, {"X-Error-Message": message, **codes, **(headers or {})})


@dataclass
class Fault:
    """What goes wrong with requests to `endpoint` whose path contains `path`; `hits` counts those it has met."""

    action: str  # fail, cut, hang or corrupt
    endpoint: str
    times: int | None
    path: str = ""
    skip: int = 0
    done: bool = False
    reply: Any = None  # if the action is fail
    hits: int = 0

    def meets(self, request: Request) -> bool:
        if request.endpoint != self.endpoint or self.path not in unquote(request.path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        met = self.times is None or self.hits < self.times
        self.hits += met
        return met


_NO_FAULT = Fault("", "", times=0)


# The interface: each endpoint is a method of the handler, named alike. It is given the parts of its address, with the
# repository and the commit already found, and is not called for who may not see or, if it `writes`, not change them.


class _Route(NamedTuple):
    method: str
    pattern: re.Pattern[str]
    endpoint: str
    writes: bool
    call: Callable[..., Any]


_ROUTES: list[_Route] = []
_NAME = r"(?P<name>[^/]+(?:/[^/]+)?)"
_REPO = rf"/api/(?P<kind>model|dataset)s/{_NAME}"
_GIT = rf"/(?:(?P<kind>dataset)s/)?{_NAME}"
_REVISION = r"(?P<revision>[^/]+)"


def _route(method: str, pattern: str, endpoint: str = "", *, writes: bool = False) -> Callable[[Callable], Callable]:
    def register(call: Callable) -> Callable:
        _ROUTES.append(_Route(method, re.compile(pattern), endpoint or call.__name__.replace("_", "-"), writes, call))
        return call

    return register


class _Handler(BaseHTTPRequestHandler):
    wbufsize = -1  # head and body leave together
    server: "HubServer"
    user: Any  # User or None

    def answer(self) -> None:
        """Read a request, carry it out and reply; or what a fault makes of that."""
        path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        found = ((route, route.pattern.fullmatch(path)) for route in _ROUTES if route.method == self.command)
        route, match = next(((route, match) for route, match in found if match), (None, None))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        fault = self.server.record(Request(route.endpoint if route else "unknown", self.path))
        length = int(self.headers.get("Content-Length", 0))
        if fault.action == "hang":
            self.server.closing.wait(60)
        if fault.action == "cut" and length and not fault.done:
            self.rfile.read(length // 2)
            return
        self.body = self.rfile.read(length)
        self.corrupted = fault.action == "corrupt"
        if fault.action != "fail" or fault.done:
            reply = self._carry_out(route, match.groupdict() if match else {}, token)
        if fault.action == "fail":
            reply = fault.reply
        if fault.action != "cut":
            self._send(reply, len(reply.body))
        elif self.command == "GET":
            self._send(reply, len(reply.body) // 2)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def _carry_out(self, route: _Route | None, groups: dict[str, Any], token: str | None) -> Reply:
        try:
            self.user = self.server.users.get(token or "")
            if token and not self.user:
                raise _refusal(401, "Invalid credentials in Authorization header")
            if route is None:
                raise _refusal(404, "Sorry, we can't find the page you are looking for.")
            given: dict[str, Any] = {name: unquote(value or "") for name, value in groups.items()}
            self.revision = given.pop("revision", "main") or "main"
            if "name" in given:
                given["repo"] = self._find(given.pop("kind"), given.pop("name"))
                if route.writes:
                    # Who can read may propose changes, hence upload. Over https, clients take any 401 to a repository's
                    # address for a missing repository; the code makes them do so here.
                    proposal = "create_pr" in self.query or self.revision.startswith("refs/pr/")
                    anywhere = proposal or route.endpoint.startswith("lfs-")
                    self._check_write(None if anywhere else given["repo"].repo_id.split("/")[0], "RepoNotFound")
                if route.endpoint == "commit" and self.server.before_commit:
                    self.server.before_commit(given["repo"])
            with self.server.lock:
                if "revision" in groups:
                    given["commit"] = given["repo"].at(self.revision)
                answer = route.call(self, **given)
            return answer if isinstance(answer, Reply) else Reply(200, answer)
        except Reply as refusal:
            return refusal
        except Exception as error:  # raised when the server closes; 501 because clients do not try that again
            self.server.errors.append(error)
            return _refusal(501, repr(error))

    def _send(self, reply: Reply, size: int) -> None:
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:size])

    def log_message(self, *args: Any) -> None:
        """Nothing to standard error."""

    # Who may do what.

    def _owns(self, repo_id: str) -> bool:
        return self.user is not None and self.user.name == repo_id.split("/")[0]

    def _find(self, kind: str, name: str) -> Repo:
        repo = self.server.repos.get(f"datasets/{name}" if kind == "dataset" else name)
        if repo and (self._owns(name) or not repo.private):
            return repo
        # The Hub does not tell what is private from what is missing.
        if self.user:
            raise _refusal(404, "Repository not found", "RepoNotFound")
        raise _refusal(401, "Invalid username or password.", "RepoNotFound")

    def _check_write(self, namespace: str | None, code: str = "") -> None:
        if not self.user:
            raise _refusal(401, "Invalid username or password.", code)
        if self.user.role != "write":
            raise _refusal(403, "Forbidden: you must use a write token to do this.")
        if namespace is not None and not self._owns(namespace):
            raise _refusal(403, f"Forbidden: you don't have the rights to write under the namespace {namespace}.")

    # Accounts and repositories.

    @_route("GET", "/api/whoami-v2")
    def whoami(self) -> Any:
        if not self.user:
            raise _refusal(401, "Invalid username or password.")
        name, role = self.user.name, self.user.role
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": role}}
        return {"type": "user", "id": name, "name": name, "fullname": name, "orgs": [], "auth": auth}

    @_route("POST", "/api/repos/create")
    def create(self) -> Any:
        wanted = json.loads(self.body)
        owner = wanted.get("organization") or (self.user.name if self.user else "")
        self._check_write(owner)
        private = wanted.get("visibility") == "private"
        repo = Repo(f"{owner}/{wanted['name']}", wanted.get("type") or "model", private)
        url = f"{self.server.url}/{repo.key}"
        if repo.key in self.server.repos:
            raise _refusal(409, f"You already created this {repo.repo_type} repo", url=url)
        self.server.repos[repo.key] = repo
        return {"url": url, "name": repo.repo_id}

    @_route("GET", rf"{_REPO}(?:/revision/{_REVISION})?")
    def info(self, repo: Repo, commit: Commit) -> Any:
        facts = {"id": repo.repo_id, "sha": commit.oid, "lastModified": commit.date, "siblings": commit.listing()}
        flags = {"private": repo.private, "gated": "manual" if repo.gated else False, "disabled": False, "tags": []}
        return {**facts, **flags, "author": repo.repo_id.split("/")[0], "createdAt": repo.commits()[-1].date}

    @_route("GET", f"{_REPO}/discussions")
    def discussions(self, repo: Repo) -> Any:
        """Of pull requests alone; all are open, and each bears the title of its first commit."""
        found, on_main = [], {commit.oid for commit in repo.commits()}
        for ref in (ref for ref in repo.refs if ref.startswith("refs/pr/")):
            first = [commit for commit in repo.commits(ref) if commit.oid not in on_main][-1]
            if self.query.get("author", [first.author]) == [first.author]:
                facts = {"num": int(ref.rpartition("/")[2]), "title": first.title, "status": "open"}
                facts |= {"author": {"name": first.author}, "createdAt": first.date, "isPullRequest": True}
                found.append(facts | {"repo": {"name": repo.repo_id, "type": repo.repo_type}})
        return {"discussions": found, "count": len(found), "start": 0}

    # References and history.

    @_route("GET", f"{_REPO}/refs")
    def refs(self, repo: Repo) -> Any:
        groups: dict[str, list[dict[str, str]]] = {"heads": [], "tags": [], "pr": []}
        for ref, oid in repo.refs.items():
            _, group, name = ref.split("/", 2)
            groups[group].append({"name": ref if group == "pr" else name, "ref": ref, "targetCommit": oid})
        return {"branches": groups["heads"], "tags": groups["tags"], "converts": []}

    @_route("POST", rf"{_REPO}/branch/(?P<branch>[^/]+)", writes=True)
    def branch(self, repo: Repo, branch: str) -> Any:
        if f"refs/heads/{branch}" in repo.refs:
            raise _refusal(409, "Reference update failed: reference already exists")
        repo.refs[f"refs/heads/{branch}"] = repo.at(json.loads(self.body).get("startingPoint", "main")).oid
        return {}

    @_route("POST", f"{_REPO}/tag/{_REVISION}", writes=True)
    def tag(self, repo: Repo, commit: Commit) -> Any:
        repo.refs[f"refs/tags/{json.loads(self.body)['tag']}"] = commit.oid
        return {}

    # Uploading: asking what kind of file each is, sending the large ones, then the commit.

    @_route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> Any:
        bare = not json.loads(self.body)["content"].startswith("---\n")
        warnings = [{"message": "empty or missing yaml metadata in repo card"}] if bare else []
        return {"errors": [], "warnings": warnings}

    @_route("POST", f"{_REPO}/preupload/{_REVISION}", writes=True)
    def preupload(self, repo: Repo, commit: Commit) -> Any:
        answers = []
        for file in json.loads(self.body)["files"]:
            large = _goes_to_lfs(file["path"], file["size"], base64.b64decode(file["sample"]))
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if old := commit.files.get(file["path"]):
                answer["oid"] = old.etag  # from this the client knows what has not changed, and does not commit it
            answers.append(answer)
        return {"files": answers}

    @_route("POST", rf"{_GIT}\.git/info/lfs/objects/batch", writes=True)
    def lfs_batch(self, repo: Repo) -> Any:
        answers, verify = [], {"href": f"{self.server.url}/{repo.key}.git/info/lfs/verify"}
        for item in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{repo.key}/{item['oid']}"}
            actions = {} if item["oid"] in repo.uploads else {"actions": {"upload": upload, "verify": verify}}
            answers.append({**item, **actions})
        return {"transfer": "basic", "objects": answers}

    @_route("PUT", "/lfs/(?P<key>.+)/(?P<oid>[^/]+)")
    def lfs_put(self, key: str, oid: str) -> Any:
        # Clients send no token here: on the Hub the address is a signed one.
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _refusal(400, "The bytes do not match their checksum")
        self.server.repos[key].uploads[oid] = self.body
        return b""

    @_route("POST", rf"{_GIT}\.git/info/lfs/verify", writes=True)
    def lfs_verify(self, repo: Repo) -> Any:
        if json.loads(self.body)["oid"] not in repo.uploads:
            raise _refusal(404, "Object not found")
        return {}

    @_route("POST", f"{_REPO}/commit/{_REVISION}", writes=True)
    def commit(self, repo: Repo, commit: Commit) -> Any:
        ref = self.revision if self.revision.startswith("refs/pr/") else f"refs/heads/{self.revision}"
        if ref not in repo.refs:
            raise _refusal(404, f"Not a branch: {self.revision}", "RevisionNotFound")
        header, *changes = (json.loads(line) for line in self.body.splitlines())
        if not commit.oid.startswith(header["value"].get("parentCommit", "")):
            raise _refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(commit.files)
        for change in changes:
            path, value = change["value"]["path"], change["value"]
            if change["key"] == "file":
                files[path] = File(base64.b64decode(value["content"]), lfs=False)
            elif change["key"] == "lfsFile":
                files[path] = File(repo.uploads[value["oid"]], lfs=True)
            elif files.pop(path, None) is None:  # deletedFile
                raise _refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        url, pull = f"{self.server.url}/{repo.key}", {}
        if "create_pr" in self.query:
            number = 1 + sum(known.startswith("refs/pr/") for known in repo.refs)
            ref, pull = f"refs/pr/{number}", {"pullRequestUrl": f"{url}/discussions/{number}"}
            repo.refs[ref] = commit.oid
        new = repo.append(ref, files, header["value"]["summary"], author=self.user.name)
        return {"success": True, "commitOid": new.oid, "commitUrl": f"{url}/commit/{new.oid}", **pull}

    # Listing and downloading.

    @_route("GET", rf"{_REPO}/tree/{_REVISION}(?:/(?P<path>.+))?")
    def tree(self, repo: Repo, commit: Commit, path: str) -> Any:
        folders = sorted({known[: slash.start()] for known in commit.files for slash in re.finditer("/", known)})
        entries = [{"type": "directory", "path": folder, "oid": commit.oid, "size": 0} for folder in folders]
        prefix, deep = f"{path}/" if path else "", self.query.get("recursive") == ["true"]
        inside = [entry for entry in [*entries, *commit.listing()] if entry["path"].startswith(prefix)]
        if prefix and not inside:
            raise _refusal(404, f"{path} does not exist", "EntryNotFound")
        return [entry for entry in inside if deep or "/" not in entry["path"].removeprefix(prefix)]

    @_route("HEAD", rf"{_GIT}/resolve/{_REVISION}/(?P<path>.+)", "head")
    @_route("GET", rf"{_GIT}/resolve/{_REVISION}/(?P<path>.+)")
    def resolve(self, repo: Repo, commit: Commit, path: str) -> Any:
        if repo.gated and not self._owns(repo.repo_id):
            raise _refusal(403 if self.user else 401, f"Access to {repo.key} is restricted.", "GatedRepo")
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise _refusal(404, "Entry not found", "EntryNotFound", headers)
        file = commit.files[path]
        headers["ETag"] = f'"{file.etag}"'
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        return Reply(200, file.data[:-1] + bytes([file.data[-1] ^ 1]) if self.corrupted else file.data, headers)

    @_route("POST", "/api/collections")
    def collections(self) -> Any:
        wanted = json.loads(self.body)
        owner, title = wanted["namespace"], wanted["title"]
        self._check_write(owner)
        slug = f"{owner}/{re.sub('[^a-z0-9]+', '-', title.lower())}-{hashlib.md5(title.encode()).hexdigest()[:24]}"
        if slug in self.server.collections:
            raise _refusal(409, "This collection already exists", slug=slug)
        looks = {"position": 0, "theme": "green", "upvotes": 0, "lastUpdated": "2026-01-01T00:00:00.000Z"}
        looks |= {"slug": slug, "title": title, "owner": owner, "private": False}
        self.server.collections[slug] = {"items": [], **looks}
        return self.server.collections[slug]

    @_route("GET", "/api/collections/(?P<slug>[^/]+/[^/]+)")
    def collection(self, slug: str) -> Any:
        return self.server.collections[slug]

    @_route("POST", "/api/collections/(?P<slug>[^/]+/[^/]+)/items?")
    def collection_items(self, slug: str) -> Any:
        found, item = self.collection(slug), json.loads(self.body)["item"]
        self._check_write(slug.split("/")[0])
        self._find(item["type"], item["id"])
        if (item["type"], item["id"]) in [(old["type"], old["id"]) for old in found["items"]]:
            raise _refusal(409, "Item already in collection")
        found["items"].append({"_id": secrets.token_hex(12), **item, "position": len(found["items"])})
        return found


class HubServer(socketserver.ThreadingTCPServer):
    """The Hub, as a context manager: listens within the block; an error of its own is raised at the block's end.

    `fail`, `cut` and `hang` name an endpoint: a method of the handler, with dashes, or head (a file's metadata, where
    resolve is its download). So does each of `requests`, where unknown is one not served.
    """

    allow_reuse_address = True  # one test after another on the same port
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.users: dict[str, User] = {}  # by token
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}  # by slug, as clients get them
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.errors: list[Exception] = []
        self.before_commit: Callable[[Repo], object] | None = None  # called when a commit arrives, before it is made
        self.lock = threading.RLock()
        self.closing = threading.Event()

    def __enter__(self) -> "HubServer":
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, kind: object, *args: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        if kind is None and self.errors:
            raise self.errors[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError):  # clients may well leave early
            self.errors.append(error)

    def add_user(self, name: str, token: str, role: str = "write") -> None:
        """A token of `name`: reads what is private of `name`, and writes there if its role is write."""
        self.users[token] = User(name, role)

    def add_repo(self, repo_id: str, repo_type: str = "model", *, private: bool = False, gated: bool = False) -> Repo:
        """A repository made past all checks; of a gated one only its owner can download."""
        repo = Repo(repo_id, repo_type, private, gated)
        self.repos[repo.key] = repo
        return repo

    def write(self, key: str, files: Mapping[str, bytes | None]) -> Commit:
        """Commit to a repository past all checks, whatever the names of the files; None removes one."""
        with self.lock:
            repo = self.repos[key]
            after = dict(repo.at().files)
            for path, data in files.items():
                after.pop(path, None)
                if data is not None:
                    after[path] = File(data, _goes_to_lfs(path, len(data), data[:512]))
            return repo.append("refs/heads/main", after, "Change")

    def fail(
        self, endpoint: str, status: int = 503, times: int | None = 1, action: str = "fail", **where: Any
    ) -> Fault:
        """Let `times` requests (None: all) go wrong whose path contains `path`, after letting `skip` of them pass.

        `fail` answers with a status, `cut` closes the connection in the middle of an upload or a download, `hang` does
        not answer until the server closes, `corrupt` changes the last byte of a download. With `done` the request is
        carried out, and only its answer is lost.
        """
        assert endpoint in {route.endpoint for route in _ROUTES}, f"There is no endpoint {endpoint}"
        fault = Fault(action, endpoint, times, reply=_refusal(status, "Injected fault"), **where)
        with self.lock:
            self.faults.append(fault)
        return fault

    cut = partialmethod(fail, action="cut")
    hang = partialmethod(fail, action="hang")
    corrupt = partialmethod(fail, "resolve", action="corrupt")

    def record(self, request: Request) -> Fault:
        """Note a request; returns what happens to it. Tests replace this to hold requests up."""
        with self.lock:
            self.requests.append(request)
            return next((fault for fault in self.faults if fault.meets(request)), _NO_FAULT)
