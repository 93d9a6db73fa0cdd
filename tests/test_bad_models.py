"""Models that cannot be used: one error each, with the next step, before the weights are fetched where possible."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from colab_llm_chat.chat import Chat
from colab_llm_chat.errors import BrokenModel, ChatError, LoadError, ModelGated, ModelNotFound
from colab_llm_chat.models.hub import DEMO_FOLDER, LARGE, fetch_model
from colab_llm_chat.models.load import load_model
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import wait_until
from tests.hub_standin import HubStandIn, ModelOnHub

WEIGHTS = "model.safetensors"
GOOD = {name: (DEMO_FOLDER / name).read_bytes() for name in ("config.json", "tokenizer.json", WEIGHTS)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
# Insufficient: of an account that has accepted no terms.
TOKEN = "hf_RecognisableValue"


def model(model_type: str | None, named: str | None = None, **fields: object) -> dict[str, bytes]:
    """A repository with this config.json, a tokenizer, and weights that nobody should want."""
    config = {"model_type": model_type, "architectures": [named] if named else None, **fields}
    known = {name: value for name, value in config.items() if value is not None}
    return {"config.json": json.dumps(known).encode(), "tokenizer.json": GOOD["tokenizer.json"], WEIGHTS: b"weights"}


OWN_CODE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
ADAPTER = {"adapter_config.json": b'{"base_model_name_or_path": "you/base"}', "adapter_model.safetensors": b"w"}
# Files, what the message says, what the hint says.
UNUSABLE: dict[str, tuple[dict[str, bytes], str, str]] = {
    "pictures": (model("vit", "ViTForImageClassification"), "a ViTForImageClassification: it works on pict", "Pick"),
    "pictures by type": (model("clip", "CLIPModel"), "CLIPModel: it works on pictures", "Pick"),
    "pictures by class": (model("sam3", "Sam3ForObjectDetection"), "works on pictures", "Pick"),
    "pictures into text": (model("blip-2", "Blip2ForConditionalGeneration"), "works on pictures", "Pick"),
    "pictures, rare": (model("superglue", "SuperGlueForKeypointMatching"), "superglue.*does not write text", "Pick"),
    "speech": (model("whisper", "WhisperForConditionalGeneration"), "works on sound", "Pick"),
    "speech by class": (model("data2vec-audio", "Data2VecAudioForCTC"), "works on sound", "Pick"),
    "embeddings": (model("qwen3", "Qwen3ForCausalLM") | {"modules.json": b"[]"}, "embedding model", "Pick"),
    "reading": (model("bert", "BertModel"), "BertModel: it reads text", "Pick"),
    "reading by class": (model("xlnet", "XLNetForSequenceClassification"), "reads text and does not write", "Pick"),
    "half a writer": (model("t5", "T5EncoderModel"), "T5EncoderModel: it reads text", "Pick"),
    "code": (model("own", auto_map=OWN_CODE), "Python code of its own", "--trust-remote-code"),
    "newer": (model("of_next_year", "NextForCausalLM"), "'of_next_year', which transformers 5", "pip install -U"),
    "no type": (model(None, "LlamaForCausalLM"), "names no model_type", "config.json anew"),
    "no JSON": (model("llama") | {"config.json": b"{ not"}, r"config\.json of .* cannot be read", "download"),
    "no object": (model("llama") | {"config.json": b"[]"}, "holds no JSON object", "download"),
    "strange values": (
        model("vit") | {"config.json": b'{"model_type": "vit", "architectures": 5}'},
        "a vit: it",
        "Pick",
    ),
    "adapter": (ADAPTER, "only adapter weights", "Load its base: -m you/base"),
    "adapter with config": (ADAPTER | {"config.json": b"{}"}, "only adapter weights", "-m you/base"),
    "adapter without base": (ADAPTER | {"adapter_config.json": b"{}"}, "only adapter weights", "Load its base"),
    "GGUF": ({"x.Q4_K_M.gguf": b"GGUF"}, r"only GGUF weights \(x\.Q4_K_M\.gguf\)", "with safetensors"),
    "GGUF with config": ({"x.gguf": b"", "config.json": b'{"model_type": "llama"}'}, "only GGUF", "with safetensors"),
    "diffusers": ({"model_index.json": b"{}", "unet/x.safetensors": b"w"}, "diffusers pipeline", "Pick"),
    "another format": ({"config.json": b'{"model_type": "gpt2"}', "tf_model.h5": b"h5"}, "it has tf_model.h5", "Pick"),
}
every_unusable = pytest.mark.parametrize(("files", "said", "hint"), UNUSABLE.values(), ids=UNUSABLE.keys())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    """For the client in this process, and by the environment for those that it starts."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HubStandIn() as standin:
        standin.tokens[TOKEN] = False
        standin.models["me/gated"] = ModelOnHub(dict(GOOD), gated=True)
        url = standin.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {"ENDPOINT": standin.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": url}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_ENDPOINT", standin.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield standin
    huggingface_hub.close_session()


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def failure(model_id: str, **options: object) -> LoadError:
    """What fetching and loading say, in that order."""
    settings = Settings(model_id=model_id, **options)  # type: ignore[arg-type]
    with pytest.raises(LoadError) as caught:
        load_model(fetch_model(settings).folder, settings=settings)
    return caught.value


def is_told(error: ChatError, name: str, said: str, hint: str) -> None:
    assert re.search(said, error.message), error.message
    assert hint in error.hint
    assert name in error.message
    assert "\n" not in error.message + error.hint
    assert error.exit_code == 2


@every_unusable
def test_on_the_hub_it_is_found_out_before_the_weights_are_fetched(
    files: dict[str, bytes], said: str, hint: str, hub: HubStandIn
) -> None:
    hub.models["me/bad"] = ModelOnHub(dict(files), sizes={WEIGHTS: LARGE})
    is_told(failure("me/bad"), "me/bad", said, hint)
    assert not [name for name in hub.fetched() if not name.endswith(".json")]


@every_unusable
def test_a_folder_is_refused_by_the_same_words(files: dict[str, bytes], said: str, hint: str, tmp_path: Path) -> None:
    is_told(failure(str(folder_of(files, tmp_path / "bad"))), "bad", said, hint)


@pytest.mark.parametrize(
    ("files", "said", "hint"),
    [
        ({"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["own.T", null]}}'}, "tokenizer of", "--trust-rem"),
        ({}, "no tokenizer", "ships its tokenizer"),
    ],
    ids=["own code", "none"],
)
def test_a_tokenizer_that_cannot_be_had_costs_no_weights_either(
    files: dict[str, bytes], said: str, hint: str, hub: HubStandIn
) -> None:
    hub.models["me/bad"] = ModelOnHub({"config.json": GOOD["config.json"], WEIGHTS: b"w", **files})
    is_told(failure("me/bad"), "me/bad", said, hint)
    assert WEIGHTS not in hub.fetched()


def test_a_card_names_the_model_that_was_made_gguf_of(hub: HubStandIn) -> None:
    hub.models["me/bad"] = ModelOnHub({"x.gguf": b"GGUF"}, card={"base_model": ["you/base"]})
    assert "most likely you/base" in failure("me/bad").hint


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (b"", "is empty"),
        (GOOD[WEIGHTS][:-5000], "is not whole"),
        (GOOD[WEIGHTS][:5], "damaged"),
        (b"\xff" * 5000, "damaged"),
        (b"<html>" * 500, "damaged"),
        (POINTER, "Git LFS pointer"),
    ],
    ids=["empty", "cut", "cut in its first bytes", "no header", "a page", "pointer"],
)
def test_damaged_weights_are_named(weights: bytes, said: str, tmp_path: Path) -> None:
    error = failure(str(folder_of(GOOD | {WEIGHTS: weights}, tmp_path / "bad")))
    assert isinstance(error, BrokenModel)
    is_told(error, WEIGHTS, said, "")


def test_a_broken_repository_is_named_by_its_file(hub: HubStandIn) -> None:
    hub.models["me/broken"] = ModelOnHub(GOOD | {WEIGHTS: GOOD[WEIGHTS][:-5000]})
    is_told(failure("me/broken"), "broken", "is not whole", "download the model again")


@pytest.mark.parametrize("name", ["tokenizer.json", "pytorch_model.bin"])
def test_a_clone_without_its_large_files_says_how_to_get_them(name: str, tmp_path: Path) -> None:
    is_told(failure(str(folder_of(GOOD | {name: POINTER}, tmp_path / "bad"))), name, "pointer", "git lfs pull")


def test_an_empty_folder_is_called_empty(tmp_path: Path) -> None:
    is_told(failure(str(tmp_path)), str(tmp_path), "is empty", "config.json")


# Gated and private models


def test_a_private_model_opens_only_to_its_own_credential(hub: HubStandIn) -> None:
    hub.models["me/private"] = ModelOnHub(dict(GOOD), private=True)
    assert "without a token" in failure("me/private").message
    error = failure("me/private", hf_token=TOKEN)
    assert isinstance(error, ModelNotFound)
    assert ("with the token given" in error.message, TOKEN in str(error.to_dict())) == (True, False)
    assert fetch_model(Settings(model_id="me/private", hf_token="hf_good")).revision


@pytest.mark.parametrize("hf_token", [None, TOKEN])
def test_a_gated_model_names_the_page_with_its_terms(hub: HubStandIn, hf_token: str | None) -> None:
    error = failure("me/gated", hf_token=hf_token)
    assert isinstance(error, ModelGated)
    is_told(error, "me/gated", "is gated", "https://huggingface.co/me/gated")
    assert hf_token is not None or "--hf-token or HF_TOKEN" in error.hint


# As a person and a program see it


def test_the_command_ends_with_code_2_one_error_and_no_credential(hub: HubStandIn, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "colab_llm_chat", "serve", "--port", "0", "-m", "me/gated", "-t", TOKEN]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False, cwd=tmp_path)
    assert ended.returncode == 2
    error = ended.stderr.splitlines()[-1]
    assert error.startswith("Error: me/gated is gated, and the token given does not open it. ")
    assert "https://huggingface.co/me/gated" in error
    assert ("Traceback" in ended.stderr, TOKEN in ended.stdout + ended.stderr) == (False, False)


def test_whoever_waits_and_health_are_told_the_same(hub: HubStandIn, capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings(model_id="me/gated", hf_token=TOKEN)
    chat = Chat(settings).start()
    try:
        client = create_app(settings, chat).test_client()
        waited = client.post("/chat", json={"message": "hi"})
        wait_until(lambda: chat.status().state == "failed")
        health = client.get("/health")
    finally:
        chat.close()
    assert (waited.status_code, health.status_code) == (503, 503)
    assert waited.get_json()["error"] == health.get_json()["error"]
    assert health.get_json()["error"]["code"] == "model_gated"
    told = "".join(capfd.readouterr()) + waited.get_data(as_text=True) + health.get_data(as_text=True)
    assert (TOKEN in told, "Traceback" in told) == (False, False)
