"""Every knob once: default, bounds and help.

Command-line flags, the README's table and the limits of requests and of the page all derive from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo

VERSION = "0.1.0"
DEMO_MODEL = "catbot"
# Larger counts mean nothing, and break 32-bit arithmetic further down.
LARGEST_COUNT = 2**31 - 1
# Requests in the background that can be alive at once, beside those of people.
BACKGROUND_PLACES = 8
# An empty code is none, so that a flag can take back what a file or the environment sets.
Code = Annotated[str | None, AfterValidator(lambda code: code or None)]


class SamplingParams(BaseModel):
    """How one reply is drawn; a request overrides these field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_new_tokens: int = Field(512, ge=1, le=LARGEST_COUNT, description="Longest reply, in tokens of the model.")
    temperature: float = Field(
        0.7, ge=0, le=2, description="Randomness of the reply; 0 always takes the likeliest token."
    )
    top_p: float = Field(
        0.9, gt=0, le=1, description="Draw from the likeliest tokens that reach this probability; 1 is off."
    )
    top_k: int = Field(50, ge=0, le=LARGEST_COUNT, description="Draw from this many likeliest tokens; 0 is off.")
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Leave out tokens less likely than this share of the likeliest one; 0 is off.",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Above 1 makes tokens already in the conversation less likely; 1 is off.",
    )
    no_repeat_ngram_size: int = Field(
        0, ge=0, le=LARGEST_COUNT, description="Never repeat a run of this many tokens; 0 is off."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Makes a token less likely for each time the reply has it; 0 is off."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Makes a token less likely once the reply has it; 0 is off."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="The same seed and request give the same reply; unset draws anew."
    )

    @property
    def penalises(self) -> bool:
        """Whether what the conversation has makes a token less or more likely."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0


class TokenRules(BaseModel):
    """What one request asks of single tokens; none of it is a setting of the server.

    `logit_bias` is added to the logits of its ids. `top_logprobs` asks for the log-probability of each token and of so
    many alternatives; None asks for none. Before `min_tokens` the reply cannot end, with `ignore_eos` only by length.
    `grammar` (as llguidance writes them) allows only the tokens that keep to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    logit_bias: dict[int, float] = Field(default_factory=dict)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    min_tokens: int = Field(0, ge=0, le=LARGEST_COUNT)
    ignore_eos: bool = False
    grammar: str | None = None


class Settings(SamplingParams):
    """How the server runs. The inherited fields are what a request gets when it does not say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    model_id: str = Field(
        DEMO_MODEL,
        min_length=1,
        description="Hub id (OWNER/NAME) or folder; `catbot` is the bundled demo model.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the model on the Hub.")
    hf_token: SecretStr | None = Field(None, description="Hub credential for gated models.")
    model_dir: str | None = Field(
        None, description="Folder that keeps downloaded models; unset is the Hub's own cache."
    )
    use_google_drive_cache: bool = Field(
        False,
        description="model_dir is on Google Drive or as slow: models load from local disk, copies are kept there.",
    )
    quantization: Literal["none", "8bit", "4bit", "auto"] = Field(
        "none", description="Smaller weights by bitsandbytes; auto takes 4bit below 24 GB of GPU memory."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Number format of the weights; auto goes by the hardware."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    compile: bool = Field(
        False, description="Compile the model's layers by torch.compile: a slower first start, kept for later ones."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
    system: str | None = Field(None, description="System prompt for conversations that bring none.")
    persona: str | None = Field(
        None, description="System prompt with defaults of a reply: a bundled name such as `coder`, or a YAML file."
    )
    language_source: Code = Field(
        None, description="Language of what translation models get, as a FLORES-200 code such as `eng_Latn`."
    )
    language_target: Code = Field(
        None, description="Language that translation models write, as a FLORES-200 code such as `jpn_Jpan`."
    )
    strict_model: bool = Field(
        False, description="Refuse `/v1` requests that name another model, instead of answering them with this one."
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(5000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    access_key: str | None = Field(
        None,
        # White space at the ends does not survive an HTTP header.
        pattern=r"^(\S(.*\S)?)?$",
        # Whoever looks at the settings in a notebook saves what they see.
        repr=False,
        description="Key that opens the server; made at start when reachable from outside, empty opens it to all.",
    )
    tunnel: Literal["none", "ngrok", "colab"] = Field(
        "none", description="Public address: by ngrok, or the private link that Colab gives each notebook."
    )
    domain: str | None = Field(None, description="Domain of your ngrok account; unset takes the account's own.")
    ngrok_token: SecretStr | None = Field(None, description="Your ngrok authtoken, for `--tunnel ngrok`.")
    allowed_hosts: str = Field(
        "", description="Further hosts it answers to, as NAME or NAME:PORT, separated by commas."
    )
    max_body_bytes: int = Field(4 * 2**20, ge=1024, le=15 * 2**20, description="Largest request body, in bytes.")
    max_message_characters: int = Field(
        100_000, ge=1, description="Longest message, in characters; also for the system prompt."
    )

    max_rows: int = Field(16, ge=1, le=256, description="Replies generated at the same time.")
    max_queue: int = Field(112, ge=0, le=4096, description="Requests that may wait for a free row; beyond it 429.")
    context_length: int | None = Field(
        None, ge=16, description="Longest conversation, in tokens; unset is what the model was made for."
    )
    load_wait_seconds: float = Field(
        600, gt=0, description="How long a request waits for the model to load before it gets 503."
    )
    step_timeout_seconds: float = Field(
        120, gt=0, description="An engine step longer than this counts as hung; the engine is started again."
    )
    ping_seconds: float = Field(10, gt=0, description="Silence after which a stream sends a comment line.")

    @property
    def sampling(self) -> SamplingParams:
        """The defaults of one reply. What nobody set is not set there either: translations are drawn otherwise then."""
        return SamplingParams(**self.model_dump(include=set(SamplingParams.model_fields), exclude_unset=True))

    @property
    def max_requests(self) -> int:
        """Requests that can be alive at once, running and waiting together."""
        return self.max_rows + self.max_queue


def flag_of(field: str) -> str:
    """The command-line flag of a field: `model_id` is `--model-name`, any other by its own name."""
    return "--model-name" if field == "model_id" else "--" + field.replace("_", "-")


def settings_fields() -> dict[str, FieldInfo]:
    """All fields in the order in which people read of them: the server's first, then a reply's."""
    fields = Settings.model_fields
    return dict(sorted(fields.items(), key=lambda item: item[0] in SamplingParams.model_fields))


def markdown_table() -> str:
    """README's settings table."""
    rows = ["| flag | default | what it does |", "| --- | --- | --- |"]
    for name, field in settings_fields().items():
        default = "" if field.default is None or field.default == "" else f"`{field.default}`"
        rows.append(f"| `{flag_of(name)}` | {default} | {field.description} |")
    return "\n".join(rows)
