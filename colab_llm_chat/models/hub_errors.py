"""What the Hub's client raises, as errors that say what happened and what to do next.

The client's messages are not repeated whole: they are long, and no credential may reach a log or a page.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HubUnreachable, LoadError, ModelGated, ModelNotFound

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_TOKEN_HINT = "Make a new one at https://huggingface.co/settings/tokens and give it by --hf-token or HF_TOKEN."


@dataclass(frozen=True)
class Asked:
    """What was asked of the Hub, as far as an error may tell."""

    model_id: str
    revision: str | None
    has_token: bool
    folder: Path


@contextmanager
def hub_errors(asked: Asked) -> Iterator[None]:
    """Turns what the Hub's client or the disk raises into one LoadError."""
    from huggingface_hub import errors

    # httpx in the client's first major version, httpx2 in its second: the client knows which.
    transport_error: type[Exception] = vars(errors)["HTTPError"]
    try:
        yield
    except (OSError, ValueError, RuntimeError, transport_error, errors.XetDownloadError) as error:
        raise _load_error(error, asked, transport_error) from error


def _load_error(error: BaseException, asked: Asked, transport_error: type[Exception]) -> LoadError:
    from huggingface_hub import errors

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, errors.HfHubHTTPError):
            return _refused(cause, asked)
        if isinstance(cause, errors.HFValidationError):
            return ModelNotFound(f"{asked.model_id!r} is neither a Hub id nor an existing folder.")
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return HubUnreachable(
                f"{asked.model_id} is not complete in {asked.folder}, and HF_HUB_OFFLINE keeps the Hub out of reach.",
                hint="Unset HF_HUB_OFFLINE, or give the path of a folder that already holds the model.",
            )
        if isinstance(cause, (transport_error, ConnectionError, TimeoutError)):
            return HubUnreachable(
                f"The Hugging Face Hub could not be reached for {asked.model_id} ({type(cause).__name__})."
            )
        if isinstance(cause, OSError) and cause.errno is not None:
            return disk_error(cause, asked.folder)
        cause = cause.__cause__
    return HubUnreachable(
        f"Downloading {asked.model_id} broke off ({type(error).__name__}).",
        hint="Start again: finished files are kept. If it happens again, look at the log and the network.",
    )


def _refused(error: HfHubHTTPError, asked: Asked) -> LoadError:
    """The Hub answered, with an error status."""
    from huggingface_hub import errors

    status = error.response.status_code
    name = asked.model_id
    if isinstance(error, errors.GatedRepoError) or (status == 403 and not isinstance(error, errors.DisabledRepoError)):
        return _gated(asked)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(
            f"{name} has no revision {asked.revision!r} on the Hub.",
            hint="Give a branch, tag or full commit of the model, or leave --revision out.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(asked)
    if status == 401:
        return LoadError(f"The Hub refused the token sent for {name} (status 401).", hint=_TOKEN_HINT)
    if status == 429 or status >= 500:
        return HubUnreachable(
            f"The Hub answered status {status} for {name}.",
            hint="Wait a minute and start again; https://status.huggingface.co tells of disturbances.",
        )
    return LoadError(f"The Hub answered status {status} for {name}.", hint="Open the model's page on the Hub.")


def _gated(asked: Asked) -> ModelGated:
    page = f"https://huggingface.co/{asked.model_id}"
    if asked.has_token:
        return ModelGated(
            f"{asked.model_id} is gated, and the token given does not open it.",
            hint=f"Accept the terms on {page} with the token's account; a fine-grained token must allow gated models.",
        )
    return ModelGated(
        f"{asked.model_id} is gated, and no Hub token was given.",
        hint=f"Accept the terms on {page}, then give your Hub token by --hf-token or HF_TOKEN.",
    )


def _not_found(asked: Asked) -> ModelNotFound:
    who = "with the token given" if asked.has_token else "without a token"
    return ModelNotFound(
        f"The Hub has no model {asked.model_id!r} that can be seen {who}.",
        hint="Check the spelling (OWNER/NAME); a private model needs a token: --hf-token or HF_TOKEN.",
    )


def disk_error(error: OSError, folder: Path) -> LoadError:
    """The folder for the download is full or cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return no_room(folder, None)
    return LoadError(
        f"The folder {folder} cannot be written ({error.strerror}).",
        hint="Make that folder writable, or choose another one with --model-dir.",
    )


def no_room(folder: Path, needed: int | None) -> LoadError:
    """The disk is, or would be, full; `needed` bytes are still to come, when known."""
    size = "" if needed is None else f" {needed / 1e9:.1f} GB are needed."
    return LoadError(
        f"There is no room left on the disk of {folder}.{size}",
        hint="Free some space on that disk, or choose a smaller model by --model-name.",
    )
