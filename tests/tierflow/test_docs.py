"""The page of the command line is the one that the code makes, and the README names only commands that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from tierflow.cli import app
from tierflow.docs import render

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/operations.md", "docs/catalogue.md", "docker-compose.yml")


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == render(), "run: python -m tierflow.docs docs/cli.md"


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_commands_and_options_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"(?:^|[`\s/])tierflow ((?:[a-z]+)(?: [^`#|&\n)\"]*)?)", text)
    wrong = [line for line in found if not _exists(shlex.split(line.rstrip(" ,.:;").replace("'", "")))]
    assert found
    assert not wrong


def _exists(words: list[str]) -> bool:
    """Whether command and options are known; words that are no command are prose."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    known = {option for param in command.params for option in param.opts} | {"--json", "--help"}
    return all(word.split("=")[0] in known for word in words if word.startswith("--"))


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("**/*.md") if ".venv" not in path.parts)
)
def test_links_lead_somewhere(page: str) -> None:
    here = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert (here / target).exists(), f"{page}: {target}"
