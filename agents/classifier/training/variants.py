"""The same prompts in another layout: line breaks and capitals say nothing of what is wanted.

Sources differ in just that: all prompts of one are in lower case, all of another have an instruction, an empty line and
an input. A model that sees each of our own prompts in several layouts rests less on it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from agents.classifier.training.data import Prompt

SHARE: Final = 0.5
"""Weight of a prompt that its other layouts take, together."""
_BREAK: Final = re.compile(r"(?<=[.:?!])\s+(?=\S)")
_LEAST_BEFORE, _LEAST_AFTER = 8, 12
"""Characters that stay on either side of a new line."""


def _broken(text: str) -> str | None:
    """Two paragraphs: what is wanted, and what it's wanted of."""
    places = [at for at in _BREAK.finditer(text) if _LEAST_BEFORE < at.start() < len(text) - _LEAST_AFTER][:2]
    if not places:
        return None
    at = places[len(text) % len(places)]
    lines = "\n\n" if len(text) % 3 else "\n"
    return f"{text[: at.start()]}{lines}{text[at.end() :]}"


def _flat(text: str) -> str | None:
    """One line."""
    return " ".join(text.split()) if "\n" in text else None


def _careless(text: str) -> str | None:
    """Lower case, no mark at the end."""
    found = text.lower().rstrip(".?! ")
    return found if found not in {"", text} else None


LAYOUTS: Final[Sequence[Callable[[str], str | None]]] = (_broken, _flat, _careless)


def with_variants(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, each followed by itself in other layouts; together they count as one.

    A variant has its prompt's fold, so that none is trained on while another is scored, and its class, nothing else.
    """
    found = []
    for prompt in prompts:
        texts = [text for layout in LAYOUTS if (text := layout(prompt.text)) is not None and text != prompt.text]
        if not texts:
            found.append(prompt)
            continue
        found.append(replace(prompt, counts=1 - SHARE))
        found += [
            replace(prompt, text=text, counts=SHARE / len(texts), variant=True, domain="", personal=None)
            for text in texts
        ]
    return found
