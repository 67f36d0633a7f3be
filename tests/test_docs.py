"""The documents say what the program does: verbs, options, and the README's code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from unclone.cli.app import app, run

ROOT = Path(__file__).parent.parent
COMMAND = typer.main.get_command(app)


def commands_of(group: Any, prefix: str = "") -> dict[str, Any]:
    """Verbs by name; those of a group as ``group verb``."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands_of(command, f"{prefix}{name} ") if inner else {prefix + name: command}
    return found


COMMANDS = commands_of(COMMAND)
VERBS = sorted(COMMANDS)
CLI = (ROOT / "docs" / "cli.md").read_text()


def section(verb: str) -> str:
    match = re.search(rf"^## unclone {verb}\b.*?(?=^## |\Z)", CLI, re.MULTILINE | re.DOTALL)
    assert match, f"docs/cli.md has no section for {verb}"
    return match.group()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_is_documented(verb: str) -> None:
    command = COMMANDS[verb]
    text = section(verb)
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            for option in parameter.opts:
                assert option in text, f"{verb} {option}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_documented_option_exists(verb: str) -> None:
    known = {option for parameter in COMMANDS[verb].params for option in parameter.opts}
    named = set(re.findall(r"^\| `(--[a-z-]+)", section(verb), re.MULTILINE))
    assert named <= known


def test_every_documented_verb_exists() -> None:
    assert sorted(re.findall(r"^## unclone ([a-z-]+(?: [a-z-]+)*)", CLI, re.MULTILINE)) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_json_and_help(verb: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[verb].params for option in parameter.opts}
    result = CliRunner().invoke(app, [*verb.split(), "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("spec/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def with_magika(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    magika = pytest.importorskip("magika")
    model = Path(magika.__file__).parent / "models" / "standard_v3_3" / "model.onnx"
    (tmp_path / "magika.onnx").write_bytes(model.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs(with_magika: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert type(names["session"]).__name__ == "InferenceSession"


def test_the_session_of_the_readme_runs(with_magika: Path) -> None:
    lines = [line[2:] for block in blocks(ROOT / "README.md", "console") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("unclone ")]
    assert [command[0] for command in commands] == ["enroll", "bind", "restore"]
    for command in commands:
        assert run(command) == 0
    assert run([part.replace("seed=7", "seed=8") for part in commands[-1]]) == 3
