"""Exact arithmetic: a specialist that answers sums by rule, and a calculator for what a model writes.

Pure. Numbers are fractions, so 0.1 + 0.2 is 0.3. The calculator walks the syntax tree and knows arithmetic only: no
names but those that the text itself assigns, no attributes, no indexing, no calls but the few listed, and bounds on the
size of numbers.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

_LONGEST = 2_000  # characters of a program; a model's answer to a word problem has some hundred
_BITS = 4_096  # of a numerator or denominator: about 1,200 digits, beyond any question and cheap to compute with
_DIGITS = 12  # significant ones shown of a fraction that has no end as a decimal


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("only whole exponents are exact")
    if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length(), 1) > _BITS:
        raise ValueError("the number becomes too large")
    return Fraction(base**exponent.numerator)


_BINARY: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = MappingProxyType(
    {
        ast.Add: lambda a, b: a + b,
        ast.Sub: lambda a, b: a - b,
        ast.Mult: lambda a, b: a * b,
        ast.Div: lambda a, b: a / b,
        ast.FloorDiv: lambda a, b: Fraction(a // b),
        ast.Mod: lambda a, b: a % b,
        ast.Pow: _power,
    }
)


def _rounded(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    if abs(digits) > _DIGITS:
        raise ValueError("too many digits to round to")
    return Fraction(round(value, int(digits)))


_CALLS: Mapping[str, Callable[..., Fraction]] = MappingProxyType(
    {
        "abs": abs,
        "min": min,
        "max": max,
        "round": _rounded,
        "int": lambda value: Fraction(int(value)),
        "float": lambda value: value,
        "floor": lambda value: Fraction(math.floor(value)),
        "ceil": lambda value: Fraction(math.ceil(value)),
        "print": lambda value: value,  # models like to end with it; the value is what it would print
    }
)


def evaluate(program: str) -> Fraction:
    """Computes a straight-line program: assignments and expressions in Python's syntax.

    Args:
        program: For example ``a = 3 * 12`` and, on a second line, ``a / 4 + 1``.

    Returns:
        The value of the last line.

    Raises:
        ValueError: It is no such program, divides by zero, or computes with too large numbers; the message says which.
    """
    if len(program) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    try:
        statements = ast.parse(program.strip()).body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python: {error}") from error
    names: dict[str, Fraction] = {}
    value: Fraction | None = None
    try:
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=expression):
                    value = names[name] = _value(expression, names)
                case ast.Expr(value=expression):
                    value = _value(expression, names)
                case _:
                    raise ValueError(f"{type(statement).__name__} is no arithmetic")
    except (ZeroDivisionError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if value is None:
        raise ValueError("nothing to compute")
    return value


def _value(node: ast.expr, names: Mapping[str, Fraction]) -> Fraction:
    match node:
        case ast.Constant(value=bool()):
            raise ValueError("a truth value is no number")
        case ast.Constant(value=int() as number):
            result = Fraction(number)
        case ast.Constant(value=float() as number) if math.isfinite(number):
            result = Fraction(repr(number))  # as written, not as stored in binary
        case ast.Name(id=name) if name in names:
            result = names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            result = -_value(operand, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            result = _value(operand, names)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            result = _BINARY[type(operator)](_value(left, names), _value(right, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            result = _CALLS[name](*(_value(each, names) for each in args))
        case _:
            raise ValueError(f"{ast.unparse(node)[:40]!r} is no arithmetic")
    if max(result.numerator.bit_length(), result.denominator.bit_length()) > _BITS:
        raise ValueError("the number becomes too large")
    return result


def text_of(value: Fraction) -> str:
    """A number as people write it: ``42``, ``2.5``, or twelve digits of a decimal that has no end."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1 and value.denominator < 10**_DIGITS:
        places = next(n for n in range(value.denominator) if 10**n % value.denominator == 0)
        whole, behind = divmod(abs(value.numerator) * 10**places // value.denominator, 10**places)
        return f"{'-' if value < 0 else ''}{whole}.{behind:0{places}}"
    try:
        return f"{float(value):.{_DIGITS}g}"
    except OverflowError:
        return f"{Decimal(value.numerator) / value.denominator:.{_DIGITS}g}"


def value_in(answer: str) -> Fraction | None:
    """The value of the program in an answer: of its code fence, else all of it, else the last line that computes."""
    fences = re.findall(r"```(?:\w+)?\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    for candidate in [*fences[::-1], answer, *lines[::-1]]:
        try:
            return evaluate(candidate)
        except ValueError:
            continue
    return None


_WORDS = (
    (r"\bplus\b", "+"),
    (r"\bminus\b", "-"),
    (r"\b(?:times|multiplied by)\b|[×·]|(?<=\d)\s*x\s*(?=\d)", "*"),  # noqa: RUF001  the multiplication sign itself
    (r"\bdivided by\b|÷", "/"),
    (r"\bto the power of\b|\^", "**"),
    (r"\bsquared\b", "**2"),
    (r"\bcubed\b", "**3"),
    (r"(?:%|\bper ?cent)\s+of\b", "/100*"),
    ("[−–]", "-"),  # noqa: RUF001  the minus sign and the dash that stand for a hyphen
)
_QUESTION = re.compile(
    r"^\s*(?:what\s+is|what's|how\s+much\s+is|calculate|compute|evaluate|work\s+out)\s*:?\s+(?P<sum>.+?)\s*(?:=\s*)?[?.!]?\s*"
    r"(?:(?:please\s+)?(?:answer|reply|respond|give|return)\s+(?:with\s+)?(?:only\s+)?(?:the\s+|a\s+)?"
    r"(?:number|result|value)(?:\s+only)?\s*[.!]?\s*)?$",
    re.IGNORECASE,
)
_SUM = re.compile(r"[\d\s.,+\-*/()]+")
_NO_SUM = re.compile(
    r"\d+(/\d+)+|\d+(-\d+){2,}"
)  # 9/11, 24/7, 3/4/2025, 2025-04-03: a date or a name as likely as a sum
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")


def solve(question: str) -> str | None:
    """Answers a question that is nothing but a sum, such as ``What is 12% of 50 plus 3?``; None for any other question.

    It abstains rather than guess: one word that it does not know is enough.
    """
    match = _QUESTION.match(question)
    if match is None or _NO_SUM.fullmatch(match["sum"]):
        return None
    text = match["sum"].casefold()
    for pattern, sign in _WORDS:
        text = re.sub(pattern, f" {sign} ", text)
    text = _THOUSANDS.sub("", text)
    if not _SUM.fullmatch(text) or not re.search(r"\d\D*[+\-*/]\D*\d", text) or "," in text:
        return None
    try:
        return text_of(evaluate(re.sub(r"\s+", " ", text).replace("* *", "**").replace("/ /", "//")))
    except ValueError:
        return None
