"""One exception tree; each class is one kind of failure with one HTTP status, one code and one way out.

ChatError
├── InvalidRequest ── UnsupportedParameter, ContextLengthExceeded, UnknownModel, RouteNotFound,
│                     MethodNotAllowed, BodyTooLarge, UnsupportedMediaType, OriginRefused
├── InvalidAccessKey
├── ServerBusy ────── QueueFull, ModelLoading
├── GenerationFailed ─ OutOfMemory, EngineFailed
├── LoadError ─────── ModelNotFound, ModelGated, HubUnreachable, BrokenModel, TokenizerMissing,
│                     UnsupportedModel, ModelTooLarge
├── ColabError ────── LoadInterrupted
│                     SecretMissing ── SecretNotGranted, SecretUnreadable
│                     DriveUnavailable ── DriveRefused, DriveCopyFailed
├── TunnelError ───── NgrokTokenMissing, NgrokTokenRefused, TooManySessions, EndpointOnline, DomainRefused,
│                     AgentRefused, AgentMissing, AgentSilent
├── UpstreamError ── drawn in upstream.py
└── UsageError
"""

from __future__ import annotations

from typing import Any, ClassVar

from . import form


class ChatError(Exception):
    """What happened (`message`), which field is at fault (`param`) and what to do next (`hint`)."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "Look at the server's log for the cause, then try again."

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after: int | None = None,
        japanese: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.japanese = japanese
        self.param = param
        self.hint = hint or self.default_hint
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """The `error` object of API.md; also the form in which an error crosses the engine's pipe."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code, "hint": self.hint}

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to this error (RFC 9110 section 10.2.3 for Retry-After, in seconds)."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows below the cell in place of a traceback; the name is IPython's."""
        kinds = [kind.__name__ for kind in type(self).__mro__]
        return form.told(self.message, self.hint, self.japanese, kinds=kinds)

    @staticmethod
    def from_dict(error: dict[str, Any]) -> ChatError:
        """The exception that `to_dict` described; an unknown code becomes a plain ChatError."""
        pending: list[type[ChatError]] = [ChatError]
        while pending:
            kind = pending.pop()
            if kind.code == error["code"]:
                return kind(error["message"], param=error["param"], hint=error["hint"])
            pending += kind.__subclasses__()
        return ChatError(error["message"], param=error["param"], hint=error["hint"])


class InvalidRequest(ChatError):
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"
    exit_code = 2
    default_hint = "Correct the request and send it again."


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"
    default_hint = "Leave this field out."


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"
    default_hint = "Shorten the message, or start a new conversation."


class UnknownModel(InvalidRequest):
    status = 404
    code = "model_not_found"
    default_hint = "GET /v1/models lists what this server has."


class RouteNotFound(InvalidRequest):
    status = 404
    code = "route_not_found"
    default_hint = "GET / is the page, POST /chat and POST /v1/chat/completions answer, GET /health tells the state."


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"
    default_hint = "Use one of the methods in the Allow header."


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "body_too_large"
    default_hint = "Send a shorter message or less history."


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"
    default_hint = "Send JSON with the header Content-Type: application/json."


class OriginRefused(InvalidRequest):
    status = 403
    code = "origin_refused"
    default_hint = "Open the page by the link that the server printed, or add the host to --allowed-hosts."


class InvalidAccessKey(ChatError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"
    default_hint = "Send the header Authorization: Bearer KEY; the server printed the key when it started."

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "WWW-Authenticate": "Bearer"}


class ServerBusy(ChatError):
    status = 503
    code = "server_busy"
    type = "server_error"
    default_hint = "Wait a few seconds, then send the same request again."


class QueueFull(ServerBusy):
    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


class ModelLoading(ServerBusy):
    code = "model_loading"
    default_hint = "The model is still loading; GET /health tells when it is ready."


class GenerationFailed(ChatError):
    code = "generation_failed"
    default_hint = "Send the message again; the server's log names the cause."


class OutOfMemory(GenerationFailed):
    status = 503
    code = "out_of_memory"
    default_hint = "Shorten the conversation, lower max_new_tokens, or load the model with --quantization 4bit."

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "x-should-retry": "false"}


class EngineFailed(GenerationFailed):
    status = 503
    code = "engine_failed"
    default_hint = "The engine is being started again; send the message again in a few seconds."


class LoadError(ChatError):
    """The model cannot be had; `/health` says `failed` and every request gets this error."""

    status = 503
    exit_code = 2
    code = "model_load_failed"
    default_hint = "Look at the server's log for the cause, then start it again."


class ModelNotFound(LoadError):
    code = "model_not_on_hub"
    default_hint = "Check the spelling: OWNER/NAME as on the Hub, or the path of a folder with config.json."


class ModelGated(LoadError):
    code = "model_gated"
    default_hint = "Accept the model's terms on its Hub page, then give your Hub token by --hf-token or HF_TOKEN."


class HubUnreachable(LoadError):
    code = "hub_unreachable"
    exit_code = 1
    default_hint = "Check the network, or give the path of a folder that already holds the model."


class BrokenModel(LoadError):
    code = "model_files_broken"
    default_hint = "Delete the folder's files and download the model again."


class TokenizerMissing(LoadError):
    code = "tokenizer_missing"
    default_hint = "Use a model that ships its tokenizer (tokenizer.json, tokenizer.model or vocab.json)."


class UnsupportedModel(LoadError):
    code = "model_unsupported"
    default_hint = "Pick a text-generation model with safetensors weights."


class ModelTooLarge(LoadError):
    code = "model_too_large"
    default_hint = "Set --quantization 4bit, pick a smaller model by --model-name, or use a GPU with more memory."


class ColabError(ChatError):
    """Met only in a notebook: message and hint in English, `japanese` says the same for Japanese readers."""

    code = "colab_error"

    def __str__(self) -> str:
        """What happened and the next step: a line in English, a line in Japanese."""
        return f"{self.message} {self.hint}\n{self.japanese}".rstrip()


class LoadInterrupted(ColabError):
    code = "load_interrupted"
    default_hint = "Run this cell again to load the model."


class SecretMissing(ColabError):
    """A secret cannot be had, for the reason that its class names; this one: nobody has set it."""

    code = "secret_missing"
    default_hint = "Add the secret by the key icon on the left of the notebook, or set the environment variable."


class SecretNotGranted(SecretMissing):
    code = "secret_not_granted"
    default_hint = "Switch on notebook access beside the secret, by the key icon on the left of the notebook."


class SecretUnreadable(SecretMissing):
    code = "secret_unreadable"
    default_hint = "Keep the notebook open in the browser, and run the cell again."


class DriveUnavailable(ColabError):
    """Drive cannot keep models; the chat works without it."""

    code = "drive_unavailable"
    default_hint = "Run the Drive cell again, or set USE_GOOGLE_DRIVE_CACHE to False."


class DriveRefused(DriveUnavailable):
    code = "drive_refused"
    default_hint = "Run the Drive cell again and allow access in the pop-up."


class DriveCopyFailed(DriveUnavailable):
    code = "drive_copy_failed"
    default_hint = "Free some space on Drive, or give another folder as MODEL_DIR."


class TunnelError(ChatError):
    """No public address; only the command line and the notebook see it. Never holds the ngrok token."""

    status = 503
    code = "tunnel_failed"
    default_hint = "Check the network and https://status.ngrok.com, then open the tunnel again."


class NgrokTokenMissing(TunnelError):
    code = "ngrok_token_missing"
    exit_code = 2
    default_hint = (
        "Copy your authtoken from https://dashboard.ngrok.com/get-started/your-authtoken into the Colab secret "
        "NGROK_AUTHTOKEN (the key icon on the left), or into the environment variable of that name."
    )


class NgrokTokenRefused(TunnelError):
    code = "ngrok_token_refused"
    exit_code = 2
    default_hint = (
        "Copy the authtoken anew from https://dashboard.ngrok.com/get-started/your-authtoken: "
        "the token alone, without the command around it."
    )


class TooManySessions(TunnelError):
    code = "ngrok_too_many_sessions"
    default_hint = "End the other one at https://dashboard.ngrok.com/agents, then open the tunnel again."


class EndpointOnline(TunnelError):
    code = "ngrok_endpoint_online"
    default_hint = (
        "End the agent that holds it at https://dashboard.ngrok.com/agents (most likely an earlier notebook), "
        "then open the tunnel again."
    )


class DomainRefused(TunnelError):
    code = "ngrok_domain_refused"
    exit_code = 2
    default_hint = "Give one listed at https://dashboard.ngrok.com/domains by --domain, or leave that empty."


class AgentRefused(TunnelError):
    code = "ngrok_agent_refused"


class AgentMissing(TunnelError):
    code = "ngrok_agent_missing"
    default_hint = (
        "Check the network and open the tunnel again, or install ngrok from https://ngrok.com/download "
        "and name its path in PYNGROK_NGROK_PATH."
    )


class AgentSilent(TunnelError):
    code = "ngrok_agent_silent"


class UsageError(ChatError):
    """A setting or flag is wrong; only the command line and the notebook see it."""

    status = 400
    code = "usage_error"
    type = "invalid_request_error"
    exit_code = 2
    default_hint = "See colab-llm-chat serve --help."
