"""Hub errors: transient ones are retried, others are reported in one of the sentences of errors.yaml."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import get_session

from hf_langimb.console import one_line

BUSY, OVERTAKEN = 5, 20  # further attempts while the Hub is busy, and while others commit
WAIT = 60  # seconds to wait for an answer; the client's default has no limit
PATIENCE = 60  # seconds after which a busy Hub is not asked again; the client itself retries for half a minute
_SENTENCES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def retried(action: Callable[[], Any]) -> Any:
    """Repeat an action while the Hub is busy, cannot be reached, or somebody else has just committed."""
    busy, overtaken, began = 0, 0, time.monotonic()
    while True:
        try:
            session = get_session()
            if getattr(session.timeout, "read", WAIT) is None:
                session.timeout = WAIT
            return action()
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
        kind = OSError if getattr(_cause_of(error), "errno", None) else ValueError
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
    bad_token = type(cause).__name__ == "LocalProtocolError"
    return isinstance(cause, HTTPError | LocalEntryNotFoundError) and not bad_token


def _known_sentence(error: BaseException, repo_id: str) -> str | None:
    """The sentence of an error in the table; None where it is not there."""
    error, status = _cause_of(error), _status_of(error)
    keys: set[Any] = {kind.__name__ for kind in type(error).__mro__}
    keys |= {min(status or 0, 500), errno.errorcode.get(getattr(error, "errno", None) or 0)}
    says = next((entry["says"] for entry in _SENTENCES if keys.intersection(entry["errors"])), None)
    reason = getattr(error, "server_message", None) or getattr(error, "strerror", None) or "no reason given"
    reason += f": {where}" if (where := getattr(error, "filename", None)) else ""
    facts = {"repo": repo_id, "namespace": repo_id.partition("/")[0], "name": type(error).__name__, "status": status}
    return says and says.format(**facts, reason=one_line(reason)[:200], endpoint=constants.ENDPOINT)


def _cause_of(error: BaseException) -> BaseException:
    """The error itself, or what it wraps: the client wraps failed uploads and failed downloads."""
    return (error.__cause__ if isinstance(error, RuntimeError | LocalEntryNotFoundError) else None) or error


def _status_of(error: BaseException) -> int | None:
    """HTTP status of a Hub error; None without an answer."""
    cause = _cause_of(error)
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
