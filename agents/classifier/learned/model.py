"""The trained model: from prompts to judgements. Pure; numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np

from agents.classifier.cues import CLASSES
from agents.classifier.features import Features
from agents.classifier.learned.forest import Floats, Forest
from agents.classifier.learned.inputs import Inputs, look
from agents.classifier.learned.language import language_of
from agents.classifier.learned.linear import Linear
from agents.classifier.learned.sureness import Confidence, Evidence, Sureness, sureness
from schemas.enums import TaskClass

SHARPNESS_OF_SUBJECTS: Final = 8.0
"""Factor of subject scores in their softmax: scores of a linear fit lie between 0 and 1."""
GATE_FROM, GATE_TO = 0.25, 0.75
"""Score of a source from which, and up to which, what was learnt on it is trusted more and more."""

PRIOR_GAIN: Final[Mapping[TaskClass, float]] = {
    TaskClass.MATH: 0.45,
    TaskClass.CODE: 0.45,
    TaskClass.REASONING: 0.35,
    TaskClass.EXTRACT: 0.25,
    TaskClass.QA: 0.12,
    TaskClass.SUPPORT: 0.12,
    TaskClass.WRITING: 0.06,
    TaskClass.CHAT: 0.03,
}
"""What a strong model is worth over a weak one before anything was learnt, set by hand: mathematics and code need it
most, reasoning and extraction next, writing and chat least."""


class Judgement(NamedTuple):
    """What the model says of a prompt."""

    task_class: TaskClass
    confidence: float
    """Calibrated probability that the class is right."""
    margin: float
    """Lead over the second class, in probability."""
    classes: tuple[float, ...]
    """Probabilities in the order of ``cues.CLASSES``."""
    domain: str
    domain_confidence: float
    intent: str
    """Kind of customer request; empty unless the class is ``support``."""
    language: str
    """BCP 47, ``und`` if nothing speaks for one."""
    sensitivity: float
    """Probability that a prompt holds personal data."""
    drift: float
    """How unlike training it is, 0 to 1."""
    gain: float
    """Expected quality that a strong model adds to a weak one's."""
    good: Mapping[str, float]
    """P(answer is good) of each model that outcomes were learnt of, by ``id@version``."""
    columns: Sequence[float] = ()
    """Its row of ``View.columns``: what heads read that are learnt in the flow."""

    @property
    def sureness(self) -> Sureness:
        """Whether to rest on the class."""
        return sureness(self.confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What was learnt from outcomes of some models.

    Attributes:
        models: Names of the models, ``id@version`` for those of a catalogue.
        forest: From dense features and class probabilities to the share of good answers, an output per model.
    """

    models: tuple[str, ...]
    forest: Forest

    def good(self, columns: Floats) -> Floats:
        """P(answer is good). Shape (rows, models)."""
        return np.clip(self.forest.predict(columns), 0.01, 0.99)


SELDOM: Final = ("subject", "gain")
"""Heads that come last, and are asked only for prompts like those they were trained on."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Weights, and what their columns mean.

    Attributes:
        version: Name and checksum.
        linear: All linear heads.
        heads: Labels of each linear head, in the order of the outputs.
        confidence: Calibration of the class.
        sensitive: Slope and offset from the score to a probability.
        subject_gain: Gain of each subject. Shape (subjects,).
        experts: Source -> the trees that say what a strong model is worth on prompts like its own.
        levels: Source -> what is added to that, so that a source's prompts are worth on average what the prior of their
            classes says: experts tell apart the prompts of a source, the prior sources and classes.
        outcomes: Sets of models whose outcomes were learnt.
    """

    version: str
    linear: Linear
    heads: Mapping[str, tuple[str, ...]]
    confidence: Confidence
    sensitive: tuple[float, float]
    subject_gain: Floats
    experts: Mapping[str, Forest]
    levels: Mapping[str, float]
    outcomes: Mapping[str, Outcomes]

    def judge(
        self, texts: Sequence[str], features: Sequence[Features] | None = None, *, outcomes: Sequence[str] = ()
    ) -> list[Judgement]:
        """Judge prompts, one or many in one pass.

        Args:
            texts: What is asked.
            features: Their surface features, if those are known already.
            outcomes: Sets of models to say P(good) of, see ``outcomes`` of this class.
        """
        if not texts:
            return []
        view = self.view(look(texts, features))
        models = [model for name in outcomes for model in self.outcomes[name].models]
        parts = [self.outcomes[name].good(view.columns) for name in outcomes]
        table = np.concatenate(parts, axis=1).tolist() if parts else [()] * len(texts)
        ranked = np.argsort(view.classes, axis=1)
        domains, intents = view.domains.argmax(axis=1), view.intents.argmax(axis=1)
        found = []
        for row, text in enumerate(texts):
            best, second = int(ranked[row, -1]), int(ranked[row, -2])
            classes = view.classes[row].tolist()
            task_class = CLASSES[best]
            found.append(
                Judgement(
                    task_class,
                    classes[best],
                    classes[best] - classes[second],
                    tuple(classes),
                    self.heads["domain"][domains[row]],
                    float(view.domains[row, domains[row]]),
                    self.heads["intent"][intents[row]] if task_class is TaskClass.SUPPORT else "",
                    language_of(text),
                    float(view.sensitivity[row]),
                    float(view.drift[row]),
                    float(view.gain[row]),
                    dict(zip(models, table[row], strict=True)),
                    view.columns[row],
                )
            )
        return found

    def view(self, inputs: Inputs) -> "View":
        """All numbers of prompts, as arrays."""
        places = self.places
        scores = self._always.scores(inputs)
        parts = {name: scores[:, place] for name, place in places.items() if name not in SELDOM}
        evidence = Evidence(parts["class"], parts["source"].max(axis=1), self.linear.unknown(inputs.grams))
        classes, drift = self.confidence.of(evidence)
        columns = np.concatenate((inputs.dense, classes), axis=1, dtype=np.float32)
        slope, offset = self.sensitive
        return View(
            classes,
            drift,
            softmax(6.0 * parts["domain"]),
            softmax(6.0 * parts["intent"]),
            1 / (1 + np.exp(-(slope * parts["sensitive"][:, 0] + offset))),
            self._gain(inputs, parts, classes),
            columns,
        )

    @cached_property
    def places(self) -> Mapping[str, slice]:
        """The outputs of each linear head."""
        ends = accumulate(map(len, self.heads.values()))
        return {
            name: slice(end - len(labels), end) for (name, labels), end in zip(self.heads.items(), ends, strict=True)
        }

    @cached_property
    def _always(self) -> Linear:
        return self.linear.part(slice(0, self.places[SELDOM[0]].start))

    @cached_property
    def _seldom(self) -> Linear:
        return self.linear.part(slice(self.places[SELDOM[0]].start, None))

    def _gain(self, inputs: Inputs, parts: Mapping[str, Floats], classes: Floats) -> Floats:
        """What a strong model is worth: as learnt on sources like this, else by the prior of the class."""
        gain: Floats = classes @ prior_gains()
        for name, forest in self.experts.items():
            score = parts["source"][:, self.heads["source"].index(name)]
            gate = gate_of(score)
            rows = np.flatnonzero(gate > 0)
            if not len(rows):
                continue
            of_form = forest.predict(inputs.dense[rows])[:, 0]
            learnt = of_form
            if name == "mmlu":
                words = self._seldom.scores(inputs.take(rows))
                of_subject = softmax(SHARPNESS_OF_SUBJECTS * words[:, :-1]) @ self.subject_gain
                learnt = mixed_views(of_form, words[:, -1], of_subject)
            gain[rows] = gate[rows] * (learnt + self.levels[name]) + (1 - gate[rows]) * gain[rows]
        return gain


def prior_gains() -> Floats:
    """``PRIOR_GAIN`` in the order of the classes. Shape (classes,)."""
    return np.array([PRIOR_GAIN[each] for each in CLASSES], np.float32)


def gate_of(score: Floats) -> Floats:
    """How far what was learnt on a source is trusted, by the source's score. Shape (rows,)."""
    found: Floats = np.clip((score - GATE_FROM) / (GATE_TO - GATE_FROM), 0.0, 1.0)
    return found


def mixed_views(form: Floats, words: Floats, subjects: Floats) -> Floats:
    """What a question is worth: half by its form (trees), half by its words (own fit, and likely subjects)."""
    found: Floats = 0.5 * form + 0.25 * words + 0.25 * subjects
    return found


class View(NamedTuple):
    """All numbers that the model has of prompts, one row each."""

    classes: Floats
    drift: Floats
    domains: Floats
    intents: Floats
    sensitivity: Floats
    gain: Floats
    columns: Floats
    """Dense features and class probabilities: what outcomes are learnt from."""


def softmax(scores: Floats) -> Floats:
    """Shares that add up to 1 in each row."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found
