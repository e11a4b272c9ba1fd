"""Weights from the Hugging Face Hub and other hosts, or from their caches.

If a host cannot be reached, the error is one line that says what else can be done.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from deepcorrect.runtime import InputError, console, unreachable

REMEDY = "Give --weights FILE, or --weights random for an untrained network"


@contextmanager
def hugging_face(
    spec: str, what: str, *, local: bool = False, remedy: str = REMEDY
) -> Iterator[None]:
    """Lets the block's libraries download from the Hub, or read from their cache if it is offline.

    If the Hub cannot be reached, the libraries only look in the cache and do not retry. Pickles are
    read with `weights_only=True`, whatever a library asks for.

    Args:
        spec: The MODEL spec, for messages.
        what: What is loaded, for messages.
        local: Whether it is in a folder, so that nothing need be downloaded.
        remedy: What else the user can do, for messages.

    Raises:
        InputError: It is neither on the Hub nor in the cache, or it cannot be loaded.
    """
    from huggingface_hub import constants, errors, utils  # noqa: PLC0415  (slow to import)

    reason = None if local else unreachable(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    constants.HF_HUB_OFFLINE = local or before[0] or reason is not None
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    utils.logging.set_verbosity_error()
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise InputError(
            f"model {spec!r}: the Hugging Face Hub has no {what}, or it is private: "
            "check the name, or set HF_TOKEN"
        ) from error
    except (OSError, RuntimeError, errors.HfHubHTTPError) as error:
        if reason is None:
            first = str(error).strip().splitlines()[0]
            raise InputError(f"model {spec!r}: {what} could not be loaded: {first}") from error
        host = urllib.parse.urlsplit(constants.ENDPOINT).netloc
        raise _unreachable(spec, what, host, reason, remedy) from error
    finally:
        constants.HF_HUB_OFFLINE = before[0]
        if before[1] is None:
            os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before[1]


def download(spec: str, url: str, hash_prefix: str | None) -> Path:
    """The file at `url`, from PyTorch's cache or downloaded into it.

    Args:
        spec: The MODEL spec, for messages.
        url: The file's address.
        hash_prefix: The first digits of the file's SHA-256, which a download is checked against.

    Raises:
        InputError: The file is not in the cache and cannot be downloaded.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    host, reason = urllib.parse.urlsplit(url).netloc, unreachable(url)
    if reason is None:
        console().print(f"downloading {url} to {path.parent}", markup=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix)
            return path
        except (OSError, RuntimeError) as error:  # RuntimeError: the checksum differs
            reason = str(error)
    raise _unreachable(spec, name, host, reason, REMEDY)


def _unreachable(spec: str, what: str, host: str, reason: str, remedy: str) -> InputError:
    return InputError(
        f"model {spec!r}: {what} is not in the cache, and {host} cannot be reached ({reason}). "
        f"{remedy}"
    )
