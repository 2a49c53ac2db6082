"""The trained model's word together with that of heads learnt from outcomes. numpy only.

Heads read the columns that the trained model has made of a text anyway, so they cost a matrix product a batch.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from agents.classifier.judge import Judge
from agents.classifier.judged import Judged
from agents.classifier.learning.heads import NOTHING, Heads
from agents.classifier.learning.packing import unpack
from agents.classifier.learning.state import State
from schemas.errors import UndecodableError

log = logging.getLogger(__name__)


class JudgeWithHeads:
    """Judges, and lets the promoted heads say how good each model's answer would be.

    Args:
        judge: The trained model.
        state: What was learnt, as of now.
    """

    def __init__(self, judge: Judge, state: Callable[[], State | None]) -> None:
        self._judge = judge
        self._state = state
        self._seen: State | None = None
        self._heads: Heads = NOTHING

    def __call__(self, texts: Sequence[str]) -> Sequence[Judged | None]:
        """Judge texts; a failure of the heads leaves the trained model's word as it is."""
        judged = self._judge(texts)
        state = self._state()
        if state is not self._seen:
            self._take(state)
        if state is None or not self._heads.lines:
            return judged
        # Heads read the columns of the weights that they were learnt with; of others they mean something else.
        rows = [index for index, each in enumerate(judged) if each is not None and each.version == state.weights]
        if not rows:
            return judged
        try:
            good = self._heads.good(np.array([_columns(judged[index]) for index in rows], np.float32))
        except Exception:  # a request never fails for this
            log.exception("the heads of %s failed", state.version)
            return judged
        found = list(judged)
        for place, index in enumerate(rows):
            each = judged[index]
            if each is not None:
                said = {model: float(shares[place]) for model, shares in good.items()}
                found[index] = replace(each, heads=said, heads_number=self._heads.version)
        return found

    def _take(self, state: State | None) -> None:
        self._seen, self._heads = state, NOTHING
        if state is not None:
            try:
                self._heads = unpack(state.heads)
            except UndecodableError as error:
                log.warning("the heads of %s can't be used: %s", state.version, error)


def _columns(judged: Judged | None) -> Sequence[float]:
    return () if judged is None else judged.columns
