"""Small algebra by SymPy: equations of one unknown, two linear ones of two, and simplifying, expanding, factoring.

The question's text is parsed here, by a grammar that knows numbers, single letters and ``+ - * / ^ ( ) =``; SymPy only
ever gets the resulting expression, never text (its own parser evaluates Python).
"""

import re
from collections.abc import Callable
from typing import Any, Final

from agents.worker.executors import DeclinedError, Executor, Question

_QUESTION: Final = 1_000  # characters of a question; the patterns below go over a text several times
_LONGEST: Final = 200  # characters of one side, and of a solution; longer ones are no homework
_DIGITS: Final = 30
_EXPONENT: Final = 12
_UNKNOWNS: Final = 2

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|([a-zA-Z])(?![a-zA-Z])|(\*\*|[-+*/^()]))")
_SIDE = r"[0-9a-zA-Z\s.+*/^()−–-]+"  # noqa: RUF001 - the signs that stand for a minus
_EQUATION = rf"{_SIDE}=\s*{_SIDE}"
_SOLVE = re.compile(
    rf"^\s*(?:please\s+)?(?:solve|find\s+(?:the\s+)?(?:roots?|solutions?)\s+of)\s*(?:the\s+equations?\s*)?"
    rf"(?:\bfor\s+(?P<before>[a-zA-Z])\b\s*)?:?\s*"
    rf"(?P<first>{_EQUATION}?)(?:\s*(?:,|;|\band\b)\s*(?P<second>{_EQUATION}?))?"
    rf"(?:\s*,?\s*for\s+(?P<for>[a-zA-Z])(?:\s+and\s+[a-zA-Z])?)?\s*[.?]?\s*(?P<form>answer\b[^=]*|give\b[^=]*)?$",
    re.IGNORECASE,
)
_IF = re.compile(
    rf"^\s*if\s+(?P<first>{_EQUATION}?)(?:\s*(?:,|;|\band\b)\s*(?P<second>{_EQUATION}?))?\s*,?\s*(?:then\s+)?"
    rf"what\s+is\s+(?:the\s+value\s+of\s+)?(?P<for>[a-zA-Z])\s*\?\s*(?P<form>answer\b[^=]*|give\b[^=]*)?$",
    re.IGNORECASE,
)
_REWRITE = re.compile(
    rf"^\s*(?:please\s+)?(?P<verb>simplify|expand|factor(?:i[sz]e)?)\s*(?:the\s+expression\s*)?:?\s*(?P<what>{_SIDE}?)"
    rf"\s*\.?\s*(?P<form>answer\b[^=]*|give\b[^=]*)?$",
    re.IGNORECASE,
)


def answer(question: Question) -> str:
    """Solve or rewrite.

    Raises:
        DeclinedError: The question is not of a known form, or has no finite set of real solutions.
    """
    text = question.text
    if len(text) > _QUESTION:
        raise DeclinedError("too long a question")
    for pattern in (_SOLVE, _IF):
        if match := pattern.match(text):
            found = match.groupdict()
            sides = [side for side in (found["first"], found["second"]) if side]
            return _solve(sides, found["for"] or found.get("before") or "", bare=_bare(found["form"]))
    if match := _REWRITE.match(text):
        return _rewrite(match["verb"].lower(), match["what"])
    raise DeclinedError("no equation or expression in a known form")


def _bare(form: str | None) -> bool:
    """Whether the question wants the values without their names."""
    return bool(form and re.search(r"\b(?:number|value)s?\b", form, re.IGNORECASE))


def _solve(equations: list[str], wanted: str, *, bare: bool) -> str:
    import sympy  # noqa: PLC0415 - half a second that only the child process needs

    zeros = []
    for equation in equations:
        left, _, right = equation.partition("=")
        zeros.append(parse(left) - parse(right))
    unknowns = sorted(set().union(*(zero.free_symbols for zero in zeros)), key=str)
    if not unknowns or len(unknowns) != len(equations) or len(unknowns) > _UNKNOWNS:
        raise DeclinedError(f"{len(equations)} equations with {len(unknowns)} unknowns")
    if wanted and wanted not in {str(unknown) for unknown in unknowns}:
        raise DeclinedError(f"{wanted} is not in the equation")
    if len(unknowns) == 1:
        solutions = sympy.solveset(zeros[0], unknowns[0], sympy.S.Reals)
        if not isinstance(solutions, sympy.FiniteSet) or not solutions:
            raise DeclinedError("no finite set of real solutions")
        values = [_shown(value) for value in sorted(solutions, key=float)]
        return " or ".join(values if bare else [f"{unknowns[0]} = {value}" for value in values])
    found = sympy.linsolve(zeros, *unknowns) if all(_linear(zero, unknowns) for zero in zeros) else sympy.EmptySet
    if len(found) != 1 or (values := next(iter(found))).free_symbols:
        raise DeclinedError("not two linear equations with one solution")
    pairs = {str(unknown): _shown(value) for unknown, value in zip(unknowns, values, strict=True)}
    if wanted and bare:
        return pairs[wanted]
    return ", ".join(f"{name} = {value}" for name, value in pairs.items())


def _linear(zero: Any, unknowns: list[Any]) -> bool:
    import sympy  # noqa: PLC0415

    return bool(zero.is_polynomial(*unknowns)) and sympy.Poly(zero, *unknowns).total_degree() == 1


def _rewrite(verb: str, what: str) -> str:
    import sympy  # noqa: PLC0415

    changes: dict[str, Callable[[Any], Any]] = {"simplify": sympy.simplify, "expand": sympy.expand}
    expression = parse(what)
    if not expression.free_symbols and verb != "simplify":
        raise DeclinedError("no letter in it")
    return _shown(changes.get(verb, sympy.factor)(expression))


def _shown(value: Any) -> str:
    text = str(value).replace("**", "^")
    if len(text) > _LONGEST or "CRootOf" in text:
        raise DeclinedError("the exact answer can't be written down shortly")
    return text


def parse(text: str) -> Any:
    """A SymPy expression by our own grammar: sums, products (also implied, ``2x``), powers, parentheses.

    Raises:
        DeclinedError: Anything else, or numbers and powers beyond what a question has.
    """
    text = re.sub("[−–]", "-", text.strip())  # noqa: RUF001
    if not text or len(text) > _LONGEST:
        raise DeclinedError("nothing to read, or too long")
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise DeclinedError("a word or sign that is no algebra")
        tokens.append(match[match.lastindex or 0])
        at = match.end()
    parser = _Parser(tokens)
    try:
        value = parser.sum()
    except RecursionError:
        raise DeclinedError("nested too deeply") from None
    if parser.tokens:
        raise DeclinedError("a parenthesis too many")
    return value


class _Parser:
    """Recursive descent over tokens; the first one is next."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def sum(self) -> Any:
        value = self._product()
        while self.tokens and self.tokens[0] in "+-":
            value = value + self._product() if self.tokens.pop(0) == "+" else value - self._product()
        return value

    def _product(self) -> Any:
        value = self._signed()
        while self.tokens and self.tokens[0] not in {"+", "-", ")"}:
            if self.tokens[0] == "/":
                self.tokens.pop(0)
                divisor = self._signed()
                if divisor == 0:
                    raise DeclinedError("division by zero")
                value = value / divisor
            else:
                if self.tokens[0] == "*":
                    self.tokens.pop(0)
                value = value * self._signed()
        return value

    def _signed(self) -> Any:
        if self.tokens and self.tokens[0] in {"+", "-"}:
            sign = self.tokens.pop(0)
            return -self._signed() if sign == "-" else self._signed()
        base = self._atom()
        if self.tokens and self.tokens[0] in {"^", "**"}:
            self.tokens.pop(0)
            exponent = self._signed()
            if not exponent.is_Integer or abs(exponent) > _EXPONENT or (base == 0 and exponent < 0):
                raise DeclinedError("an exponent that is no small whole number")
            return base**exponent
        return base

    def _atom(self) -> Any:
        import sympy  # noqa: PLC0415

        sign = self.tokens.pop(0) if self.tokens else ""
        if sign == "(":
            value = self.sum()
            if not self.tokens or self.tokens.pop(0) != ")":
                raise DeclinedError("a parenthesis is missing")
            return value
        if sign[:1].isdigit():
            if len(sign) > _DIGITS:
                raise DeclinedError("a number of too many digits")
            return sympy.Rational(sign)
        if sign.isalpha():
            return sympy.Symbol(sign, real=True)
        raise DeclinedError("a sign without a number")


EXECUTOR = Executor(run=answer, isolated=True, needs=("sympy", "solver"))
"""In a child process: some innocent expressions keep SymPy busy for minutes."""
