"""Rules and deny lists: what they find, and which expressions are refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.patterns import WINDOW_CHARS, compile_deny, compile_rule, nested_repeat
from schemas.catalogue import DenyList, Rule
from schemas.errors import CatalogueError


def found(text: str, *terms: str) -> str:
    return compile_deny(DenyList(id="d", terms=terms)).find(text)


@pytest.mark.parametrize(
    ("text", "terms", "hit"),
    [
        ("The Project\n  Moonquill plan", ("project moonquill",), "Project\n  Moonquill"),
        ("moonquills", ("moonquill",), ""),
        ("remoonquill", ("moonquill",), ""),
        ("(MOONQUILL)", ("moonquill",), "MOONQUILL"),
        ("moonquill's", ("moonquill",), "moonquill"),
        ("STRASSE und STRA\u1e9eE", ("stra\u00dfe",), "STRA\u1e9eE"),
        ("C++ is fine, C is not", ("C++",), "C++"),
        ("C+++", ("C++",), "C++"),
        ("a caf\u0065\u0301 here", ("caf\u00e9",), "caf\u00e9"),
        ("\uff4d\uff4f\uff4f\uff4e", ("moon",), "moon"),
        ("\u6211\u8981\u6708\u7fbd\u7b14\u7684\u8ba1\u5212", ("\u6708\u7fbd\u7b14",), "\u6708\u7fbd\u7b14"),
        (
            "\u041b\u0443\u043d\u0430 \u0437\u0434\u0435\u0441\u044c",
            ("\u043b\u0443\u043d\u0430",),
            "\u041b\u0443\u043d\u0430",
        ),
        ("\u041b\u0443\u043d\u0430\u043c", ("\u043b\u0443\u043d\u0430",), ""),
        ("a.b", ("a.b", "axb"), "a.b"),
        ("moon base alpha", ("moon", "moon base"), "moon base"),
        ("moon basement", ("moon", "moon base"), "moon"),
        ("moonbase", ("moon", "moon base"), ""),
        ("ab", ("a", "abc", "ab", "b"), "ab"),
        ("anything", (" ",), ""),
        ("", ("moon",), ""),
    ],
)
def test_deny_lists_find_whole_words_in_any_script(text: str, terms: tuple[str, ...], hit: str) -> None:
    assert found(text, *terms) == hit


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5), st.data())
def test_a_term_is_found_in_itself_whatever_it_is_made_of(terms: list[str], data: st.DataObject) -> None:
    term = data.draw(st.sampled_from(terms))
    if term.strip():
        assert found(f" {term} ", *terms)


@given(st.lists(st.text("ab c", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=6), st.text("ab c"))
def test_one_expression_for_all_terms_finds_what_one_for_each_finds(terms: list[str], text: str) -> None:
    each = [re.search(r"\b" + r"\s+".join(term.split()) + r"\b", text) for term in terms]
    assert bool(found(text, *terms)) == any(each)


def test_a_long_list_is_one_small_expression() -> None:
    terms = [f"project {chr(97 + n % 26)}{n}" for n in range(2_000)]
    deny = compile_deny(DenyList(id="d", terms=tuple(terms)))
    assert len(deny.regex.pattern) < 25_000
    assert deny.find("about project z1845, say") == "project z1845"
    assert deny.find("about project z18451") == ""


def test_a_term_that_is_a_text_is_refused() -> None:
    with pytest.raises(CatalogueError, match="has more than 100 characters"):
        found("", "a" * 101)


def test_rules_search_without_case_in_both_ends_of_a_long_text() -> None:
    rule = compile_rule(Rule(id="r", pattern=r"\bsum\b"))
    filler = "word " * WINDOW_CHARS
    assert rule.matches("What SUM?")
    assert rule.matches(filler + "the sum")
    assert rule.matches("the sum " + filler)
    assert not rule.matches(filler + " sum " + filler)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a*)*b", r"(\w+\s?)*$", "((ab)*c)*", "(?:x{2,}y)+", r"([a-z]+)+\d", "(a|b+)*", r"(\(+)+", "(a{1,99})+"],
)
def test_a_repeat_inside_a_repeat_is_refused(pattern: str) -> None:
    with pytest.raises(CatalogueError, match="which repeats inside"):
        compile_rule(Rule(id="r", pattern=f"x{pattern}"))


@pytest.mark.parametrize(
    "pattern",
    [
        "(ab)+",
        "a+b*",
        r"\(a+\)+x",
        "[+*]+(x)",
        "(a+)?b",
        "(a+){2}",
        "(?:a{1,3},)+b",
        r"[()]+",
        r"[\]+)]*(a)+",
        "(a)+(b)+",
    ],
)
def test_harmless_repeats_are_allowed(pattern: str) -> None:
    assert nested_repeat(pattern) is None
