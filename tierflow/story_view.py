"""One request's story as a tree for people, and as plain data for programs."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.text import Text
from rich.tree import Tree

from agents.audit.reader import detail
from agents.audit.story import Row, Story, gaps
from schemas.enums import EventType
from schemas.money import Money
from tierflow.console import clean, rows
from tierflow.durations import told

_STATUS_STYLE: Final = {
    "answered": "green",
    "refused": "yellow",
    "expired": "yellow",
    "failed": "red",
    "ok": "green",
    "timeout": "red",
    "unknown": "red",
    "escalate": "yellow",
    "refuse": "yellow",
    "allow": "green",
}


def story_data(story: Story) -> dict[str, Any]:
    """For programs: every event without its empty columns, and what is missing."""
    missing = gaps(story)
    return {
        "request_id": story.request_id,
        "status": None if story.status is None else story.status.value,
        "complete": not missing,
        "gaps": missing,
        "repeats": story.repeats,
        "events": [{**event, "detail": detail(event)} for event in rows(story.events)],
    }


def story_tree(story: Story) -> Tree:
    """For people: what happened, in order, with times from the first event on."""
    status = story.status
    head = Text.assemble(("request ", "bold"), clean(story.request_id))
    tree = Tree(head)
    if not story.events:
        tree.add(Text("no event is known of it", style="red"))
        return tree
    began = min(int(event["time_ms"]) for event in story.events)
    steps: dict[int, Tree] = {}
    for event in story.events:
        _add(tree, steps, event, began)
    if status is not None and story.repeats:
        tree.add(Text(f"{story.repeats} events came twice and were counted once", style="dim"))
    for gap in gaps(story):
        tree.add(Text.assemble(("missing: ", "bold red"), clean(gap)))
    return tree


def _add(tree: Tree, steps: dict[int, Tree], event: Row, began: int) -> None:
    kind = EventType(event["event_type"])
    index = int(event["step_index"])
    match kind:
        case EventType.REQUEST_ACCEPTED:
            day = datetime.fromtimestamp(int(event["time_ms"]) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            about = [day, _named("tenant", event["tenant"]), _named("data class", event["data_class"])]
            tree.add(_line(event, began, "accepted", ", ".join(filter(None, about))))
        case EventType.ROUTE_DECIDED:
            _decision(tree.add(_line(event, began, "decided", _decided(event))), event)
            steps[0] = tree.add(_step_title(event, 0))
        case EventType.STEP_ASSIGNED:
            steps[index] = tree.add(_step_title(event, index))
        case EventType.MODEL_ATTEMPTED:
            steps.get(index, tree).add(_attempt(event, began))
        case EventType.GUARDRAIL_EVALUATED:
            _verdicts(steps.get(index, tree).add(_line(event, began, "checked", status=event["status"])), event)
        case EventType.REQUEST_ENDED:
            tree.add(_end(event, began))
        case EventType.DEAD_LETTER_PARKED:
            tree.add(_line(event, began, "dead letter", f"{event['error_code']}: {event['reason']}"))
        case _:
            tree.add(_line(event, began, kind.value.replace("_", " "), str(event["reason"])))


def _line(event: Row, began: int, what: str, about: str = "", *, status: str = "") -> Text:
    after = told(timedelta(milliseconds=max(0, int(event["time_ms"]) - began)))
    text = Text.assemble((f"+{after}", "dim"), "  ", (what, "bold"))
    if status:
        text.append(f" {clean(status)}", style=_STATUS_STYLE.get(status, ""))
    if about:
        text.append(f"  {clean(about)}")
    return text


def _step_title(event: Row, index: int) -> Text:
    name = Text.assemble(("step ", "bold"), f"{index + 1} {clean(str(event['step_id']))}")
    return name.append(clean(f"  tier {event['tier']}, {event['model']}"), style="cyan")


def _decided(event: Row) -> str:
    found = detail(event)
    sure = f"{float(found.get('class_confidence', 0.0)):.0%} sure, by {event['status']}"
    rule = f", rule {event['rule_id']}" if event["rule_id"] else ""
    plan = f"route {event['route_id']}, plan {event['plan_id']}, snapshot {event['registry_number']}"
    return f"{event['task_class']} ({sure}{rule}); {plan}"


def _decision(branch: Tree, event: Row) -> None:
    found = detail(event)
    for candidate in found.get("candidates", ()):
        branch.add(_candidate(candidate, chosen=_chosen(candidate, event)))
    signals = found.get("signals") or {}
    if signals:
        branch.add(Text(clean(f"signals: {json.dumps(signals, sort_keys=True)}"), style="dim"))


def _chosen(candidate: Mapping[str, Any], event: Row) -> bool:
    return bool(candidate["plan"] == event["plan_id"])


def _candidate(candidate: Mapping[str, Any], *, chosen: bool) -> Text:
    name = clean(f"{candidate['plan']}: {candidate['tier']} {candidate['model']}")
    if excluded := candidate.get("excluded"):
        return Text.assemble((f"✗ {name}", "dim"), (f"  excluded: {clean(str(excluded))}", "dim"))
    numbers = (
        f"quality {float(candidate['quality']):.2f}, cost {int(candidate['cost_micros'])} micros, "
        f"score {float(candidate['score']):.3f}, propensity {float(candidate['propensity']):.2f}"
    )
    return Text.assemble((f"{'●' if chosen else '○'} {name}", "green" if chosen else ""), f"  {numbers}")


def _attempt(event: Row, began: int) -> Text:
    found = detail(event)
    text = _line(event, began, f"call {event['attempt']}", str(event["model"]), status=str(event["status"]))
    tokens = f"{event['tokens_in']} tokens in, {event['tokens_out']} out"
    parts = [told(timedelta(milliseconds=int(event["duration_ms"]))), tokens, _cost(event)]
    if int(event["cpu_us"]):
        parts.append(f"{int(event['cpu_us']) / 1e6:.2f} CPU s")
    if (logprob := found.get("mean_logprob")) is not None:
        parts.append(f"mean log-probability {float(logprob):.2f}")
    if found.get("cached_from"):
        parts.append("answer reused")
    if event["error_code"]:
        parts.append(f"{event['error_code']}: {event['reason']}")
    return text.append(clean("  " + ", ".join(parts)), style="dim")


def _verdicts(branch: Tree, event: Row) -> None:
    for verdict in detail(event).get("verdicts", ()):
        _verdict(branch, verdict)


def _verdict(branch: Tree, verdict: Mapping[str, Any]) -> None:
    action = str(verdict.get("action", ""))
    text = Text.assemble((action, _STATUS_STYLE.get(action, "")), clean(f"  {verdict.get('check', '')}"))
    score = verdict.get("score")
    if score is not None:
        text.append(f" {float(score):.3g}")
    if verdict.get("reason"):
        text.append(clean(f"  {verdict['reason']}"), style="dim")
    branch.add(text)


def _end(event: Row, began: int) -> Text:
    found = detail(event)
    text = _line(event, began, "ended", status=str(event["status"]))
    if event["error_code"] or event["reason"]:
        text.append(clean(f"  {': '.join(filter(None, (event['error_code'], event['reason'])))}"))
    counts = [f"{event['attempt']} calls", _cost(event), told(timedelta(milliseconds=int(event["duration_ms"])))]
    if int(found.get("escalations", 0)):
        counts.insert(0, f"{found['escalations']} escalations")
    if found.get("duplicate_of"):
        counts.append(f"duplicate of {found['duplicate_of']}")
    if found.get("order_relaxed"):
        counts.append("order relaxed")
    counts.append(str(event["delivery_mode"]))
    return text.append(clean("  " + ", ".join(filter(None, counts))), style="dim")


def _cost(event: Row) -> str:
    return str(Money(int(event["billed_micros"]), str(event["currency"]) or "USD"))


def _named(what: str, value: object) -> str:
    return f"{what} {value}" if value else ""
