"""Transient Hub errors are retried, others are reported in one sentence."""

import errno
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TOKEN
from hub_run import whole
from huggingface_hub import HfApi, close_session

from hf_langimb import push_run
from hf_langimb.hub.errors import sentence_of
from hf_langimb.hub.push import require_login
from hf_langimb.hub.repository import Repository

ENDPOINTS = [
    "create", "info", "tree", "refs", "branch", "validate-yaml", "preupload", "lfs-batch", "lfs-put", "lfs-verify",
    "commit", "head", "resolve", "collections", "collection-items",
]  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_busy_hub_is_retried(server, finished, endpoint):
    fault = server.fail(endpoint, status=503, times=2)
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN, revision="v1", collection="All")
    assert fault.hits == 2, "the fault was met"
    assert len(server.repos["ann/one"].commits("v1")) == 2
    (collection,) = server.collections.values()
    assert len(collection["items"]) == 2
    whole(server)


def test_a_hub_that_stays_busy_is_left_in_time(server, monkeypatch):
    monkeypatch.setattr("hf_langimb.hub.errors.PATIENCE", 0)
    fault = server.fail("whoami", status=503, times=None)
    with pytest.raises(ValueError, match="The Hub returned 503 for ann/one: run the command again later"):
        require_login("ann/one", TOKEN)
    assert fault.hits == 1
    server.faults.clear()
    server.fail("whoami", status=503, times=4)
    monkeypatch.setattr("hf_langimb.hub.errors.PATIENCE", 60)
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    require_login("ann/one", TOKEN)
    assert all(2**i / 4 <= wait <= 2**i / 2 for i, wait in enumerate(waits)) and len(waits) == 4


def test_a_hub_that_does_not_answer(server, finished, monkeypatch):
    monkeypatch.setattr("hf_langimb.hub.errors.WAIT", 0.3)
    close_session()  # else its client waits as long as before
    hung = server.hang("info")
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert hung.hits == 1
    monkeypatch.setattr("hf_langimb.hub.errors.PATIENCE", 0)
    server.hang("info", times=None)
    with pytest.raises(ValueError, match=r"The Hub cannot be reached \(ReadTimeout\): check the connection"):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    close_session()


@pytest.mark.parametrize("endpoint", ["create", "info"])
def test_what_answers_is_not_the_hub(server, finished, endpoint):
    server.fail(endpoint, status=200, times=None)
    with pytest.raises(ValueError, match=r"server at http://127.0.0.1:\d+ is not the Hub .*: log in to the network"):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)


@pytest.mark.parametrize("endpoint", ["lfs-put", "commit", "resolve"])
@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
def test_a_broken_connection_is_retried(server, finished, endpoint, done):
    fault = server.cut(endpoint, done=done)
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert fault.hits == 1
    assert len(server.repos["ann/one"].commits()) == 2, "a commit whose answer was lost is not made twice"
    whole(server)


def test_somebody_else_commits_in_between(server, finished):
    def interfere(repo):
        server.before_commit = None
        server.write(repo.key, {"notes.md": b"Mine."})

    server.before_commit = interfere
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    files = server.repos["ann/one"].files()
    assert files["notes.md"] == b"Mine." and "README.md" in files
    assert len(server.repos["ann/one"].commits()) == 3
    asked = [one for one in server.requests if one.endpoint == "commit" and "models/ann/one/" in one.path]
    assert len(asked) == 2, "the first was made for the old head, and refused"


def test_eight_committers_at_once(server):
    HfApi(token=TOKEN).create_repo("ann/shared")

    def commit(i):
        one = Repository("ann/shared", "model", {f"notes-{i}.md": b"x" * i}, lambda old, there: old or "Card.")
        one.publish(HfApi(token=TOKEN))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(8)))
    assert {f"notes-{i}.md" for i in range(8)} <= set(server.repos["ann/shared"].files())
    assert len(server.repos["ann/shared"].commits()) == 9


def test_a_push_that_was_interrupted_goes_on(server, finished):
    server.fail("commit", status=403, path="datasets")
    with pytest.raises(ValueError, match="has no permission"):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert server.repos["ann/one"].files().keys() >= {"README.md", "model.safetensors"}
    whole(server)
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 2
    assert "README.md" in server.repos["datasets/ann/one-attributions"].files()


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("ann/one", None, "needs a token|does not accept|log in"),
        ("ann/one", "hf_unknown", r"does not accept this token \(401\): log in"),
        ("ann/one", "hf_ThisIsTheSecret\n", r"does not accept this token \(401\): log in"),
        ("ann/one", "hf_\u00e9toile", r"does not accept this token \(401\): log in"),
        ("rob/one", "hf_reader", r"has no permission for rob/one \(403\): it needs write access to rob"),
        ("ben/one", TOKEN, r"has no permission for ben/one \(403\)"),
        ("ann/../one", TOKEN, "is not a valid repository name"),
        ("one", TOKEN, "'one' is not a valid repository name: expected NAMESPACE/NAME"),
        ("../one", TOKEN, "is not a valid repository name"),
    ],
)
def test_pushes_that_are_refused(server, finished, repo_id, token, message, caplog, capsys):
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=message) as caught:
        push_run(finished, repo_id, setups=["balanced"], token=token)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is None
    said = "".join([str(caught.value), caplog.text, *capsys.readouterr()])
    assert not token or token not in said
    assert not [request for request in server.requests if request.endpoint in ("lfs-put", "commit")]
    whole(server)


def test_a_refusal_is_not_retried(server):
    for status in (400, 401, 403, 404):
        server.faults.clear()
        refusal = server.fail("whoami", status, times=None)
        with pytest.raises(ValueError, match=str(status)):
            require_login("ann/one", TOKEN)
        assert refusal.hits == 1


def test_the_cause_of_a_failed_upload_is_reported(server, finished):
    server.fail("lfs-put", 400)  # the client raises a RuntimeError from it
    with pytest.raises(ValueError, match=r"^The Hub rejected the request for ann/one \(400\): Injected fault\.$"):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    error = RuntimeError("Error while uploading 'a' to the Hub.")
    assert sentence_of(error, "ann/one") == "RuntimeError: Error while uploading 'a' to the Hub."
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "(No space left on device): free disk space" in sentence_of(error, "ann/one")
    error.__cause__ = PermissionError(errno.EACCES, "Permission denied", "run/config.json")
    assert "could not be downloaded or published (Permission denied: run/config.json)" in sentence_of(error, "x/y")
    error.__cause__ = FileNotFoundError(errno.ENOENT, "No such file", "model.safetensors")
    assert "model.safetensors" in sentence_of(error, "ann/one")
