"""Training: from data to the same weights each time, and nothing that a head is scored on was trained on."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from agents.classifier.learned.inputs import look
from agents.classifier.learned.ngrams import BUCKETS, WORDS, word_buckets
from agents.classifier.learned.store import load, read_card
from agents.classifier.training import ridge
from agents.classifier.training.data import LABELLED, OWN, Prompt, read_labels, read_own, read_prompts
from agents.classifier.training.fit import SOURCE_GROUPS, held_out, prepare, source_groups
from agents.classifier.training.run import run
from agents.classifier.training.targets import class_weights
from agents.classifier.training.variants import with_variants
from agents.classifier.training.words import Meanings, read_meanings
from schemas.enums import TaskClass
from schemas.errors import InputError

DATA = Path(__file__).parents[2] / "data" / "routing"


def test_our_own_prompts_are_many_and_all_different():
    prompts = read_own(DATA / "own")
    assert min(Counter(prompt.label for prompt in prompts).values()) >= 150
    texts = [" ".join(prompt.text.lower().split()) for prompt in prompts]
    assert len(set(texts)) == len(texts)
    assert {prompt.label for prompt in prompts} == set(TaskClass) - {TaskClass.OTHER}


def test_our_own_prompts_are_none_of_the_public_ones():
    public = {
        " ".join(prompt.text.lower().split())
        for name in ("classes", "pairs", "multi")
        for prompt in read_prompts(DATA / f"{name}.jsonl.gz")
    }
    assert not [each for each in read_own(DATA / "own") if " ".join(each.text.lower().split()) in public]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": 3}', "x.jsonl:2: field prompt must be a text"),
        ('{"prompt": "a", "label": "maths"}', "x.jsonl:2: label 'maths' is none of"),
        ('{"prompt": "a", "weak": "no"}', "x.jsonl:2: field weak must be a number"),
        ('{"prompt": "a", "scores": 3}', "x.jsonl:2: field scores must map"),
        ('{"prompt": "a", "fold": "b"}', "x.jsonl:2: field fold must be a whole number"),
        ("[]", "x.jsonl:2: is no JSON object"),
        ("{", "can't be read as JSON lines"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, line: str, says: str):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_prompts(path)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "x.jsonl")


def test_own_prompts_of_another_form(tmp_path: Path):
    (tmp_path / "math.txt").write_text("m|fine\nno letter\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"math\.txt:2"):
        read_own(tmp_path)


def test_sources_are_left_out_whole():
    prompts = [
        Prompt(source=f"s{number % 9}", text="x", fold=0, label=TaskClass.QA if number % 2 else TaskClass.MATH)
        for number in range(90)
    ]
    groups = source_groups([*prompts, Prompt(source=OWN, text="y", fold=0, label=TaskClass.QA)])
    assert groups[-1] == -1
    for source in {prompt.source for prompt in prompts}:
        assert len({int(groups[row]) for row, prompt in enumerate(prompts) if prompt.source == source}) == 1
    assert set(groups[:-1].tolist()) == set(range(SOURCE_GROUPS))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every sixtieth row of the data."""
    folder = tmp_path_factory.mktemp("routing")
    for name in ("classes", "pairs", "multi", "personal"):
        with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            some = [json.loads(line) for line in islice(lines, 0, None, 60)]
        _write(folder / f"{name}.jsonl.gz", some)
    own = folder / "own"
    own.mkdir()
    for path in (DATA / "own").glob("*.txt"):
        lines_ = path.read_text(encoding="utf-8").splitlines()[:20]
        (own / path.name).write_text("\n".join(lines_) + "\n", encoding="utf-8")
    return folder


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_training_gives_the_same_weights_each_time(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ridge, "ROUNDS", 1)
    cards = [
        run(small, tmp_path / f"{number}.npz", lineage={"date": "today"}, tell=lambda _: None) for number in range(2)
    ]
    assert cards[0]["sha256"] == cards[1]["sha256"]
    assert read_card(tmp_path / "0.npz")["date"] == "today"
    model = load(tmp_path / "0.npz")
    assert model.judge(["Write a poem on the sea."])[0].classes
    unseen = cards[0]["scores_on_held_out"]["classes"]["unseen"]
    assert 0 < unseen["accuracy"] < 1


def test_what_is_scored_was_not_trained_on(small: Path, monkeypatch: pytest.MonkeyPatch):
    """Each left-out row is scored by a fit whose rows hold neither it nor, for unseen ones, its source."""
    from concurrent.futures import ThreadPoolExecutor

    from agents.classifier.training import fit
    from agents.classifier.training.data import read_corpus

    prepared = prepare(read_corpus(small))
    prompts = prepared.labels.prompts
    fits: dict[int, set[int]] = {}

    class Spy:
        def __init__(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
            self.rows = set(rows.tolist())

        def scores(self, made, rows):
            fits.update(dict.fromkeys(rows.tolist(), self.rows))
            seen_sources = {prompts[row].source for row in self.rows}
            for row in rows.tolist():
                assert row not in self.rows
                unseen = prompts[row].source not in seen_sources
                assert unseen or prompts[row].fold in fit.SEEN_FOLDS
            return np.zeros((len(rows), 8 + len(prepared.labels.heads["source"])), np.float32)

    monkeypatch.setattr(fit, "solve", lambda made, targets, rows: Spy(rows))
    with ThreadPoolExecutor(1) as threads:
        found = held_out(prepared, threads)
    assert found.seen.any()
    assert (~found.seen).any()
    scored = set(found.rows.tolist())
    assert scored == {row for row in fits if not prompts[row].variant}
    assert any(prompts[row].variant for row in fits)


def test_a_prompt_in_other_layouts_counts_as_one_and_stays_in_its_fold():
    prompt = Prompt(
        source=OWN, text="Sort these words. Pear, fig, plum.", fold=3, label=TaskClass.EXTRACT, domain="other"
    )
    found = with_variants([prompt, replace(prompt, text="ok")])
    texts = [each.text for each in found]
    assert texts == [
        "Sort these words. Pear, fig, plum.",
        "Sort these words.\n\nPear, fig, plum.",
        "sort these words. pear, fig, plum",
        "ok",
    ]
    assert sum(each.counts for each in found) == pytest.approx(2)
    assert {each.fold for each in found} == {3}
    assert [each.variant for each in found] == [False, True, True, False]
    # The weight of the class head is shared, too: a prompt is worth the same with variants as without.
    weights = class_weights(found)
    assert weights[:3].sum() == pytest.approx(weights[3])


def test_words_of_like_meaning_share_what_was_learnt_of_one():
    """A word that no prompt holds gets the weight of those that lie near it; one without a vector gets none."""
    texts = [f"write a {kind} number {number}" for number in range(40) for kind in ("haiku", "invoice")]
    values = np.array([[1.0], [0.0]] * 40, np.float32)
    vectors = np.zeros((BUCKETS - WORDS, 2), np.float32)
    for words, direction in (((b"haiku", b"limerick"), 0), ((b"invoice", b"receipt"), 1)):
        vectors[word_buckets(words) - WORDS, direction] = 1.0
    made = ridge.design(look(texts), Meanings(4, vectors))
    targets = ridge.Targets(
        values=values,
        weights=np.ones_like(values),
        ridge=np.ones(1, np.float32),
        form=np.ones(1, np.float32),
    )
    fit = ridge.solve(made, targets, np.arange(len(texts)))
    assert fit.scores(made, np.arange(2)).ravel() == pytest.approx([1, 0], abs=0.1)
    of_words = fit.of_grams[word_buckets([b"limerick", b"receipt", b"zzz"])].ravel()
    assert of_words[0] > 0.05
    assert of_words[1] < -0.05
    assert of_words[2] == 0
    packed = fit.pack(made).scores(look(["write a limerick number 3", "write a receipt number 3"])).ravel()
    assert packed[0] - packed[1] > 0.05


def test_vectors_of_words_are_read_and_a_broken_file_is_named(tmp_path: Path):
    assert read_meanings(tmp_path / "words.npz") is None
    path = tmp_path / "words.npz"
    np.savez(path, words=np.frombuffer(b"sea\nlake", np.uint8), vectors=np.array([[3, 0], [2, 1]], np.int8))
    meanings = read_meanings(path)
    assert meanings is not None
    assert meanings.vectors[word_buckets([b"lake"])[0] - WORDS].tolist() == [2, 1]
    np.savez(path, words=np.frombuffer(b"sea", np.uint8), vectors=np.zeros((2, 2), np.int8))
    with pytest.raises(InputError, match="has 1 words and 2 vectors"):
        read_meanings(path)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="holds no vectors"):
        read_meanings(path)


def test_labels_of_ones_own_count_as_our_prompts(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "book a court", "label": "chat", "source": "mine"}\n', encoding="utf-8")
    (prompt,) = read_labels(path)
    assert (prompt.source, prompt.label) == (LABELLED, TaskClass.CHAT)
    path.write_text('{"prompt": "book a court"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="prompt 1 has no label"):
        read_labels(path)
