"""Faults of the Hub: what passes is tried again, what does not is said in one sentence."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BUSY, OVERTAKEN = 5, 20  # attempts more while the Hub is busy, and while others commit
PATIENCE = 60  # seconds after which a busy Hub is not asked again; the client waits for it too, half a minute


def retried(action: Callable[[], Any]) -> Any:
    """Repeat an action while the Hub is busy, cannot be reached, or somebody else has just committed."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    busy, overtaken, began = 0, 0, time.monotonic()
    while True:
        try:
            try:
                return action()
            except RuntimeError as error:  # of an upload: the fault of the Hub is its cause
                if isinstance(error.__cause__, HTTPError):
                    raise error.__cause__ from None
                raise
        except (HTTPError, LocalEntryNotFoundError) as error:  # the second: a download that does not get through
            cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
            status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
            if status in (409, 412) and overtaken < OVERTAKEN:
                overtaken += 1  # of several committers each time one gets through
                time.sleep(random.uniform(0, 0.3))
            elif _passes(error, status) and busy < BUSY and time.monotonic() - began < PATIENCE:
                time.sleep(0.5 * 2**busy * random.uniform(0.5, 1))
                busy += 1
            else:
                raise


def _passes(error: Exception, status: int | None) -> bool:
    """Whether a fault is one that may be gone at the next attempt."""
    return not _is_odd_token(error) if status is None else status == 429 or status >= 500


def _is_odd_token(error: Exception) -> bool:
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
