"""The table "Works with": what the READMEs say is what the script ran."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from benchmarks.readme import READMES, ROOT
from benchmarks.works_with import CLIENTS, HEADS, NAME, Client, Outcome, Outcomes, table

pytest_plugins = ["pytester"]

TESTS = ROOT / "tests"


def rows(readme: Path) -> list[list[str]]:
    block = readme.read_text(encoding="utf-8").partition(f"<!-- {NAME} -->")[2].partition(f"<!-- /{NAME} -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize("language", [0, 1], ids=["English", "Japanese"])
def test_the_readmes_rows_are_those_of_the_script(language: int) -> None:
    head, _, *clients = rows(READMES[language])
    assert tuple(head) == HEADS[language]
    assert [(name, ran) for name, _, ran, _ in clients] == [(one.name, one.ran[language]) for one in CLIENTS]


def test_both_readmes_tell_the_same_versions_and_that_all_passed() -> None:
    english, japanese = (rows(readme)[2:] for readme in READMES)
    assert [(row[1], row[3]) for row in english] == [(row[1], row[3]) for row in japanese]
    assert all(row[1] and row[3].endswith(" passed") for row in english)


def test_every_client_has_its_tests() -> None:
    files = [file for client in CLIENTS for file in client.files]
    assert [file for file in files if not (TESTS / file).is_file()] == []
    assert len(set(files)) == len(files)


def test_a_table_tells_who_failed_and_when_it_was() -> None:
    outcomes = {client.name: Outcome(passed=3) for client in CLIENTS} | {"curl": Outcome(3, ["test_a", "test_b"])}
    written = table(outcomes, language=0, today=date(2026, 8, 21))
    [curl] = [line for line in written.splitlines() if line.startswith("| curl")]
    assert curl.endswith("| FAILED: test_a, test_b |")
    assert written.count("| 3 passed |") == len(CLIENTS) - 1
    assert "2026-08-21" in written


def test_a_client_is_told_when_its_last_test_is_done(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    pytester.makepyfile(
        test_good="def test_a(record_property):\n    record_property('passed', '7')\n\ndef test_b(): pass",
        test_bad="import pytest\n@pytest.fixture\ndef broken(): raise OSError\ndef test_c(broken): pass",
    )
    names = ("good", "bad")
    clients = [Client(name=name, version=lambda: "1", files=(f"test_{name}.py",), ran=("x", "x")) for name in names]
    outcomes = Outcomes(clients)
    pytester.inline_run("-p", "no:terminal", plugins=[outcomes])
    assert outcomes.of["good"].told() == "8 passed"
    assert outcomes.of["bad"].told() == "FAILED: test_c"
    assert "good 1: x: 8 passed" in capsys.readouterr().out


def test_no_test_at_all_is_no_success() -> None:
    assert Outcome().told().startswith("FAILED")
