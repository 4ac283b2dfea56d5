"""Sends prepared files to a repository on the Hub, in one commit, and says in one line what went wrong."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session

from lung_srad_cli.publishing.repository_files import RepositoryFile
from modeling_lung_srad.errors import InputError, one_line

OFFICIAL_ENDPOINT = "https://huggingface.co"
LOG_IN = "log in by `hf auth login` with a token that may write"
AGAIN = "the same command goes on from there"


class Upload(NamedTuple):
    """
    The result of an upload.

    Args:
        url (`str`): of the repository.
        commit (`str`): its hash.
        is_private (`bool`): `True` for a private repository.
        changed (`bool`): `True` where the upload changed anything.
    """

    url: str
    commit: str
    is_private: bool
    changed: bool


def require_token() -> None:
    """Raises [`InputError`] where nobody is logged in or the network is switched off; asks no server."""
    if constants.is_offline_mode():
        raise InputError("HF_HUB_OFFLINE", "is set, which forbids every upload", "unset it")
    if huggingface_hub.get_token() is None:
        raise InputError("token", f"you are not logged in to {constants.ENDPOINT}", LOG_IN)


def require_model(repo_id: str) -> None:
    """Raises [`InputError`] for a model that the user cannot read on the Hub."""
    api = HfApi()
    with _errors_in_one_line(f"model {repo_id}", api.endpoint):
        api.model_info(repo_id)


def upload_files(
    files: Sequence[RepositoryFile],
    repo_id: str,
    repo_type: str,
    public: bool = False,
    message: str = "Upload by lung-srad publish",
    variables: dict[str, str | None] | None = None,
    space_sdk: str | None = None,
) -> Upload:
    """
    Creates the repository where it does not exist and uploads the files in one commit.

    What arrived in an interrupted upload is not sent again, nor is a file that is there with the same content. Other
    files of the repository stay.

    Args:
        files (sequence of [`RepositoryFile`]): what to upload.
        repo_id (`str`): such as `user/name`.
        repo_type (`str`): `model`, `dataset` or `space`.
        public (`bool`, *optional*, defaults to `False`): whether a new repository is public.
        message (`str`, *optional*): of the commit.
        variables (`dict[str, str | None]`, *optional*):
            public environment variables of a Space, set after the commit; `None` for one to remove.
        space_sdk (`str`, *optional*): of a new Space, `gradio` or `static`.

    Returns:
        [`Upload`]

    Raises:
        InputError: naming the repository and the remedy.
    """
    require_token()
    api = HfApi()
    with _errors_in_one_line(f"{repo_type} {repo_id}", api.endpoint):
        url = api.create_repo(repo_id, repo_type=repo_type, private=not public, exist_ok=True, space_sdk=space_sdk)
        before: Any = api.repo_info(repo_id, repo_type=repo_type)
        if before.private is False and not public:
            raise InputError(
                f"{repo_type} {repo_id}",
                "exists already and is public",
                "give --public to upload to it all the same, or make it private in its settings",
            )
        _use_plain_transfer_where_xet_is_missing(api, repo_id, repo_type)
        operations = [
            CommitOperationAdd(file.path, file.source if isinstance(file.source, bytes) else str(file.source))
            for file in files
        ]
        commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)
        for key, value in (variables or {}).items():
            if value is not None:
                api.add_space_variable(repo_id, key, value)
            elif key in api.get_space_variables(repo_id):
                api.delete_space_variable(repo_id, key)
    return Upload(str(url), commit.oid, bool(before.private), commit.oid != before.sha)


def _use_plain_transfer_where_xet_is_missing(api: HfApi, repo_id: str, repo_type: str) -> None:
    """Sends large files by Git LFS to a Hub without Xet storage.

    `huggingface_hub` sends them by Xet wherever hf_xet is installed, without asking the server.
    """
    if api.endpoint == OFFICIAL_ENDPOINT or constants.HF_HUB_DISABLE_XET:
        return
    address = f"{api.endpoint}/api/{repo_type}s/{repo_id}/xet-write-token/main"
    if get_session().get(address, headers=build_hf_headers()).status_code == 404:
        constants.HF_HUB_DISABLE_XET = True


@contextlib.contextmanager
def _errors_in_one_line(repository: str, endpoint: str) -> Iterator[None]:
    """Turns what `huggingface_hub` raises into a [`InputError`]."""
    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled as error:
        raise InputError("HF_HUB_OFFLINE", "is set, which forbids every upload", "unset it") from error
    except LocalTokenNotFoundError as error:
        raise InputError("token", f"you are not logged in to {endpoint}", LOG_IN) from error
    except HFValidationError as error:
        raise InputError(repository, f"is not an id of a repository ({error})", "write user/name") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(endpoint, "does not answer as a Hugging Face Hub", "check HF_ENDPOINT") from error
    except (HTTPError, ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        # Large files are sent by threads, whose error is the cause of a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise _explain(cause, repository, endpoint) from error


def _explain(error: BaseException, repository: str, endpoint: str) -> InputError:
    if isinstance(error, HfHubHTTPError):
        return _explain_answer(error, repository, endpoint)
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        problem = f"cannot be reached, or broke off ({one_line(error)})"
        return InputError(endpoint, problem, f"check the network and HF_ENDPOINT; {AGAIN}")
    return InputError(repository, f"was refused ({one_line(error)})", "correct it")


def _explain_answer(error: HfHubHTTPError, repository: str, endpoint: str) -> InputError:
    status = error.response.status_code
    said = " ".join((error.server_message or "").split())[:200]
    if status == 401:
        return InputError("token", f"{endpoint} does not know it, or it has expired", LOG_IN)
    if status == 403:
        reason = f" ({said})" if said else ""
        problem = f"your token may not write there{reason}"
        return InputError(repository, problem, f"name a repository of your own, or {LOG_IN}")
    if status == 402:
        problem = f"your account may not create it ({said or 'payment required'})"
        return InputError(repository, problem, f"see {endpoint}/pricing")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return InputError(repository, "does not exist for your token", f"check the id, or {LOG_IN}")
    if isinstance(error, BadRequestError) or status < 500:
        problem = f"{endpoint} refused it with {status} ({said or 'no reason given'})"
        return InputError(repository, problem, "correct it")
    return InputError(endpoint, f"failed with {status} ({said or 'no reason given'})", f"try later, {AGAIN}")
