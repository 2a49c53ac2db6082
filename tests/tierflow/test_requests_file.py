"""Files of requests."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.errors import InputError
from schemas.headers import Name
from tierflow.requests_file import RequestLine, parse_requests, read_requests
from tierflow.sending import Defaults, prepare


def one(text: str) -> RequestLine:
    (line,) = parse_requests([text.encode()], "f")
    return line


def test_a_line_is_a_request_and_how_it_is_published() -> None:
    line = one(
        '{"prompt": "héllo", "_headers": {"tierflow.tenant": "acme", "content-type": null}, "_key": "k", '
        '"_deadline": "90s", "_repeat": 3, "_note": {"anything": [1]}}'
    )
    assert line.value == {"prompt": "héllo"}
    assert line.payload == '{"prompt":"héllo"}'.encode()
    assert line.headers == {"tierflow.tenant": "acme", "content-type": None}
    assert (line.key, line.keyed, line.repeat, line.note) == ("k", True, 3, {"anything": [1]})
    assert line.lifetime == timedelta(seconds=90)


def test_raw_bytes_are_published_as_they_are() -> None:
    assert one('{"_raw_base64": "/wAB"}').payload == b"\xff\x00\x01"
    assert one('{"_raw_base64": ""}').payload == b""
    assert one('{"_raw_base64": "", "_key": null}').keyed


def test_comments_and_empty_lines_are_skipped_and_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(b'# what this is\n\n{"prompt": "a"}\r\n   \n{"prompt": "b"}')
    assert [(line.number, line.value) for line in read_requests(file)] == [(3, {"prompt": "a"}), (5, {"prompt": "b"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[]", "must be a JSON object"),
        ('{"_header": {}}', "_header is not known"),
        ('{"_headers": []}', "_headers must be an object"),
        ('{"_headers": {"a": 1}}', "_headers must be an object"),
        ('{"_headers": {"a": "\\ud800"}}', "_headers must be an object"),
        ('{"_headers": {"\\ud800": "a"}}', "_headers must be an object"),
        ('{"_key": 5}', "_key must be text"),
        ('{"_key": "\\ud800"}', "_key must be text"),
        ('{"_deadline": "99999999999d"}', "longer than any duration"),
        ('{"_deadline": "soon"}', "_deadline"),
        ('{"_deadline": 5}', "_deadline must be a duration"),
        ('{"_deadline": "0s"}', "above zero"),
        ('{"_raw_base64": "%%%"}', "no base64"),
        ('{"_raw_base64": 5}', "must be text"),
        ('{"_raw_base64": "/wAB", "prompt": "x"}', "but there is prompt too"),
        ('{"_repeat": 0}', "_repeat must be"),
        ('{"_repeat": true}', "_repeat must be"),
        ('{"_repeat": 1000001}', "_repeat must be"),
    ],
)
def test_a_wrong_line_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        list(parse_requests([b"# first\n", text.encode()], "my.jsonl"))
    assert str(caught.value).startswith("my.jsonl:2: ")


def test_bytes_that_are_no_text_are_told() -> None:
    with pytest.raises(InputError, match=r"my\.jsonl:1: .*UTF-8|byte"):
        list(parse_requests([b'{"prompt": "\xff"}'], "my.jsonl"))


def test_the_shipped_requests_can_be_read() -> None:
    lines = read_requests(Path(__file__).parents[2] / "examples" / "requests.jsonl")
    assert len(lines) >= 80


DEFAULTS = Defaults(headers=[("tierflow.tenant", "acme")], lifetime=timedelta(seconds=10))


def prepared(line: RequestLine, defaults: Defaults = DEFAULTS) -> tuple[str, bytes | None, dict[str, bytes]]:
    made = prepare(line, "t", defaults, now_ms=1_000, new_id="new-id")
    return made.request_id, made.record.key, dict(made.record.headers)


def test_a_line_without_anything_gets_an_id_a_type_and_the_defaults() -> None:
    request_id, key, headers = prepared(one('{"prompt": "a"}'))
    assert (request_id, key) == ("new-id", b"new-id")
    assert headers == {
        Name.REQUEST_ID.value: b"new-id",
        Name.CONTENT_TYPE.value: b"application/json",
        "tierflow.tenant": b"acme",
        Name.DEADLINE.value: b"11000",
    }


def test_a_line_wins_over_the_defaults() -> None:
    request_id, key, headers = prepared(
        one('{"prompt": "a", "session": "s", "_deadline": "5s", "_headers": {"tierflow.tenant": "b", "x": "y"}}')
    )
    assert (request_id, key) == ("new-id", b"s")
    assert (headers["tierflow.tenant"], headers[Name.DEADLINE], headers["x"]) == (b"b", b"6000", b"y")


def test_an_id_can_be_named_or_left_out() -> None:
    named, key, _ = prepared(one(json.dumps({"prompt": "a", "_headers": {Name.REQUEST_ID.value: "mine"}})))
    assert (named, key) == ("mine", b"mine")
    without, key, headers = prepared(one(json.dumps({"prompt": "a", "_headers": {Name.REQUEST_ID.value: None}})))
    assert (without, key) == ("", None)
    assert Name.REQUEST_ID.value not in headers
    assert prepared(one('{"prompt": "a", "_key": null}'))[1] is None
