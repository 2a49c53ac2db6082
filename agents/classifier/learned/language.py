"""The language of a prompt, by its small words or its script.

A table and no training: small words are few and frequent, and the public routing data is nearly all English. Where
neither script nor small words say anything (a sum, a line of code), the answer is ``und``, as BCP 47 names it.
"""

from typing import Final

UNKNOWN: Final = "und"
_LOOKED_AT: Final = 600
"""Characters; the small words of a language turn up early."""

_SMALL: Final = {
    "en": """i a my me the of and to is in that for it you what how are with this was be have from which can do
        does your who when where why not please write if an at would""",
    "de": """der die das und ist nicht ein eine ich zu den mit auf für wie was wir sie es im von dem kann mein bitte
        werden auch oder warum wenn""",
    "fr": """le la les des et est une je vous que qui dans pour pas sur avec ce mon comment pourquoi du au par quel
        quelle sont être""",
    "es": """el los las y es una que por para con no mi cómo qué del se está son cuál puedo pero su como quiero
        gracias""",
    "it": """il lo gli è una che di per con non mi come sono della perché questo qual puoi dei nel vorrei""",
    "pt": """o os as é uma que para com não meu minha como do da em por está qual são você obrigado""",
    "nl": """de het een en is niet ik van voor met hoe wat mijn op zijn dat je kan waarom wij ook""",
    "sv": """och att det är en ett jag inte som på för med hur vad min kan den""",
    "pl": """w na nie jest się że do jak co mój czy z to dla proszę""",
    "tr": """ve bir bu için ne değil ben ile çok var neden""",
}
_OF_WORD: Final = {
    word: tuple(language for language, words in _SMALL.items() if word in words.split())
    for words in _SMALL.values()
    for word in words.split()
}
_KNOWN: Final = frozenset(_OF_WORD)
_SPACED: Final = dict.fromkeys(map(ord, '.,;:!?¿¡"()'), " ")
_FIRST_SCRIPT: Final = chr(0x0370)

_SCRIPTS: Final = (
    (0x0370, 0x03FF, "el"),
    (0x0400, 0x04FF, "ru"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x06FF, "ar"),
    (0x0900, 0x097F, "hi"),
    (0x0E00, 0x0E7F, "th"),
    (0x3040, 0x30FF, "ja"),
    (0xAC00, 0xD7AF, "ko"),
    (0x4E00, 0x9FFF, "zh"),
)
"""First and last code point, and the language most often written with it. Kana before Han: Japanese has both."""


def language_of(text: str) -> str:
    """The language of a prompt as a BCP 47 tag, ``und`` where nothing speaks for one.

    Args:
        text: What is asked.
    """
    text = text[:_LOOKED_AT].lower()
    if not text.isascii() and max(text) >= _FIRST_SCRIPT:
        found = _by_script(text)
        if found:
            return found
    votes: dict[str, int] = {}
    for word in _KNOWN.intersection(text.translate(_SPACED).split()):
        for language in _OF_WORD[word]:
            votes[language] = votes.get(language, 0) + 1
    return max(votes, key=votes.__getitem__) if votes else UNKNOWN


def _by_script(text: str) -> str:
    codes = [ord(character) for character in text if character.isalpha()]
    for first, last, language in _SCRIPTS:
        if 4 * sum(first <= code <= last for code in codes) > len(codes):
            return language
    return ""
