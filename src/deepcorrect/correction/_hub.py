"""Adapters at the Hugging Face Hub, or at a server with its file interface (HF_ENDPOINT)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepcorrect.runtime import InputError, unreachable

PREFIX = "hf:"
SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def is_hub_spec(source: str | Path) -> bool:
    """Whether an adapter is named by its repository: `hf:OWNER/NAME[@REVISION]`."""
    return isinstance(source, str) and source.startswith(PREFIX)


def download(spec: str, names: Sequence[str]) -> Path:
    """The folder of a repository's files, downloaded or in the cache.

    Args:
        spec: `hf:OWNER/NAME[@REVISION]`, the revision a branch, a tag or a commit.
        names: of the files to fetch.

    Raises:
        InputError: there is no such repository or revision, it may not be read, or it is neither
            reachable nor in the cache.
    """
    found = SPEC.fullmatch(spec)
    if found is None:
        raise InputError(f"adapter {spec!r} is not hf:OWNER/NAME[@REVISION]")
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415  (slow to import)

    reason = unreachable(constants.ENDPOINT)
    with _explained(spec, reason):
        return Path(
            snapshot_download(
                found["repo"],
                revision=found["revision"],
                allow_patterns=list(names),
                # without the hub the cache alone; the libraries would try again for minutes
                local_files_only=reason is not None,
            )
        )


def upload(
    folder: Path,
    names: Sequence[str],
    repo: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    message: str = "Upload adapter",
) -> str:
    """Puts files into a repository in one commit: all of them, or none.

    Args:
        folder: where they are.
        names: of the files.
        repo: `OWNER/NAME`, with or without `hf:`; made if absent.
        revision: the branch; made if absent. None takes the main one.
        private: of a new repository; None takes the owner's default.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        InputError: the hub cannot be reached, or does not let this user write there.
    """
    spec = f"{PREFIX}{repo.removeprefix(PREFIX)}"
    found = SPEC.fullmatch(spec)
    if found is None or found["revision"]:
        raise InputError(f"repository {repo!r} is not OWNER/NAME")
    from huggingface_hub import CommitOperationAdd, HfApi, constants  # noqa: PLC0415

    reason = unreachable(constants.ENDPOINT)
    if reason is not None:
        raise InputError(f"{spec} cannot be written: the hub cannot be reached ({reason})")
    with _explained(spec, None):
        api = HfApi(endpoint=constants.ENDPOINT)
        api.create_repo(found["repo"], private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(found["repo"], branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, folder / name) for name in names]
        done = api.create_commit(
            found["repo"], operations, commit_message=message, revision=revision
        )
    return str(done.commit_url)


@contextmanager
def _explained(spec: str, reason: str | None) -> Iterator[None]:
    """Turns the library's errors into one line each."""
    from huggingface_hub import errors, utils  # noqa: PLC0415

    utils.logging.set_verbosity_error()
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(f"{spec} is gated: ask its owner for access, and set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{spec}: the repository has no such branch, tag or commit") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"the hub has no repository {spec}, or it is private: check the name, or set HF_TOKEN "
            "(or 'hf auth login')"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{spec} is not in the cache, and the hub cannot be reached "
            f"({reason or 'it did not answer'}): give the adapter's folder"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(
                f"the hub does not let you write to {spec}: set HF_TOKEN to a token with write "
                "access (or 'hf auth login')"
            ) from error
        raise InputError(f"{spec}: the hub answered {_first_line(error)}") from error
    except (errors.HFValidationError, ValueError) as error:
        raise InputError(f"{spec} is not accepted: {_first_line(error)}") from error
    except OSError as error:  # connections that break, among others
        raise InputError(f"{spec}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
