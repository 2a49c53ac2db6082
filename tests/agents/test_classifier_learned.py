"""The trained model: the same numbers alone and in a batch, on any text, from a file that is what its card says."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.classifier.judge import PASS, ModelJudge
from agents.classifier.judged import Judged, trust_in
from agents.classifier.learned.boosting import Growth, grow
from agents.classifier.learned.details import NAMES, details
from agents.classifier.learned.inputs import look
from agents.classifier.learned.language import language_of
from agents.classifier.learned.linear import strange
from agents.classifier.learned.model import Model, prior_gains
from agents.classifier.learned.ngrams import BUCKETS, CHUNK, WORDS, count, word_buckets, words_in
from agents.classifier.learned.store import card_path, load, read_card, shipped, shipped_path
from agents.classifier.learned.sureness import Sureness, sureness
from agents.classifier.training.data import read_prompts
from schemas.enums import TaskClass
from schemas.errors import ConfigurationError

DATA = Path(__file__).parents[2] / "data" / "routing"
TEXTS = [
    "Write a haiku on snow",
    "my card was declined in the shop, why?",
    "Prove that the square root of two is irrational.",
    "",
    "Fix this bug:\n\nfor i in range(10) print(i)",
    "Which gas do plants take in?\nA. oxygen\nB. carbon dioxide\nC. helium\nD. neon\nAnswer:",
]


@pytest.fixture(scope="module")
def model() -> Model:
    return shipped()


@given(st.lists(st.text(max_size=400), min_size=1, max_size=6))
def test_a_batch_counts_each_prompt_as_if_it_were_alone(texts: list[str]):
    together = count(texts)
    assert len(together.starts) == len(texts) + 1
    for row, text in enumerate(texts):
        alone = count([text])
        part = slice(together.starts[row], together.starts[row + 1])
        assert np.array_equal(together.buckets[part], alone.buckets)
        assert np.array_equal(together.counts[part], alone.counts)
        assert (np.diff(alone.buckets) > 0).all()
        assert ((alone.buckets >= 0) & (alone.buckets < BUCKETS)).all()


def test_prompts_beyond_one_chunk_of_bytes_are_counted_alike():
    texts = [f"prompt number {number} " * 60 for number in range(2 * CHUNK // 1000)]
    together, alone = count(texts), count(texts[-1:])
    assert np.array_equal(together.buckets[together.starts[-2] :], alone.buckets)


def test_the_buckets_of_a_prompt_are_the_same_on_every_machine():
    """Weights are of no use if a hash changes: these numbers must never differ."""
    assert count(["solve x+1=2"]).buckets.tolist() == [
        15, 6570, 10552, 12295, 14373, 17594, 21013, 23040, 23703, 28009, 29521, 29572, 32351, 32996,
        38656, 38765, 48883, 49792, 50326, 53670, 54844, 55290, 57956, 59476, 64803, 71613, 121543,
        130188,
    ]  # fmt: skip


@given(st.text(max_size=300))
def test_single_words_have_buckets_of_their_own(text: str):
    words = set(word_buckets(words_in(text)).tolist())
    assert words == {bucket for bucket in count([text]).buckets.tolist() if bucket >= WORDS}


def test_only_words_that_training_knows_nothing_of_are_strange():
    grams = count(["solve the flumph", "", "solve"])
    known = np.zeros(BUCKETS, bool)
    known[word_buckets([b"solve", b"the"])] = True
    assert strange(grams, known) == pytest.approx([1 / 3, 0, 0])


@given(st.text(max_size=2000))
def test_any_text_has_details(text: str):
    found = details(text)
    assert len(found) == len(NAMES)
    assert np.isfinite(found).all()
    assert np.isfinite(look([text]).dense).all()


def test_options_are_told_from_the_question():
    found = dict(zip(NAMES, details(TEXTS[-1]), strict=True))
    assert found["options"] == 4
    assert found["option_longest"] == len("carbon dioxide")
    assert found["question_words"] == 6
    assert found["ends_question"] == 1


def test_forests_learn_what_a_line_can_not():
    random = np.random.default_rng(1)
    features = random.normal(size=(3000, 5)).astype(np.float32)
    targets = np.stack(((features[:, 0] > 0) != (features[:, 1] > 0.3), features[:, 2] > 1), axis=1).astype(np.float32)
    growth = Growth(trees=80, depth=3, rate=0.2)
    forest = grow(features[:2000], targets[:2000], growth, seed=3)
    wrong = np.abs(forest.predict(features[2000:]) - targets[2000:]).mean(axis=0)
    assert (wrong < 0.2).all()
    again = grow(features[:2000], targets[:2000], growth, seed=3)
    assert all(np.array_equal(one, other) for one, other in zip(forest, again, strict=True))


def test_a_forest_of_features_that_say_nothing_tells_the_mean():
    forest = grow(np.ones((50, 3), np.float32), np.full((50, 1), 0.25, np.float32), seed=1)
    assert forest.predict(np.zeros((2, 3), np.float32)).ravel() == pytest.approx([0.25, 0.25])


def test_plain_cases(model: Model):
    judged = model.judge(TEXTS)
    assert [each.task_class for each in judged[:3]] == [TaskClass.WRITING, TaskClass.SUPPORT, TaskClass.MATH]
    assert judged[4].task_class is TaskClass.CODE
    assert judged[1].intent
    assert not judged[0].intent
    assert judged[0].language == "en"


def test_alone_and_in_a_batch_the_same(model: Model):
    for text, of_batch in zip(TEXTS, model.judge(TEXTS), strict=True):
        (alone,) = model.judge([text])
        assert alone.task_class is of_batch.task_class
        assert alone.classes == pytest.approx(of_batch.classes, abs=1e-5)
        assert alone.gain == pytest.approx(of_batch.gain, abs=1e-5)


@given(st.text(max_size=500))
def test_every_judgement_is_a_probability(text: str):
    (judged,) = shipped().judge([text], outcomes=tuple(shipped().outcomes))
    assert sum(judged.classes) == pytest.approx(1, abs=1e-4)
    assert judged.confidence == max(judged.classes)
    assert all(0 <= value <= 1 for value in (*judged.classes, judged.drift, judged.sensitivity, *judged.good.values()))
    assert np.isfinite(judged.gain)


def test_questions_of_a_known_benchmark_are_judged_by_what_was_learnt_of_it(model: Model):
    """A gate that stays shut for its own source would make the expert useless, and no score of the expert shows it."""
    for source in model.experts:
        texts = [each.text for each in read_prompts(DATA / "pairs.jsonl.gz") if each.source == source][:300]
        view = model.view(look(texts))
        prior = view.classes @ prior_gains()
        moved = np.abs(view.gain - prior) > 1e-4
        assert moved.mean() > 0.95, source
        # Sources and classes are told apart by the prior alone: on average an expert adds nothing.
        assert view.gain.mean() == pytest.approx(prior.mean(), abs=0.05)


def test_gibberish_is_no_reason_to_be_sure(model: Model):
    (judged,) = model.judge(["xq zzv brrk plomf 77 gnurr"])
    assert judged.sureness is not Sureness.SURE
    assert judged.drift > 0.3


def test_bands():
    assert [sureness(value) for value in (0.95, 0.9, 0.8, 0.7, 0.69)] == [
        Sureness.SURE,
        Sureness.SURE,
        Sureness.UNSURE,
        Sureness.UNSURE,
        Sureness.ABSTAIN,
    ]


def test_doubt_and_drift_take_weight_from_cost():
    def trust(confidence: float, drift: float) -> float:
        return trust_in(Judged(task_class=TaskClass.QA, confidence=confidence, drift=drift, version="v"))

    assert trust(0.95, 0) == 1
    assert 0 < trust(0.6, 1) < trust(0.6, 0) < trust(0.8, 0) < trust(0.95, 0)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Was ist der Unterschied zwischen Mahnung und Zahlungserinnerung?", "de"),
        ("Pourquoi la mer est-elle salée ?", "fr"),
        ("¿Cuál es el río más largo de Europa?", "es"),
        ("Як працює двигун?", "ru"),
        ("日本の首都はどこですか", "ja"),
        ("中国的首都在哪里", "zh"),
        ("I need a new card", "en"),
        ("2+2", "und"),
        ("", "und"),
    ],
)
def test_languages(text: str, language: str):
    assert language_of(text) == language


def test_the_shipped_file_is_small_and_what_its_card_says(model: Model):
    card = read_card(shipped_path())
    assert shipped_path().stat().st_size == card["bytes"] < 10_000_000
    assert model.version == card["version"]
    assert {"trained_on", "seed", "scores_on_held_out", "date", "code"} <= card.keys()


def _copy(folder: Path) -> Path:
    path = folder / "weights.npz"
    shutil.copy(shipped_path(), path)
    shutil.copy(card_path(shipped_path()), card_path(path))
    return path


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = _copy(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match="SHA-256"):
        load(path)


def test_a_file_without_card_is_refused(tmp_path: Path):
    path = _copy(tmp_path)
    card_path(path).unlink()
    with pytest.raises(ConfigurationError, match=r"weights\.json"):
        load(path)


def test_something_else_is_no_weights_file(tmp_path: Path):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"no")
    card_path(path).write_text(
        json.dumps({"sha256": "9390298f3fb0c5b160498935d79cb139aef28e1c47358b4bbba61862b9c26e59"}), encoding="utf-8"
    )
    with pytest.raises(ConfigurationError, match="no weights file"):
        load(path)


def test_the_judge_stops_when_time_is_up(model: Model):
    ticks = iter([0.0, 0.0, 0.3, 0.3])
    judge = ModelJudge(model, time_limit=timedelta(milliseconds=250), clock=lambda: next(ticks))
    found = judge(["hello there"] * (PASS + 5))
    assert all(each is not None for each in found[:PASS])
    assert found[PASS:] == [None] * 5


class _Broken:
    version = "broken"

    def judge(self, *args: object, **more: object) -> object:
        raise RuntimeError("broken")


def test_a_judge_that_fails_leaves_it_to_others():
    assert ModelJudge(_Broken())(["hello", "there"]) == [None, None]  # type: ignore[arg-type]
