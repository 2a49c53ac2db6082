"""The demonstration's tables."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import quantiles
from typing import Any, Final

from rich.table import Table

from agents.audit.reader import Reconciliation
from schemas.enums import Status
from tierflow.console import one_line
from tierflow.demo.compare import ROUTED, Arm
from tierflow.demo.drive import Outcome
from tierflow.demo.workload import Score

CHECKED_CLASSES: Final = ("math", "code", "qa", "reasoning", "extract", "support")


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=index >= left)
    return table


def by_tier_and_class(outcomes: Sequence[Outcome], score: Score) -> Table:
    """What happened, per tier that ended the request and class that the data names."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.result is not None and outcome.result.steps:
            groups[outcome.result.tier, outcome.asked.label].append(outcome)
    table = _table(
        "What came of the requests that reached a model, by the tier that ended them",
        "tier",
        "class",
        "answered",
        "escalated",
        "refused",
        "failed",
        "expired",
        "right",
        "p50 s",
        "p95 s",
        "tokens in/out",
        "CPU s",
        left=2,
    )
    last = ""
    for (tier, label), found in sorted(groups.items(), key=_tier_order(outcomes)):
        table.add_row("" if tier == last else tier, label, *_numbers(found, score))
        last = tier
    table.add_section()
    table.add_row("all", "", *_numbers([each for found in groups.values() for each in found], score))
    return table


def _tier_order(outcomes: Iterable[Outcome]) -> Any:
    """Tiers by what they cost on average, so that the table climbs."""
    costs: dict[str, list[int]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.result is not None:
            costs[outcome.result.tier].append(outcome.result.cost_micros)
    mean = {tier: sum(found) / len(found) for tier, found in costs.items()}

    def key(item: tuple[tuple[str, str], list[Outcome]]) -> tuple[float, str]:
        (tier, label), _ = item
        return (mean[tier], label)

    return key


def _numbers(found: Sequence[Outcome], score: Score) -> list[str]:
    results = [each.result for each in found if each.result is not None]
    count = Counter(result.status for result in results)
    checked = [right for each in found if (right := each.right(score)) is not None]
    seconds = sorted(each.after.total_seconds() for each in found)
    return [
        str(count[Status.ANSWERED]),
        _or_dash(sum(1 for result in results if result.escalations)),
        _or_dash(count[Status.REFUSED]),
        _or_dash(count[Status.FAILED]),
        _or_dash(count[Status.EXPIRED]),
        f"{sum(checked)} of {len(checked)}" if checked else "-",
        f"{_quantile(seconds, 0.5):.1f}",
        f"{_quantile(seconds, 0.95):.1f}",
        f"{sum(result.tokens_in for result in results)}/{sum(result.tokens_out for result in results)}",
        f"{sum(result.cpu_us for result in results) / 1e6:.1f}",
    ]


def _or_dash(number: int) -> str:
    return str(number) if number else "-"


def _quantile(ordered: Sequence[float], share: float) -> float:
    if len(ordered) < 2:
        return ordered[0] if ordered else 0.0
    return quantiles(ordered, n=100, method="inclusive")[round(share * 100) - 1]


def without_model(outcomes: Sequence[Outcome]) -> Table:
    """What ended before a model was asked, with the reason that names the field or byte."""
    table = _table("What ended before a model was asked", "what was sent", "ended as", "code", "reason", left=4)
    for outcome in outcomes:
        if outcome.result is not None and not outcome.result.steps:
            result = outcome.result
            reason = f"of {result.duplicate_of}" if result.duplicate_of else result.reason
            table.add_row(outcome.asked.label, outcome.status, result.error_code, one_line(reason, 90))
        elif outcome.parked is not None:
            parked = outcome.parked
            table.add_row(outcome.asked.label, outcome.status, parked.code, one_line(parked.message, 90))
        elif outcome.result is None:
            table.add_row(outcome.asked.label, outcome.status, "", one_line(outcome.unpublished, 90))
    return table


def comparison(arms: Sequence[Arm], *, stand_in: bool) -> Table:
    """The bottom line."""
    title = "The bottom line: the same questions, routed and everything to one tier"
    table = _table(
        title + (" (one stand-in model behind all tiers: says nothing about routing)" if stand_in else ""),
        "",
        "right",
        "accuracy",
        "cost (price-like, micro-units)",
        "CPU s",
        "cost per right answer",
    )
    for arm in sorted(arms, key=lambda each: (each.name != ROUTED, each.cost_micros)):
        name = "routed (this run)" if arm.name == ROUTED else f"everything to {arm.name} (recorded)"
        table.add_row(
            name,
            f"{arm.right} of {arm.questions}",
            f"{arm.accuracy:.1%}",
            f"{arm.cost_micros:,}",
            f"{arm.cpu_s:.1f}",
            f"{arm.cost_micros / arm.right:,.0f}" if arm.right else "-",
            style="bold" if arm.name == ROUTED else "",
        )
    return table


def balance(books: Reconciliation, outcomes: Sequence[Outcome]) -> str:
    """Accepted against ended, in one line."""
    ended = " + ".join(f"{count} {status.value}" for status, count in sorted(books.ended.items()))
    parked = sum(books.dead_letters.values())
    sent = sum(outcome.asked.line.repeat for outcome in outcomes if not outcome.unpublished)
    return (
        f"{books.accepted} accepted = {ended or 'none ended'}; of {sent} records sent, "
        f"{books.duplicates_dropped} repeated a request and {parked} were no request"
    )
