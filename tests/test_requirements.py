"""requirements.txt on Colab's image: what is preinstalled there stays as it is, and little is added."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.colab_image import MARKERS, ROOT, installed, preinstalled, requirements

REQUIRED = requirements(ROOT / "requirements.txt")


def resolved(required: list[Requirement]) -> tuple[list[str], set[str]]:
    """What pip would have to change on Colab's image to meet the requirements, and what it would add.

    Follows what the added packages require, and the preinstalled ones wherever the tests run with Colab's version.
    """
    image = preinstalled()
    waiting = [("requirements.txt", requirement) for requirement in required]
    changed, added, followed = [], set(), set()
    while waiting:
        source, requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        version = image.get(name)
        if version is None:
            added.add(name)
        elif not requirement.specifier.contains(version, prereleases=True):
            changed.append(f"{source} wants {requirement}, Colab has {version}")
        if (name, extras) not in followed and (version is None or version == installed(name)):
            followed.add((name, extras))
            waiting += [(name, needed) for needed in needs(name, extras)]
    return changed, added


def needs(name: str, extras: frozenset[str]) -> list[Requirement]:
    """What the installed package requires where the machine is Colab's."""
    required = [Requirement(line) for line in metadata.requires(name) or []]
    surroundings = [MARKERS | {"extra": extra} for extra in extras | {""}]
    return [item for item in required if item.marker is None or any(map(item.marker.evaluate, surroundings))]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package that Colab does not have and that wants another torch than Colab's."""
    folder = tmp_path / "planted-1.0.dist-info"
    folder.mkdir()
    needed = ["torch>=2.12", 'numpy<2; python_version < "3.12"', "flask==3.1.3; extra == 'web'"]
    lines = ["Metadata-Version: 2.1", "Name: planted", "Version: 1.0", *(f"Requires-Dist: {line}" for line in needed)]
    (folder / "METADATA").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "planted"


def test_the_first_cell_changes_no_preinstalled_package() -> None:
    assert resolved(REQUIRED)[0] == []


def test_the_first_cell_adds_only_what_colab_lacks() -> None:
    assert resolved(REQUIRED)[1] == {"bitsandbytes", "llguidance", "pyngrok", "waitress"}


@pytest.mark.parametrize("name", ["torch", "transformers", "numpy", "flask", "huggingface-hub", "tokenizers"])
def test_the_packages_that_must_stay_are_among_the_preinstalled(name: str) -> None:
    assert name in preinstalled()


def test_a_range_above_colabs_version_is_found() -> None:
    planted = [Requirement("transformers>=5.20,<6") if item.name == "transformers" else item for item in REQUIRED]
    assert resolved(planted)[0] == ["requirements.txt wants transformers<6,>=5.20, Colab has 5.15.0"]


def test_a_range_of_an_added_package_is_found(planted: str) -> None:
    changed, added = resolved([Requirement(planted)])
    assert changed == ["planted wants torch>=2.12, Colab has 2.11.0+cu128"]
    assert added == {planted}


def test_requirements_of_extras_are_followed_where_they_are_asked_for(planted: str) -> None:
    assert {item.name for item in needs(planted, frozenset({"web"}))} == {"torch", "flask"}
