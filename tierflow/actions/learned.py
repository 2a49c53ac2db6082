"""``tierflow classifier learned``: what the learner has published."""

from typing import Any

from rich.table import Table

from agents.classifier.learning.counters import ANY
from agents.classifier.learning.state import State
from agents.learner.published import LAST, newest
from streams.errors import TopicMissingError
from tierflow.console import Console
from tierflow.exits import NOT_SO, OK
from tierflow.front import Front
from tierflow.reach import rules_in_force
from tierflow.wiring import learned_topic

_OF_A_CLASS = 2
"""Length of the name of a cell of model and class."""


async def learned(front: Front) -> int:
    """Show versions, outcomes per model and class, corrections per route, and which heads were promoted.

    Raises:
        DeliveryError: The broker.
    """
    platform = await front.platform()
    snapshot = await rules_in_force(platform)
    state: State | None = None
    if snapshot is not None:
        try:
            async with learned_topic(platform) as topic:
                state = newest(await topic.last(LAST), snapshot.catalogue.name)
        except TopicMissingError:
            front.console.note("there is no topic of what was learnt: tierflow topics create")
    if state is None:
        front.console.warn("nothing was learnt yet: it takes a running learner, and results or feedback")
        return NOT_SO
    found = _told(state)
    _show(front.console, found)
    front.console.emit(found)
    return OK


def _told(state: State) -> dict[str, Any]:
    _, calibration = state.restored()
    return {
        "version": state.version,
        "sha256": state.hash,
        "catalogue": state.catalogue,
        "weights": state.weights,
        "outcomes": state.heard,
        "models": [
            {
                "model": cell[0],
                "class": cell[1],
                "outcomes": round(count.all, 1),
                "good": round(count.good / count.all, 3),
                "expected": round(count.base / count.all, 3),
            }
            for cell, count in state.counters
            if len(cell) == _OF_A_CLASS and cell[0] != ANY and count.all > 0
        ],
        "routes": [
            {
                "route": route,
                "words": round(sum(bin_.all for bin_ in state.calibration[route]), 1),
                "at_0.7": round(correction.of(0.7), 3),
                "at_0.9": round(correction.of(0.9), 3),
            }
            for route, correction in calibration.corrections().items()
        ],
        "heads_in_use": state.heads.get("version", 0),
        "comparisons": [
            {
                "heads": number,
                "held_out": each.outcomes,
                "foreseen": round(each.foreseen, 2),
                "value": round(each.candidate, 3),
                "value_in_use": round(each.current, 3),
                "promoted": each.promoted,
            }
            for number, each in state.comparisons
        ],
        "read": dict(state.positions),
    }


def _show(console: Console, found: dict[str, Any]) -> None:
    console.line(
        f"{found['version']} of catalogue {found['catalogue']}: {found['outcomes']} outcomes, heads in use: "
        f"{found['heads_in_use'] or 'none'}"
    )
    for title, rows in (
        ("Answers by model and class", found["models"]),
        ("Confidence by route, as it turned out", found["routes"]),
        ("Candidates against what was in use", found["comparisons"]),
    ):
        if rows:
            table = Table(*rows[0], title=title)
            for row in rows:
                table.add_row(
                    *(("yes" if each else "no") if isinstance(each, bool) else str(each) for each in row.values())
                )
            console.show(table)
