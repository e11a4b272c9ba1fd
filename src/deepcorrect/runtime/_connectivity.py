"""Whether the host of a URL can be reached."""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT_SECONDS = 5.0
"""The time in which a host must answer."""


def unreachable(url: str) -> str | None:
    """The reason why the host of `url` cannot be reached, or None if it answers.

    This sends one request, through the proxies that the environment names. The download functions
    of several libraries would instead retry for minutes. With the environment variable
    HF_HUB_OFFLINE set, nothing is sent and every host counts as unreachable.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    parts = urllib.parse.urlsplit(url)
    answers: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
            answers.append(None)
        except urllib.error.HTTPError:
            answers.append(None)  # an error status is an answer
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            no_name = isinstance(reason, socket.gaierror)
            answers.append("its name cannot be resolved" if no_name else str(reason))

    # a name lookup has no timeout of its own, so it runs in a thread that may be left behind
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS + 1)
    return answers[0] if answers else f"no answer within {TIMEOUT_SECONDS:g} seconds"
