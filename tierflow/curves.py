"""Curves of quality against cost, drawn as SVG: one panel per contest, one line per router."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 520, 340
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 40, 150, 45
_COLOURS: Final = ("#0b6e4f", "#c8553d", "#3d5a98", "#999999", "#b08900", "#7b4b94")

Curves = Mapping[str, Mapping[str, Sequence[float]]]


def draw(panels: Sequence[tuple[str, Curves]]) -> str:
    """An SVG document.

    Args:
        panels: Title of each, and for each router its costs (shares of the strong model's) and qualities.
    """
    parts = [
        f'<g transform="translate(0 {number * _HEIGHT})">{_panel(title, curves)}</g>'
        for number, (title, curves) in enumerate(panels)
    ]
    height = max(1, len(panels)) * _HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _panel(title: str, curves: Curves) -> str:
    qualities = [quality for curve in curves.values() for quality in curve["quality"]]
    low, high = min(qualities), max(qualities)
    span = max(high - low, 1e-9)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(cost: float, quality: float) -> str:
        x = _LEFT + cost * (right - _LEFT)
        return f"{x:.1f},{bottom - (quality - low) / span * (bottom - _TOP):.1f}"

    lines = [
        f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)}</text>',
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="black"/>',
        f'<text x="{(_LEFT + right) // 2}" y="{_HEIGHT - 10}" text-anchor="middle">cost (strong model = 1)</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        x = _LEFT + share * (right - _LEFT)
        y = bottom - share * (bottom - _TOP)
        lines += [
            f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{share:.1f}</text>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{low + share * span:.2f}</text>',
        ]
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(place(*point) for point in zip(curve["cost"], curve["quality"], strict=True))
        y = _TOP + 18 * number
        lines += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>',
            f'<path d="M{right + 12} {y}h20" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{right + 38}" y="{y + 4}">{escape(name)}</text>',
        ]
    return "".join(lines)
