"""Hub errors: transient ones are retried, others are reported in one sentence."""

from __future__ import annotations

import errno
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from hf_langimb.console import one_line

BUSY, OVERTAKEN = 5, 20  # further attempts while the Hub is busy, and while others commit
WAIT = 60  # seconds to wait for an answer; the client's default has no limit
PATIENCE = 60  # seconds after which a busy Hub is not asked again; the client itself retries for half a minute

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_BAD_TOKEN = f"The Hub does not accept this token (401): {_LOGIN}."
_NOT_FOUND = f"{{repo}} does not exist, or is private and this token may not read it ({{status}}): {_LOGIN}."
_CONFLICT = "Others kept committing to {repo} ({status}): run the command again."
_UNAVAILABLE = "The Hub answers {status} for {repo}: run the command again later; what is done stays."
_NO_SPACE = "{repo} could not be downloaded or published ({reason}): make room on the disk and run it again."
_NOT_WRITABLE = "{repo} could not be downloaded ({reason}): set HF_HOME to a folder that you may write."
_SENTENCES: dict[type[BaseException] | int | None, str] = {  # by type, HTTP status or errno
    LocalTokenNotFoundError: f"Publishing {{repo}} needs a token of the Hub: {_LOGIN}.",
    OfflineModeIsEnabled: "{repo} cannot be reached: HF_HUB_OFFLINE is set.",
    LocalEntryNotFoundError: "{repo} is not in the cache and the Hub cannot be reached: check the connection.",
    GatedRepoError: f"{{repo}} is gated: ask for access on its page, then {_LOGIN} of an account that has access.",
    RevisionNotFoundError: "{repo} has no such revision: look at its branches and tags.",
    RepositoryNotFoundError: _NOT_FOUND,
    HFValidationError: "{repo!r} is not a valid repository name: expected NAMESPACE/NAME of letters, digits, - _ and .",
    UnicodeEncodeError: _BAD_TOKEN,  # a header cannot contain it
    401: _BAD_TOKEN,
    403: "This token may not do that with {repo} (403): it needs the permission to write in {namespace} "
    "(huggingface.co/settings/tokens).",
    404: _NOT_FOUND,
    409: _CONFLICT,
    412: _CONFLICT,
    429: _UNAVAILABLE,
    500: _UNAVAILABLE,
    HfHubHTTPError: "The Hub refuses this for {repo} ({status}): {reason}.",
    HTTPError: "The Hub cannot be reached ({name}): check the connection and run it again.",
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NOT_WRITABLE,
    errno.EROFS: _NOT_WRITABLE,
}


def retried(action: Callable[[], Any]) -> Any:
    """Repeat an action while the Hub is busy, cannot be reached, or somebody else has just committed."""
    busy, overtaken, began = 0, 0, time.monotonic()
    while True:
        try:
            _limit_wait(WAIT)
            return action()
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"The server at {constants.ENDPOINT} is not the Hub ({type(error).__name__}): log in to the network, "
                "or check HF_ENDPOINT."
            ) from None
        except (HTTPError, LocalEntryNotFoundError, RuntimeError) as wrapped:
            cause = _cause_of(wrapped)
            if _status_of(cause) in (409, 412) and overtaken < OVERTAKEN:
                overtaken += 1  # of several committers, one succeeds each time
                time.sleep(random.uniform(0, 0.3))
            elif is_transient(cause) and busy < BUSY and time.monotonic() - began < PATIENCE:
                time.sleep(0.5 * 2**busy * random.uniform(0.5, 1))
                busy += 1
            else:
                raise cause from None


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Raise a Hub error as one sentence that says what to do and never contains a token; others pass.

    Raises:
        ValueError: the Hub refuses or cannot be reached.
        OSError: the disk is full or read-only.
    """
    try:
        yield
    except Exception as error:
        kind = OSError if getattr(error, "errno", None) else ValueError
        sentence = _known_sentence(error, repo_id)
        raise (kind(sentence) if sentence else error) from (None if sentence else error.__cause__)


def sentence_of(error: BaseException, repo_id: str) -> str:
    """One sentence for any error of a push."""
    cause = _cause_of(error)
    return _known_sentence(cause, repo_id) or one_line(f"{type(cause).__name__}: {cause}")


def is_transient(error: BaseException) -> bool:
    """Whether a Hub or connection error may be gone at the next attempt."""
    status, cause = _status_of(error), _cause_of(error)
    if status is not None:
        return status == 429 or status >= 500
    return isinstance(cause, HTTPError | LocalEntryNotFoundError) and not _is_bad_token(cause)


def _known_sentence(error: BaseException, repo_id: str) -> str | None:
    """The sentence of an error in the table; None where it is not there."""
    error = _cause_of(error)
    found = next((_SENTENCES[key] for key in _keys_of(error) if key in _SENTENCES), "")
    reason = getattr(error, "server_message", None) or getattr(error, "strerror", None) or "no reason given"
    facts = {"repo": repo_id, "namespace": repo_id.partition("/")[0], "name": type(error).__name__}
    return found.format(**facts, status=_status_of(error), reason=one_line(reason)[:200]) or None


def _keys_of(error: BaseException) -> Iterator[type[BaseException] | int | None]:
    """Keys of the table that fit an error, the most specific first."""
    if _is_bad_token(error):
        yield UnicodeEncodeError
    for kind in type(error).__mro__:
        if kind is HfHubHTTPError:
            status = _status_of(error) or 0
            yield min(status, 500)
        elif kind is OSError:
            yield getattr(error, "errno", None)
        yield kind


def _cause_of(error: BaseException) -> BaseException:
    """The error itself, or what it wraps: the client wraps failed uploads and failed downloads."""
    return (error.__cause__ if isinstance(error, RuntimeError | LocalEntryNotFoundError) else None) or error


def _status_of(error: BaseException) -> int | None:
    """HTTP status of a Hub error; None without an answer."""
    cause = _cause_of(error)
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None


def _is_bad_token(error: BaseException) -> bool:
    """Whether a token has characters that no header can contain."""
    return isinstance(error, UnicodeEncodeError) or type(error).__name__ == "LocalProtocolError"


def _limit_wait(seconds: float) -> None:
    """Give the client of this process a time limit where it has none."""
    session = get_session()
    if getattr(session.timeout, "read", seconds) is None:
        session.timeout = seconds
