"""Hypothesis strategies: any record of any class, made from its ``.avsc`` and its type hints."""

from typing import Any, get_type_hints

from hypothesis import strategies as st

from schemas.avro_careful import members_of
from schemas.contract import FILES, Record, current
from schemas.edges import Feedback, Part, Request, Sampling

RECORDS = sorted(FILES, key=lambda record: record.__name__)

TEXT = st.text(max_size=20) | st.text(min_size=60, max_size=70) | st.just("x" * 200)
LONGS = st.integers(-(2**63), 2**63 - 1) | st.integers(-70, 5000) | st.just(1_763_800_000_000)
INTS = st.integers(-(2**31), 2**31 - 1) | st.integers(-70, 200)
DOUBLES = st.floats(allow_nan=False)
_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "bytes": st.binary(max_size=200),
    "int": INTS,
    "long": LONGS,
    "boolean": st.booleans(),
    "double": DOUBLES,
}
# What a pydantic model asks for beyond its Avro type.
_NARROW: dict[tuple[type[object], str], st.SearchStrategy[Any]] = {
    (Part, "sha256"): st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    (Sampling, "temperature"): st.none() | st.floats(0, 2),
    (Sampling, "top_p"): st.none() | st.floats(0, 1),
    (Sampling, "max_tokens"): st.none() | st.integers(1, 2**31 - 1),
    (Request, "latency_budget_ms"): st.none() | st.integers(1, 2**63 - 1),
    (Request, "cost_limit_micros"): st.none() | st.integers(0, 2**63 - 1),
    (Request, "cost_currency"): st.sampled_from(["USD", "EUR", "JPY"]),
    (Feedback, "rating"): st.none() | st.floats(0, 1),
}


def _values(schema: Any, hint: Any) -> st.SearchStrategy[Any]:
    if isinstance(schema, list):
        return st.none() | _values(schema[1], hint)
    if isinstance(schema, str):
        return _SCALARS[schema]
    made: st.SearchStrategy[Any]
    match schema["type"]:
        case "enum":
            made = st.sampled_from(members_of(schema, hint))
        case "array":
            made = st.lists(_values(schema["items"], hint), max_size=4).map(tuple)
        case "map":
            made = st.dictionaries(TEXT, _values(schema["values"], hint), max_size=3)
        case _:
            made = _record(_class_of(hint), schema)
    return made


def _class_of(hint: Any) -> type[Any]:
    while hasattr(hint, "__args__"):
        hint = hint.__args__[0]
    return hint  # type: ignore[no-any-return]


def _record(record: type[Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(record)
    fields = {}
    for field in schema["fields"]:
        name = field["name"]
        strategy = _NARROW.get((record, name))
        if strategy is None:
            strategy = _values(field["type"], hints[name])
        if (record, name) == (Request, "messages"):
            strategy = strategy.filter(bool)
        fields[name] = strategy
    return st.builds(record, **fields)


def any_of(record: type[Any]) -> st.SearchStrategy[Any]:
    """Any record of a class."""
    return st.deferred(lambda: _record(record, dict(current(record).source)))


def any_record() -> st.SearchStrategy[Record]:
    """Any record at all."""
    return st.one_of(*(any_of(record) for record in RECORDS))
