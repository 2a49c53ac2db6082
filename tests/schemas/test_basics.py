"""Ids, money, headers and the error tree."""

import inspect
import re
import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import errors
from schemas.errors import InvalidRequestError, TierflowError
from schemas.headers import PROPAGATED, TABLE, Name, checked_id, checked_int, names, propagate, value_of
from schemas.ids import chance, coordinates, derived_id, id_from_coordinates, operation_key, uuid7
from schemas.money import Money, price_of


def test_drawn_ids_are_uuids_of_version_seven_in_order_of_time() -> None:
    made = [uuid7(1000 + step) for step in range(50)]
    assert made == sorted(made)
    assert all(uuid.UUID(text).version == 7 and uuid.UUID(text).variant == uuid.RFC_4122 for text in made)
    assert len({uuid7(5) for _ in range(100)}) == 100
    assert uuid.UUID(uuid7()).int >> 80 > 1_700_000_000_000


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_derived_ids_are_equal_only_for_equal_parts(one: list[str], other: list[str]) -> None:
    made = derived_id(*one)
    assert uuid.UUID(made).version == 8
    assert uuid.UUID(made).variant == uuid.RFC_4122
    assert (made == derived_id(*other)) == (one == other)


def test_ids_stay_what_they_are_for_ever() -> None:
    # Records of last year carry these: a change here would break joins and duplicate detection.
    assert derived_id("ab", "c") == "f2939f90-3016-85bb-a9b1-e4a61cdbd376" != derived_id("a", "bc")
    assert id_from_coordinates("requests", 1, 2) == "357c657d-aa09-8bde-adc4-19931bf538cf"
    assert chance("r", "p") == pytest.approx(0.2164242022000864, abs=1e-15)
    assert id_from_coordinates("requests", 1, 2) == derived_id("record", "requests", "1", "2")
    assert operation_key("r", "s", "p", "q") == derived_id("operation", "r", "s", "p", "q")
    assert coordinates("requests", 1, 2) == "requests/1/2"


@given(st.text(), st.text())
def test_chance_is_a_share_that_repeats(request_id: str, purpose: str) -> None:
    drawn = chance(request_id, purpose)
    assert 0 <= drawn < 1
    assert drawn == chance(request_id, purpose)


def test_chance_is_even_and_purposes_are_independent() -> None:
    draws = [(chance(str(n), "a"), chance(str(n), "b")) for n in range(4000)]
    assert abs(sum(a for a, _ in draws) / 4000 - 0.5) < 0.02
    assert abs(sum((a < 0.5) == (b < 0.5) for a, b in draws) / 4000 - 0.5) < 0.03


MICROS = st.integers(-(10**15), 10**15)


@given(st.lists(MICROS, min_size=1, max_size=20))
def test_sums_of_money_are_exact_in_any_order(amounts: list[int]) -> None:
    total = Money(0)
    for amount in amounts:
        total += Money(amount)
    back = Money(0)
    for amount in reversed(amounts):
        back += Money(amount)
    assert total == back == Money(sum(amounts))
    assert total - Money(amounts[0]) == Money(sum(amounts[1:]))
    assert Decimal(str(total).split()[0]) * 1_000_000 == total.micros


def test_currencies_do_not_mix() -> None:
    for mixed in (Money.__add__, Money.__sub__):
        with pytest.raises(ValueError, match="can't mix USD and EUR"):
            mixed(Money(1), Money(1, "EUR"))


@pytest.mark.parametrize(
    ("tokens", "rate", "micros"),
    [
        (0, 10, 0),
        (1_000_000, 150_000, 150_000),
        (1, 500_000, 0),
        (3, 500_000, 2),
        (5, 500_000, 2),
        (10**12, 10**9, 10**15),
    ],
)
def test_prices_round_halves_to_even(tokens: int, rate: int, micros: int) -> None:
    assert price_of(tokens, rate) == micros


def test_the_header_table_is_complete_and_unique() -> None:
    assert [name for name, _, _ in TABLE] == list(Name)
    assert {where for _, where, _ in TABLE} == {"all", "flow", "dead letter"}
    assert all(meaning.endswith(".") or name in {Name.CE_TYPE, Name.CE_SPECVERSION} for name, _, meaning in TABLE)
    assert {name for name, where, _ in TABLE if name in PROPAGATED and where != "all"} == set()


def test_headers_are_read_and_handed_on() -> None:
    headers = [("tierflow.tenant", b"a"), ("x", b"\xff"), ("tierflow.tenant", b"b"), ("ce_id", b"1")]
    assert value_of(headers, Name.TENANT) == "b"
    assert value_of(headers, "none") is None
    with pytest.raises(InvalidRequestError, match=r"^x: header is not UTF-8 at byte 0"):
        value_of(headers, "x")
    assert propagate(headers) == [headers[0], headers[2]]
    assert names(headers) == {"tierflow.tenant", "x", "ce_id"}


@given(st.text(max_size=140))
def test_a_checked_id_is_one_word_of_bounded_length(text: str) -> None:
    try:
        assert checked_id("x", text) == text
    except InvalidRequestError:
        assert not text or len(text) > 128 or not text.isprintable() or " " in text
    else:
        assert 0 < len(text) <= 128
        assert not any(character.isspace() for character in text)


@given(st.text("-0123456789٣²+_. e", max_size=25) | st.integers().map(str))
def test_a_checked_number_is_within_its_bounds(text: str) -> None:
    try:
        assert 0 <= checked_int("x", text, 0, 9) <= 9
    except InvalidRequestError:
        assert not re.fullmatch(r"0*[0-9]", text, re.ASCII) or len(text) > 20


def _tree() -> list[type[TierflowError]]:
    return [
        found
        for found in vars(errors).values()
        if inspect.isclass(found) and issubclass(found, TierflowError) and found.__module__ == errors.__name__
    ]


def test_every_error_stands_in_the_tree_and_has_a_code_of_its_own() -> None:
    drawn = re.findall(r"\w+Error", errors.__doc__ or "")
    assert sorted(drawn) == sorted(found.__name__ for found in _tree())
    codes = [found.code for found in _tree()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(\.[a-z]+(-[a-z]+)*)*|[a-z]+(-[a-z]+)*(\.[a-z-]+)*", code) for code in codes)


def test_the_tree_is_drawn_as_it_is() -> None:
    depth: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)", line)
        if not found:
            continue
        level = len(found[1]) // 4
        parent = getattr(errors, found[2]).__mro__[1].__name__
        if level:
            assert parent == depth[level - 1], found[2]
        depth[level:] = [found[2]]
    assert depth
