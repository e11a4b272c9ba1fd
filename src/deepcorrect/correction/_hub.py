"""Adapters on the Hugging Face Hub, or on a server with the same interface (HF_ENDPOINT)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepcorrect.runtime import InputError, unreachable

PREFIX = "hf:"
SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def is_hub_spec(source: str | Path) -> bool:
    """Whether a source names a repository, as `hf:OWNER/NAME[@REVISION]` does."""
    return isinstance(source, str) and source.startswith(PREFIX)


def download(spec: str, names: Sequence[str]) -> Path:
    """Downloads files of a repository, or takes them from the cache.

    Args:
        spec: `hf:OWNER/NAME[@REVISION]`, where the revision is a branch, a tag or a commit.
        names: The names of the files to download.

    Returns:
        The folder with the files.

    Raises:
        InputError: The repository or the revision does not exist, may not be read, or is neither
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
                # if the hub is unreachable, the library would retry for minutes
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
    """Uploads files to a repository in one commit: all of them, or none.

    Args:
        folder: The folder of the files.
        names: The names of the files.
        repo: `OWNER/NAME`, with or without `hf:`. It is created if it does not exist.
        revision: The branch, created if it does not exist; None selects the main branch.
        private: Whether a new repository is private; None selects the owner's default.
        message: The commit message.

    Returns:
        The URL of the commit.

    Raises:
        InputError: The hub cannot be reached, or it does not let this user write there.
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
    """Turns errors of `huggingface_hub` into InputErrors of one line."""
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
    except OSError as error:  # such as broken connections
        raise InputError(f"{spec}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
