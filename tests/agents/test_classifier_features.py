"""Surface features: deterministic, bounded in cost, and an honest guess at the class."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.classifier.cues import CLASSES, PHRASES, WORDS
from agents.classifier.features import CONFIDENCE, HEAD, TAIL, Features, extract, margin_class, surface_class
from schemas.enums import TaskClass

PROMPTS = {
    TaskClass.MATH: "A train travels 120 km in 1.5 hours. What is its average speed in km per hour?",
    TaskClass.CODE: "Write a Python function that returns the second largest element of a list of integers.",
    TaskClass.WRITING: "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    TaskClass.QA: "who wrote the novel Frankenstein",
    TaskClass.REASONING: "All clues are true. Three people live in three houses next to each other. Who lives in the "
    "middle house if Ann is not next to Bob?",
    TaskClass.EXTRACT: "Summarize the following text in one sentence.\n\nText: The council met on Monday and voted to "
    "repair the bridge.",
    TaskClass.SUPPORT: "Why has my card payment been declined? I need a refund for my order.",
    TaskClass.CHAT: "hey, set an alarm for 7 am tomorrow please",
}


@pytest.mark.parametrize("label", PROMPTS)
def test_plain_cases(label: TaskClass):
    guess, confidence = surface_class(extract(PROMPTS[label]))
    assert guess is label
    assert 0.5 <= confidence <= 0.95


def test_nothing_to_judge_by():
    assert surface_class(extract("")) == (TaskClass.OTHER, 0.0)
    assert surface_class(extract("?!")) == (TaskClass.OTHER, 0.0)


def test_an_unclear_prompt_gets_little_confidence():
    _, confidence = surface_class(extract("blue table seven"))
    assert confidence < 0.6


@given(st.text(max_size=3000))
def test_any_text_has_features_and_a_class(text: str):
    features = extract(text)
    assert features == extract(text)
    assert len(features.hash()) == 16
    assert all(isinstance(value, int) for value in features)
    task_class, confidence = surface_class(features)
    assert task_class in {*CLASSES, TaskClass.OTHER}
    assert 0 <= confidence <= CONFIDENCE[-1][1]


def test_the_vector_and_its_hash_are_the_same_on_every_machine():
    features = extract("Compute 3*(x+2) = 12 for x, in $5 steps?\nA) 1\nB) 2\nC) 3")
    assert features.hash() == extract("Compute 3*(x+2) = 12 for x, in $5 steps?\nA) 1\nB) 2\nC) 3").hash()
    assert (features.choices, features.digits, features.money, features.lines) == (3, 8, 1, 3)
    assert features.formulas > 0
    assert features.hash() != extract("Compute 3*(x+2) = 12 for y, in $5 steps?\nA) 1\nB) 2").hash()


def test_surrogates_and_huge_texts_do_no_harm():
    assert extract("\ud800 hello").words == 1
    long = "word " * 200_000
    assert extract(long).chars == len(long)
    assert extract(long).words <= (HEAD + TAIL) / 5 + 2


def test_the_instruction_at_the_end_of_a_long_text_is_seen():
    text = "The council met. " * 400 + "\nSummarize the following text in one sentence."
    assert surface_class(extract(text))[0] is TaskClass.EXTRACT


def test_confidence_rises_with_the_lead():
    leads = [lead for lead, _ in CONFIDENCE]
    shares = [share for _, share in CONFIDENCE]
    assert leads == sorted(leads)
    assert shares == sorted(shares)
    assert leads[0] == 0
    _, lead = margin_class(extract(PROMPTS[TaskClass.CODE]))
    assert lead > leads[-2]


def test_cues_can_be_found():
    """A cue that the tokenizer never yields would be dead weight: each must come out as it is written."""
    for word in WORDS:
        assert extract(word.decode())[-len(CLASSES) :] != (0,) * len(CLASSES), word
    for (first, second), cues in PHRASES.items():
        for whole, column, points in cues:
            text = (whole or b" %s %s " % (first, second)).decode()
            assert extract(text)[len(Features._fields) - len(CLASSES) + column] >= points, text
