"""Where a model's files come from, against a stand-in Hub that the real client talks to."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from colab_llm_chat.errors import BrokenModel, HubUnreachable, LoadError, ModelGated, ModelNotFound, UnsupportedModel
from colab_llm_chat.models.copies import ModelCopies
from colab_llm_chat.models.hub import ModelFiles, OnProgress, fetch_model
from colab_llm_chat.models.hub_errors import Asked, hub_errors
from colab_llm_chat.models.hub_files import choose_files, missing_files
from colab_llm_chat.models.record import RECORD, ModelRecord
from colab_llm_chat.settings import DEMO_MODEL, Settings
from tests.hub_standin import HubStandIn, ModelOnHub

WEIGHTS = bytes(range(256)) * 4000
OTHER_CONFIG = b'{"model_type": "gpt2"}'
SMALL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "README.md": b"# Small",
}


@pytest.fixture(autouse=True, scope="module")
def one_client_session() -> Iterator[None]:
    """Making one reads all certificates: 40 ms."""
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HubStandIn() as standin:
        standin.models["me/small"] = ModelOnHub(dict(SMALL))
        monkeypatch.setattr(constants, "ENDPOINT", standin.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", standin.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield standin


@pytest.fixture
def kept_in(tmp_path: Path, request: pytest.FixtureRequest) -> str | None:
    """`model_dir`: None is the client's own cache."""
    return str(tmp_path / "モデル 置き場") if getattr(request, "param", "folder") == "folder" else None


BOTH_PLACES = pytest.mark.parametrize("kept_in", ["folder", "cache"], indirect=True)


def fetched(model_id: str, *, on_progress: OnProgress = lambda fraction, detail: None, **options: object) -> ModelFiles:
    return fetch_model(Settings(model_id=model_id, **options), on_progress=on_progress)  # type: ignore[arg-type]


def failure(model_id: str, **options: object) -> LoadError:
    with pytest.raises(LoadError) as caught:
        fetched(model_id, **options)
    return caught.value


# Folders


def test_the_demo_model_is_the_bundled_one() -> None:
    files = fetched(DEMO_MODEL)
    assert (files.folder / "model.safetensors").is_file()
    assert (files.model_id, files.revision) == (DEMO_MODEL, None)


@pytest.mark.parametrize("form", ["absolute", "relative", "dotted", "home"])
def test_a_folder_with_a_configuration_is_used_as_it_is(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {"absolute": str(folder), "relative": "my/model", "dotted": "./my/model", "home": "~/my/model"}
    assert fetched(names[form]) == ModelFiles(folder, names[form], None)


@pytest.mark.parametrize("path", ["/no/such", "./such", "../such", "~/such-a-folder", "a/b/c", "C:\\models\\x", "/x\0"])
def test_a_path_that_is_not_there_is_a_missing_folder_not_a_hub_error(path: str) -> None:
    error = failure(path)
    assert isinstance(error, ModelNotFound)
    assert "folder" in error.message
    assert "was not found" in error.message


def test_a_folder_without_configuration_is_a_broken_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    error = failure(str(tmp_path))
    assert isinstance(error, BrokenModel)
    assert "config.json" in error.message


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    error = failure(str(tmp_path / "model.safetensors"))
    assert isinstance(error, ModelNotFound)
    assert "is a file" in error.message


def test_a_file_for_llama_cpp_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "llama.cpp" in failure(str(tmp_path / "model.gguf")).message


def test_an_address_is_answered_with_the_form_that_is_wanted() -> None:
    error = failure("https://huggingface.co/me/small")
    assert isinstance(error, ModelNotFound)
    assert "OWNER/NAME" in error.hint


# Which files


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ("model.safetensors consolidated.safetensors pytorch_model.bin", "model.safetensors"),
        ("model.safetensors model.fp16.safetensors model.fp32-00001-of-00002.safetensors", "model.safetensors"),
        (
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
        ),
        ("model.safetensors-00001-of-00001.safetensors", "model.safetensors-00001-of-00001.safetensors"),
        ("model.safetensors model-00001-of-00001.safetensors model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin tf_model.h5 flax_model.msgpack model.onnx", "pytorch_model.bin"),
        ("pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json model.safetensors", "model.safetensors"),
        (
            "pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
            "pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
        ),
        ("model.safetensors original/model.safetensors onnx/config.json gguf/a.gguf", "model.safetensors"),
        ("model.safetensors adapter_config.json adapter_model.safetensors", "model.safetensors"),
        ("model.safetensors vocab.txt merges.txt spiece.model", "model.safetensors vocab.txt merges.txt spiece.model"),
        ("model.safetensors source.spm target.spm", "model.safetensors source.spm target.spm"),
        (
            "model.safetensors chat_template.jinja additional_chat_templates/tool.jinja",
            "model.safetensors chat_template.jinja additional_chat_templates/tool.jinja",
        ),
        ("model.safetensors README.md .gitattributes modeling_x.py image.png LICENSE.txt", "model.safetensors"),
    ],
)
def test_only_one_copy_of_the_weights_and_what_belongs_to_it_is_chosen(there: str, wanted: str) -> None:
    chosen = choose_files(["config.json", *there.split()], model_id="me/x", trust_remote_code=False)
    assert chosen == sorted(["config.json", *wanted.split()])


def test_code_is_chosen_only_when_trusted() -> None:
    names = ["config.json", "model.safetensors", "modeling_x.py"]
    assert "modeling_x.py" in choose_files(names, model_id="me/x", trust_remote_code=True)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("config.json a.Q4.gguf b.Q8.gguf", "a.Q4.gguf, b.Q8.gguf"),
        ("consolidated.safetensors params.json", "consolidated.safetensors"),
        ("a.gguf b.gguf c.gguf d.gguf e.gguf f.gguf", "and 2 more"),
        ("README.md", "no weights at all"),
        ("adapter_config.json adapter_model.safetensors", "adapter"),
        ("model.safetensors", "no config.json"),
    ],
)
def test_a_repository_without_usable_weights_says_what_it_has(there: str, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        choose_files(there.split(), model_id="me/x", trust_remote_code=False)


def test_shards_that_the_index_or_their_own_names_promise_are_missed(tmp_path: Path) -> None:
    index, shard = "model.safetensors.index.json", "model-00001-of-00002.safetensors"
    (tmp_path / shard).touch()
    assert missing_files(tmp_path, [shard]) == [f"1 more like {shard}"]
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": shard, "b": "other.safetensors"}}))
    assert missing_files(tmp_path, [shard, index]) == ["other.safetensors"]


# Downloading


@BOTH_PLACES
def test_a_model_is_downloaded_whole_and_nothing_else(hub: HubStandIn, kept_in: str | None) -> None:
    files = fetched("me/small", model_dir=kept_in)
    assert files.revision == hub.models["me/small"].commit
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(hub.fetched()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_model_folder_holds_plain_files_under_owner_and_name(hub: HubStandIn, kept_in: str) -> None:
    files = fetched("me/small", model_dir=kept_in)
    assert files.folder == Path(kept_in, "me--small")
    assert not any(path.is_symlink() for path in files.folder.rglob("*"))


@BOTH_PLACES
def test_a_second_start_fetches_no_file(hub: HubStandIn, kept_in: str | None) -> None:
    first = fetched("me/small", model_dir=kept_in)
    hub.asked.clear()
    assert fetched("me/small", model_dir=kept_in) == first
    assert not hub.fetched()


@BOTH_PLACES
def test_a_new_commit_replaces_what_changed_and_removes_what_is_gone(hub: HubStandIn, kept_in: str | None) -> None:
    hub.models["me/small"].files["chat_template.jinja"] = b"old"
    fetched("me/small", model_dir=kept_in)
    new = WEIGHTS[::-1]
    hub.models["me/small"] = ModelOnHub({**SMALL, "model.safetensors": new})
    folder = fetched("me/small", model_dir=kept_in).folder
    assert (folder / "model.safetensors").read_bytes() == new
    assert not (folder / "chat_template.jinja").exists()


def test_a_commit_can_be_asked_for(hub: HubStandIn) -> None:
    commit = hub.models["me/small"].commit
    assert fetched("me/small", revision=commit).revision == commit


def test_code_is_downloaded_only_when_trusted(hub: HubStandIn) -> None:
    hub.models["me/small"].files["modeling_x.py"] = b"x = 1"
    fetched("me/small")
    assert "modeling_x.py" not in hub.fetched()
    assert (fetched("me/small", trust_remote_code=True).folder / "modeling_x.py").is_file()


@BOTH_PLACES
def test_progress_rises_to_the_whole_and_names_the_size(hub: HubStandIn, kept_in: str | None) -> None:
    told: list[tuple[float, str]] = []
    hub.models["me/small"].files["model.safetensors"] = bytes(3_000_000)
    fetched("me/small", model_dir=kept_in, on_progress=lambda *seen: told.append(seen))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "of 3.0 MB" in told[0][1]


def test_the_token_is_sent_and_spaces_around_it_are_not(hub: HubStandIn) -> None:
    fetched("me/small", hf_token=" hf_good\n")
    assert {asked.authorization for asked in hub.asked} == {"Bearer hf_good"}


# Cut short


@BOTH_PLACES
def test_a_cut_body_is_resumed_where_it_broke(
    hub: HubStandIn, kept_in: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cuts["model.safetensors"] = 1
    folder = fetched("me/small", model_dir=kept_in).folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    resumed_at = [int(asked.range[6:-1]) for asked in hub.asked if asked.range]
    assert len(resumed_at) == 1
    assert 0 < resumed_at[0] <= len(WEIGHTS) // 2


@BOTH_PLACES
def test_a_download_cut_short_is_not_taken_for_a_model_and_is_finished_next_time(
    hub: HubStandIn, kept_in: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cuts["model.safetensors"] = 1000
    assert isinstance(failure("me/small", model_dir=kept_in), HubUnreachable)
    hub.status = 503
    assert isinstance(failure("me/small", model_dir=kept_in), HubUnreachable)
    hub.status, hub.cuts = None, {}
    hub.asked.clear()
    folder = fetched("me/small", model_dir=kept_in).folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.fetched() == ["model.safetensors"]


@BOTH_PLACES
def test_a_file_cut_off_on_the_disk_is_fetched_again(hub: HubStandIn, kept_in: str | None) -> None:
    weights = fetched("me/small", model_dir=kept_in).folder / "model.safetensors"
    weights.write_bytes(WEIGHTS[:1000])
    fetched("me/small", model_dir=kept_in)
    assert weights.read_bytes() == WEIGHTS


def test_a_new_commit_cut_short_is_not_completed_with_files_of_the_old_one(
    hub: HubStandIn, kept_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fetched("me/small", model_dir=kept_in)
    hub.models["me/small"] = ModelOnHub({**SMALL, "model.safetensors": WEIGHTS[::-1]})
    hub.cuts["model.safetensors"] = 1000
    assert isinstance(failure("me/small", model_dir=kept_in), HubUnreachable)
    hub.models["me/small"] = ModelOnHub({**SMALL, "model.safetensors": WEIGHTS[::-1], "config.json": OTHER_CONFIG})
    hub.cuts = {}
    folder = fetched("me/small", model_dir=kept_in).folder
    assert (folder / "config.json").read_bytes() == OTHER_CONFIG
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]


def test_the_rest_of_a_cut_download_is_not_taken_for_a_newer_commit(
    hub: HubStandIn, kept_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cuts["model.safetensors"] = 1000
    assert isinstance(failure("me/small", model_dir=kept_in), HubUnreachable)
    hub.models["me/small"] = ModelOnHub({**SMALL, "tokenizer.json": b"[]"})
    hub.cuts, hub.out_of_order = {}, {"tokenizer.json"}
    error = failure("me/small", model_dir=kept_in)
    assert isinstance(error, HubUnreachable)
    assert "status 503" in error.message


# Without the Hub


@BOTH_PLACES
@pytest.mark.parametrize("way", ["unplugged", "offline", "status 503", "status 429"])
def test_a_whole_copy_is_used_when_the_hub_is_away(
    hub: HubStandIn, kept_in: str | None, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = fetched("me/small", model_dir=kept_in)
    go_away(hub, way, monkeypatch)
    assert fetched("me/small", model_dir=kept_in) == first
    assert f"Loading the copy in {first.folder}" in caplog.text


@BOTH_PLACES
@pytest.mark.parametrize("way", ["unplugged", "offline", "status 503", "status 429"])
def test_without_a_copy_the_hub_is_named_as_out_of_reach(
    hub: HubStandIn, kept_in: str | None, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_away(hub, way, monkeypatch)
    error = failure("me/small", model_dir=kept_in)
    assert isinstance(error, HubUnreachable)
    assert "me/small" in error.message
    assert "status" not in way or way in error.message


def go_away(hub: HubStandIn, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "unplugged":
        hub.__exit__()
        huggingface_hub.close_session()
    elif way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.status = int(way.split()[1])


@BOTH_PLACES
def test_a_copy_that_lost_a_file_is_not_used(hub: HubStandIn, kept_in: str | None) -> None:
    folder = fetched("me/small", model_dir=kept_in).folder
    (folder / "tokenizer.json").unlink()
    hub.status = 503
    assert isinstance(failure("me/small", model_dir=kept_in), HubUnreachable)


def test_another_revision_of_a_kept_model_is_not_used(hub: HubStandIn, kept_in: str) -> None:
    fetched("me/small", model_dir=kept_in)
    hub.status = 503
    assert isinstance(failure("me/small", model_dir=kept_in, revision="v2"), HubUnreachable)
    assert fetched("me/small", model_dir=kept_in, revision="main")


@pytest.mark.parametrize(
    "record", [b"", b"[]", b'{"files": 1}', b'{"revision": null, "commit": "a", "files": {"a": 1}}']
)
def test_a_broken_record_is_no_record(hub: HubStandIn, kept_in: str, record: bytes) -> None:
    folder = fetched("me/small", model_dir=kept_in).folder
    (folder / RECORD).write_bytes(record)
    hub.status = 503
    assert isinstance(failure("me/small", model_dir=kept_in), HubUnreachable)


# Refusals


@pytest.mark.parametrize("hf_token", [None, "hf_good"])
def test_an_unknown_model_is_not_found_and_may_be_private(hub: HubStandIn, hf_token: str | None) -> None:
    error = failure("me/smal", hf_token=hf_token)
    assert isinstance(error, ModelNotFound)
    assert "me/smal" in error.message
    assert "private" in error.hint


def test_an_unknown_revision_is_named(hub: HubStandIn) -> None:
    error = failure("me/small", revision="v9")
    assert isinstance(error, ModelNotFound)
    assert "'v9'" in error.message


@pytest.mark.parametrize(("hf_token", "said"), [(None, "no Hub token was given"), ("hf_other", "does not open it")])
def test_a_gated_model_says_whether_a_token_was_given(hub: HubStandIn, hf_token: str | None, said: str) -> None:
    hub.models["me/small"].gated = True
    hub.tokens["hf_other"] = False
    error = failure("me/small", hf_token=hf_token)
    assert isinstance(error, ModelGated)
    assert said in error.message


def test_a_gated_model_opens_to_the_right_token(hub: HubStandIn) -> None:
    hub.models["me/small"].gated = True
    assert fetched("me/small", hf_token="hf_good").revision


@pytest.mark.parametrize("hf_token", ["hf_secret", "hf_sec ret", "hf_secret\nX: y", "hf_sécret", "hf_secret\x7f"])
def test_a_refused_token_is_told_and_never_shown(
    hub: HubStandIn, hf_token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    error = failure("me/small", hf_token=hf_token)
    assert "token" in error.message
    assert "settings/tokens" in error.hint
    assert hf_token not in f"{error!r} {error.to_dict()} {caplog.text} {error.__cause__}"


@pytest.mark.parametrize("status", [400, 418, 500, 502, 504])
def test_any_other_status_is_named(hub: HubStandIn, status: int) -> None:
    hub.status = status
    assert f"status {status}" in failure("me/small").message


@pytest.mark.parametrize("model_id", ["a b", "me/--", "x" * 200, "日本語", "me/", ".", "me/small.git"])
def test_what_cannot_be_a_hub_id_is_not_found(hub: HubStandIn, model_id: str) -> None:
    assert isinstance(failure(model_id), ModelNotFound | BrokenModel)


def test_a_repository_of_other_formats_is_unsupported(hub: HubStandIn) -> None:
    hub.models["me/gguf"] = ModelOnHub({"model.Q4.gguf": b"GGUF"})
    error = failure("me/gguf")
    assert isinstance(error, UnsupportedModel)
    assert "model.Q4.gguf" in error.message
    assert "safetensors" in error.hint


# The disk


@BOTH_PLACES
def test_a_model_larger_than_the_disk_is_refused_before_the_download(hub: HubStandIn, kept_in: str | None) -> None:
    hub.models["me/small"].sizes["model.safetensors"] = 10**18
    error = failure("me/small", model_dir=kept_in)
    assert "1000000000.0 GB" in error.message
    assert (kept_in or constants.HF_HUB_CACHE) in error.message
    assert not hub.fetched()


def test_a_folder_that_cannot_be_written_is_named(hub: HubStandIn, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = failure("me/small", model_dir=str(tmp_path / "file"))
    assert "cannot be written" in error.message
    assert str(tmp_path / "file") in error.message


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "no room"), (errno.EDQUOT, "no room"), (errno.EROFS, "cannot be written")]
)
def test_a_disk_that_fails_in_the_middle_is_told_by_its_folder(number: int, said: str, tmp_path: Path) -> None:
    asked = Asked("me/small", None, has_token=False, folder=tmp_path)
    with pytest.raises(LoadError, match=said) as caught, hub_errors(asked):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in caught.value.message


def test_proxies_and_timeouts_are_the_hub_out_of_reach(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    huggingface_hub.close_session()
    assert isinstance(failure("me/small"), HubUnreachable)
    huggingface_hub.close_session()


# Copies on a slow folder, such as one on Google Drive


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The settings of a machine with a slow folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "local"))
    (tmp_path / "マイ ドライブ").mkdir()
    return {"model_dir": str(tmp_path / "マイ ドライブ"), "use_google_drive_cache": True}


def keep(files: ModelFiles, drive: dict[str, object]) -> None:
    """Copy to the slow folder, then be a new machine: the local disk is empty."""
    record = ModelRecord.read(files.folder / RECORD)
    assert record is not None
    ModelCopies(Path(str(drive["model_dir"])), "me/small").add(files.folder, record, on_bytes=lambda count: None)
    shutil.rmtree(files.folder)


def test_a_slow_folder_is_not_where_a_model_is_loaded_from(
    hub: HubStandIn, drive: dict[str, object], tmp_path: Path
) -> None:
    assert fetched("me/small", **drive).folder == tmp_path / "local" / "colab-llm-chat" / "models" / "me--small"
    assert list((tmp_path / "マイ ドライブ").iterdir()) == []


def test_a_copy_is_taken_instead_of_downloading(hub: HubStandIn, drive: dict[str, object]) -> None:
    first = fetched("me/small", **drive)
    keep(first, drive)
    hub.asked.clear()
    told: list[tuple[float, str]] = []
    assert fetched("me/small", on_progress=lambda *seen: told.append(seen), **drive) == first
    assert (hub.fetched(), (first.folder / "model.safetensors").read_bytes() == WEIGHTS) == ([], True)
    assert told[-1][0] == 1.0


def test_only_what_changed_on_the_hub_is_downloaded_beside_a_copy(hub: HubStandIn, drive: dict[str, object]) -> None:
    keep(fetched("me/small", **drive), drive)
    hub.models["me/small"].files["config.json"] = b'{"model_type": "llama", "new": 1}'
    hub.asked.clear()
    folder = fetched("me/small", **drive).folder
    assert (hub.fetched(), b"new" in (folder / "config.json").read_bytes()) == (["config.json"], True)


def test_a_copy_that_breaks_off_is_completed_by_the_hub(hub: HubStandIn, drive: dict[str, object]) -> None:
    keep(fetched("me/small", **drive), drive)
    next(Path(str(drive["model_dir"])).rglob("model.safetensors")).write_bytes(b"cut")
    assert (fetched("me/small", **drive).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_without_the_hub_a_whole_copy_of_the_revision_is_enough(hub: HubStandIn, drive: dict[str, object]) -> None:
    keep(fetched("me/small", **drive), drive)
    hub.status = 503
    assert isinstance(failure("me/small", revision="v2", **drive), HubUnreachable)
    assert fetched("me/small", **drive).revision == hub.models["me/small"].commit


def test_a_slow_folder_that_is_gone_costs_only_the_download(
    hub: HubStandIn, drive: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "マイ ドライブ").rmdir()
    assert (fetched("me/small", **drive).folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (tmp_path / "マイ ドライブ").exists()
