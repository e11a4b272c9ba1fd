"""Weights from elsewhere: fetched where the host answers, refused in one line where it does not."""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request

PATIENCE = 5.0
"""Seconds in which a host must answer."""


def unreachable(url: str) -> str | None:
    """Why the host of `url` cannot be reached, or None where it answers.

    One request, through the proxies that the environment names; downloads of several libraries
    would instead retry for minutes.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    parts = urllib.parse.urlsplit(url)
    answers: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=PATIENCE).close()
            answers.append(None)
        except urllib.error.HTTPError:
            answers.append(None)  # it answered
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            answers.append(
                "its name is not known here" if isinstance(reason, socket.gaierror) else str(reason)
            )

    # looking up a name has no time limit of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    return answers[0] if answers else f"no answer within {PATIENCE:g} seconds"
