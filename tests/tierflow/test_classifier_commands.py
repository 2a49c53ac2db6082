"""``tierflow classifier card`` and ``tierflow eval router`` on files of one's own."""

import json
from pathlib import Path

import pytest

from tierflow.cli import main


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_card(capsys: pytest.CaptureFixture[str]):
    assert main(["--json", "classifier", "card"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["version"].startswith("router-2+")
    assert card["scores_on_held_out"]["classes"]["unseen"]["accuracy"] > 0.6


def test_scores_of_ones_own_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write(
        tmp_path / "mine.jsonl",
        {"prompt": "Write a haiku on snow", "label": "writing", "source": "mine"},
        {"prompt": "Compute 17 * 23", "label": "math", "source": "mine", "weak": 0, "strong": 1},
        {"prompt": "Say hello", "label": "chat", "source": "mine", "weak": 1, "strong": 1},
        {"prompt": "Which is it?", "scores": {"gemma-2-9b-it": 0.2, "llama-3.1-nemotron-51b-instruct": 0.9}},
    )
    report, plot = tmp_path / "out.json", tmp_path / "out.svg"
    assert main(["eval", "router", "--data", str(data), "--report", str(report), "--plot", str(plot)]) == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["classes"]["prompts"] == 3
    assert found["classes"]["accuracy"] == 1
    pairs, many = found["routing"]
    assert pairs["routers"]["learned"]["apgr"] == pytest.approx(pairs["routers"]["oracle"]["apgr"])
    assert many["name"] == "gemma-2-9b-it or llama-3.1-nemotron-51b-instruct"
    assert {"learned", "class only", "length", "random", "oracle", "fixed mix"} == pairs["routers"].keys()
    assert found["speed"]["p50_ms"] > 0
    assert plot.read_text(encoding="utf-8").startswith("<svg")
    assert "APGR" in capsys.readouterr().out


def test_models_without_a_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write(tmp_path / "mine.jsonl", {"prompt": "a", "scores": {"mine-1b": 0.2, "mine-9b": 0.9}})
    assert main(["eval", "router", "--data", str(data)]) == 65
    assert "no price is known of mine-1b, mine-9b" in capsys.readouterr().err
    prices = tmp_path / "prices.json"
    prices.write_text('{"mine-1b": {"input_usd_per_mtok": 1}, "mine-9b": {"input_usd_per_mtok": 9}}', encoding="utf-8")
    assert main(["eval", "router", "--data", str(data), "--prices", str(prices)]) == 0
    prices.write_text('{"mine-1b": 3}', encoding="utf-8")
    assert main(["eval", "router", "--data", str(data), "--prices", str(prices)]) == 65


def test_a_file_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", "router", "--data", str(write(tmp_path / "mine.jsonl", {"prompt": "a"}))]) == 65
    assert "no line has a label" in capsys.readouterr().err
