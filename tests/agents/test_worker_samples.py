"""Votes, final answers, computed programs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.worker.samples import Vote, computed, final_answer, marked_answer, normalised, vote


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\nAnswer: 7", "7"),
        ("Answer: 5, no.\nanswer: **7**\nI hope so", "**7**"),
        ("Answer:\n\n  7 apples\nmore", "7 apples"),
        ("So it is\n\n  seven.  \n\n", "seven."),
        ("İİİİ\nANSWER: 42", "42"),  # longer in lower case
        ("Answer:", ""),
        ("", ""),
        ("  \n ", ""),
    ],
)
def test_the_final_answer_follows_the_last_marker_or_is_the_last_line(text, answer):
    assert final_answer(text) == answer


def test_another_marker_and_none_at_all():
    assert marked_answer("thinking\n#### 12", "####") == "12"
    assert marked_answer("thinking and nothing else", "####") == "thinking and nothing else"
    assert marked_answer("thinking\n####", "####") == "thinking\n####"


@pytest.mark.parametrize(
    "alike",
    [
        ["Answer: 7", "so it is 7.", "**7**", "x = 7", "$7.00", "7 apples", "+7"],
        ["Answer: 1,234.5", "1234.50"],
        ["B", "(b)", "B) a whitehouse", "Option B.", "b."],
        ["The Capital is Oslo!", "the capital is  oslo"],
        ["-3", "Answer: -3.0"],
    ],
)
def test_equal_answers_are_equal(alike):
    assert len({normalised(text) for text in alike}) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("7", "-7"), ("A dog", "A"), ("B", "C"), ("1/2", "12"), ("yes", "no"), ("7 or 8", "7")]
)
def test_different_answers_are_different(one, other):
    assert normalised(one) != normalised(other)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a", "b", "b"], Vote(1, 2 / 3)),
        (["a", "b"], Vote(0, 0.5)),
        (["b", "a", "a", "b"], Vote(0, 0.5)),
        ([None, "a", None, "a"], Vote(1, 0.5)),
        (["", "a"], Vote(1, 0.5)),
        ([None, None], None),
        (["", "..."], None),
        ([], None),
    ],
)
def test_the_majority_wins_and_failed_samples_agree_with_nobody(texts, expected):
    assert vote(texts) == expected


@pytest.mark.parametrize("number", ["9" * 5_000, "9" * 4_200 + "." + "1" * 4_200])
def test_a_number_without_end_is_one_vote_like_any_other(number):
    assert vote([number, "7", f"Answer: {number}"]) == Vote(0, 2 / 3)
    assert vote(["7", f"Answer: {number}", "7"]) == Vote(0, 2 / 3)


@given(st.lists(st.none() | st.sampled_from(["Answer: 1", "1", "two", "Answer: 3", ""]), max_size=12))
def test_no_other_answer_has_more_votes(texts):
    found = vote(texts)
    ballots = [normalised(text) for text in texts if text and normalised(text)]
    if found is None:
        assert not ballots
    else:
        won = normalised(texts[found.index] or "")
        assert found.agreement == ballots.count(won) / len(texts)
        assert all(ballots.count(ballot) <= ballots.count(won) for ballot in ballots)


@pytest.mark.parametrize(
    ("text", "question", "expected"),
    [
        ("```python\nboxes = 5\nboxes * 8\n```", "How many?", "40"),
        ("15 + 12", "How many? End with: Answer: <number>", "Answer: 27"),
        ("print(3 * (20 - 2.5))", "?", "52.5"),
        ("10**400 / 3", "?", "3.33333333333e+399"),
        ("__import__('os').getcwd()", "?", None),
        ("I think forty.", "?", None),
    ],
)
def test_a_program_is_computed_and_words_stand_as_they_are(text, question, expected):
    assert computed(text, question) == expected
