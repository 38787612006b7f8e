"""Faults of the Hub: what passes is tried again, what does not is said in one sentence."""

from __future__ import annotations

import errno
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BUSY, OVERTAKEN = 5, 20  # attempts more while the Hub is busy, and while others commit
WAIT = 60  # seconds for an answer; the client alone would wait for ever
PATIENCE = 60  # seconds after which a busy Hub is not asked again; the client waits for it too, half a minute


def retried(action: Callable[[], Any]) -> Any:
    """Repeat an action while the Hub is busy, cannot be reached, or somebody else has just committed."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    busy, overtaken, began = 0, 0, time.monotonic()
    while True:
        try:
            try:
                _wait_at_most(WAIT)
                return action()
            except (KeyError, TypeError, json.JSONDecodeError) as error:
                raise ValueError(
                    f"What answers at {constants.ENDPOINT} is not the Hub ({type(error).__name__}): log in to the "
                    "network, or look at HF_ENDPOINT."
                ) from None
            except RuntimeError as error:  # of an upload: the fault of the Hub is its cause
                if isinstance(error.__cause__, HTTPError):
                    raise error.__cause__ from None
                raise
        except (HTTPError, LocalEntryNotFoundError) as error:  # the second: a download that does not get through
            if _status_of(error) in (409, 412) and overtaken < OVERTAKEN:
                overtaken += 1  # of several committers each time one gets through
                time.sleep(random.uniform(0, 0.3))
            elif may_pass(error) and busy < BUSY and time.monotonic() - began < PATIENCE:
                time.sleep(0.5 * 2**busy * random.uniform(0.5, 1))
                busy += 1
            else:
                raise


def _wait_at_most(seconds: float) -> None:
    """Give the client of this process a time limit where it has none."""
    from huggingface_hub.utils import get_session

    session = get_session()
    if getattr(session.timeout, "read", seconds) is None:
        session.timeout = seconds


def _status_of(error: BaseException) -> int | None:
    """HTTP status of a fault of the Hub; None where there was no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None


def may_pass(error: BaseException) -> bool:
    """Whether a fault is one of the Hub or the connection that may be gone at the next attempt."""
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of an upload
        error = error.__cause__
    status = _status_of(error)
    if not isinstance(error, HTTPError | LocalEntryNotFoundError) or _is_odd_token(error):
        return False
    return status is None or status == 429 or status >= 500


def _is_odd_token(error: BaseException) -> bool:
    """Whether a token has characters that no header can hold."""
    return isinstance(error, UnicodeEncodeError) or type(error).__name__ == "LocalProtocolError"


def sentence_of(error: BaseException, repo_id: str) -> str:
    """What `told` would say of an error."""
    try:
        with told(repo_id):
            raise error
    except (ValueError, OSError) as raised:
        return " ".join(str(raised).split())
    except Exception as raised:
        return f"{type(raised).__name__}."


@contextmanager
def told(repo_id: str) -> Iterator[None]:
    """Faults of the Hub as one sentence that says what to do; it never holds a token."""
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

    login = "log in with `hf auth login`, or set HF_TOKEN"
    unknown = f"The Hub does not accept this token (401): {login}."
    try:
        yield
    except LocalTokenNotFoundError:
        message = f"Publishing {repo_id} needs a token of the Hub: {login}."
    except OfflineModeIsEnabled:
        message = f"{repo_id} cannot be reached: HF_HUB_OFFLINE is set."
    except LocalEntryNotFoundError:
        message = f"{repo_id} is not in the cache and the Hub cannot be reached: look at the connection."
    except GatedRepoError:
        message = f"{repo_id} is gated: ask for access on its page, then {login} of the account that was let in."
    except RevisionNotFoundError:
        message = f"{repo_id} has no such revision: look at its branches and tags."
    except HFValidationError:
        message = f"{repo_id!r} is no name of a repository: expected NAMESPACE/NAME of letters, digits, - _ and '.'."
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401 and not isinstance(error, RepositoryNotFoundError):
            message = unknown
        elif status in (401, 404):
            message = f"{repo_id} does not exist, or is private and this token may not read it ({status}): {login}."
        elif status == 403:
            message = (
                f"This token may not do that with {repo_id} (403): it needs the permission to write in "
                f"{repo_id.partition('/')[0]} (huggingface.co/settings/tokens)."
            )
        elif status in (409, 412):
            message = f"Others kept committing to {repo_id} ({status}): run the command again."
        elif status < 500 and status != 429:
            reason = " ".join((error.server_message or "no reason").split())[:200]
            message = f"The Hub refuses this for {repo_id} ({status}): {reason}."
        else:
            message = f"The Hub answers {status} for {repo_id}: run the command again later; what is done stays."
    except (HTTPError, UnicodeEncodeError) as error:
        message = f"The Hub cannot be reached ({type(error).__name__}): look at the connection and run it again."
        if _is_odd_token(error):
            message = unknown
    except OSError as error:
        advice = {
            **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room and run it again"),
            **dict.fromkeys((errno.EACCES, errno.EROFS), "set HF_HOME to a folder that you may write"),
        }.get(error.errno or 0)
        if advice is None:
            raise
        raise OSError(f"{repo_id} could not be downloaded ({error.strerror}): {advice}.") from None
    else:
        return
    raise ValueError(message)
