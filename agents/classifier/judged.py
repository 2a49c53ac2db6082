"""What a trained model says of a request, as the decision takes it. Pure, and without numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from schemas.enums import TaskClass

MODEL: Final = "model"
LLM: Final = "llm"
"""Stages that judge the text itself."""
SURE_FROM: Final = 0.9
ABSTAIN_BELOW: Final = 0.7
"""Bands of the calibrated confidence: sure; unsure, widened towards the higher tier; abstaining, cost counts least."""
UNSURE_TRUST: Final = 0.5
ABSTAIN_TRUST: Final = 0.25
"""How much of its weight cost keeps in the two lower bands. Set by hand: a wrong saving costs an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A model's word on one request.

    Attributes:
        task_class: The likeliest class.
        confidence: Calibrated probability that it's right.
        drift: How unlike training the request is, 0 to 1.
        version: Of the weights, with their checksum.
        stage: Who said so: ``model``, or ``llm`` where a language model was asked.
        good: P(answer is good) of models that outcomes were learnt of, by ``id@version``.
        domain: Subject area.
        intent: Kind of customer request, empty if it's none.
        language: BCP 47 tag.
        sensitivity: Probability that the text holds personal data.
        applied: Whether it decides; else it's only recorded.
        columns: What heads read that are learnt from outcomes, see ``Model.view``.
        heads: P(answer is good) by heads learnt in the flow, by ``id@version``.
        heads_number: Which candidate these heads were when they were promoted; 0 where none speak.
    """

    task_class: TaskClass
    confidence: float
    drift: float
    version: str
    stage: str = MODEL
    good: Mapping[str, float] = field(default_factory=dict)
    domain: str = ""
    intent: str = ""
    language: str = "und"
    sensitivity: float = 0.0
    applied: bool = True
    columns: Sequence[float] = field(default=(), repr=False, compare=False)
    heads: Mapping[str, float] = field(default_factory=dict)
    heads_number: int = 0

    def told(self) -> dict[str, object]:
        """For the record beside a decision."""
        said: dict[str, object] = {
            "applied": self.applied,
            "task_class": self.task_class.value,
            "confidence": round(self.confidence, 4),
            "drift": round(self.drift, 4),
            "domain": self.domain,
            "intent": self.intent,
            "language": self.language,
            "sensitivity": round(self.sensitivity, 4),
            "version": self.version,
        }
        if self.good:
            said["good"] = {model: round(good, 4) for model, good in self.good.items()}
        return said


def trust_in(judged: Judged, confidence: float | None = None) -> float:
    """The part of its weight that cost keeps: the less is known of a request, the more it goes to the better model.

    1 for a sure class of a familiar prompt; falls with the band of the confidence and with drift. Never 0: two plans of
    the same quality still differ in price.

    Args:
        judged: What was said of the request.
        confidence: In the class, as corrected for the route; what the model said if None.
    """
    sure = judged.confidence if confidence is None else confidence
    band = 1.0 if sure >= SURE_FROM else UNSURE_TRUST if sure >= ABSTAIN_BELOW else ABSTAIN_TRUST
    return band * (1 - 0.5 * min(max(judged.drift, 0.0), 1.0))
