"""The committed page is the one that the code makes, and its examples are requests."""

import re
from pathlib import Path

from schemas.docs import render
from schemas.requests import read_request

PAGE = Path(__file__).parents[2] / "docs" / "schemas.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render() + "\n", "run: python -m schemas.docs docs/schemas.md"


def test_the_examples_are_requests() -> None:
    examples = re.findall(r"```json\n(.*?)```", render(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        assert read_request(example.encode(), []).messages
