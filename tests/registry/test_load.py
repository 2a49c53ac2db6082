"""Catalogues from YAML: what is read, and what is said of what can't be."""

from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest

from registry.errors import CatalogueProblemsError
from registry.load import find_catalogue, load_catalogue, read_catalogue, shipped
from registry.wording import duration_of
from schemas.errors import CatalogueError

DURATIONS = "write 30s, 5m, 1h30m, 500ms, a number of seconds or ISO 8601 (PT30S)"
PLACEHOLDERS = (
    "and catalogues have none: a snapshot means the same everywhere. "
    "Addresses and keys belong in local settings (worker.endpoints)"
)
CLASSES = "'math', 'code', 'writing', 'qa', 'reasoning', 'extract', 'support', 'chat' or 'other'"
NESTED = "which repeats inside: such an expression can take for ever; write it without one of them"

GOOD = """\
    name: test
    tiers:
      - {id: fast, rank: 1}
    models:
      - id: small
        version: "1"
        kind: openai
        name: small
        price: {version: 2026-01-02, input_micros_per_million: 1_000, output_micros_per_million: 2_000}
        typical_latency: 1.5s
    plans:
      - {id: one, pattern: router, steps: [{id: a, tier: fast, models: [small], timeout: 1h30m}]}
    routes:
      - {id: all, plans: [one]}
    intake:
      - {topic: requests, default_deadline: PT5M, max_deadline: 3600}
"""


def write(folder: Path, text: str, name: str = "c.yaml") -> Path:
    file = folder / name
    file.write_text(dedent(text), encoding="utf-8")
    return file


def told(*files: Path, retention: timedelta | None = None) -> list[str]:
    """Problems without the folder's name."""
    folder = files[0] if files[0].is_dir() else files[0].parent
    return [str(each).replace(f"{folder}/", "") for each in read_catalogue(*files, retention=retention).problems]


def test_a_catalogue_is_read_with_durations_and_dates_as_people_write_them(tmp_path: Path) -> None:
    found = load_catalogue(write(tmp_path, GOOD))
    assert found.models[0].typical_latency == timedelta(seconds=1.5)
    assert found.models[0].price.version == "2026-01-02"
    assert found.models[0].price.input_micros_per_million == 1000
    assert found.plans[0].steps[0].timeout == timedelta(minutes=90)
    assert found.intake[0].default_deadline == timedelta(minutes=5)
    assert found.intake[0].max_deadline == timedelta(hours=1)


def test_every_fault_of_a_file_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """\
        name: faults
        tiers:
          - {id: fast, rank: 1}
          - {id: slow, rank: 1}
        models:
          - id: m1
            version: 2
            kind: lama
            name: x
            price: {version: "1", input_micros_per_million: -5, output_micros_per_million: 1}
            typcial_latency: 3s
            typical_latency: 3 sec
          - id: m2
            version: "1"
            kind: openai
            name: y
            endpoint: ${BASE_URL}
            price: {version: "1", input_micros_per_million: 1, output_micros_per_million: 1}
            quality: {mth: 0.3, code: 2}
          - id: m3
            version: "1"
            kind: openai
            name: y
            defaults: {headers: {api_key: abc}}
            price: {version: "1", currency: EUR}
        plans:
          - id: p
            pattern: cascade
            steps:
              - {id: a, tier: fst, models: [m1, m9]}
              - {id: a, tier: slow, models: [m2]}
        routes:
          - {id: r, plans: [p, q]}
        policies:
          rules:
            - {id: x, task_class: math, pattern: '(a+)+$'}
        name: again
        """,
    )
    assert told(file) == [
        "c.yaml:4:22: tiers[slow].rank: 1 is the rank of fast already",
        "c.yaml:7:14: models[m1].version: must be text: put it in quotes",
        "c.yaml:8:11: models[m1].kind: 'lama' is not known; it can be 'openai', 'llama' or 'python'",
        "c.yaml:10:53: models[m1].price.input_micros_per_million: should be greater than or equal to 0, not -5",
        "c.yaml:11:5: models[m1].typcial_latency: unknown field; did you mean typical_latency?",
        f"c.yaml:12:22: models[m1].typical_latency: '3 sec' is no duration: {DURATIONS}",
        f"c.yaml:17:15: models[m2@1].endpoint: ${{BASE_URL}} is a placeholder, {PLACEHOLDERS}",
        f"c.yaml:19:15: models[m2@1].quality.mth: 'mth' is not known; it can be {CLASSES}",
        "c.yaml:19:31: models[m2@1].quality.code: should be less than or equal to 1, not 2",
        "c.yaml:25:12: models[m3@1].price.input_micros_per_million: is missing",
        "c.yaml:25:12: models[m3@1].price.output_micros_per_million: is missing",
        "c.yaml:30:23: plans[p].steps[a].tier: no tier fst; there are fast, slow",
        "c.yaml:30:41: plans[p].steps[a].models[1]: no model m9; there are m1, m2, m3",
        "c.yaml:31:9: plans[p].steps[a]: a is defined already at c.yaml:30:9",
        "c.yaml:33:24: routes[r].plans[1]: no plan q; there are p",
        f"c.yaml:36:42: policies.rules[x].pattern: repeats (a+), {NESTED}",
        "c.yaml:37:1: name: is given twice; the first is on line 1",
    ]


def test_the_error_carries_all_problems(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("rank: 1", "rank: one").replace("plans: [one]", "plans: [two]"))
    with pytest.raises(CatalogueProblemsError, match="2 problems") as error:
        load_catalogue(file)
    assert [each.field for each in error.value.problems] == ["tiers[fast].rank", "routes[all].plans[0]"]
    assert error.value.code == "configuration.catalogue"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [a", "1:9: is no YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'"),
        (
            "a:\n\tb: 1",
            "2:1: is no YAML: while scanning for the next token found character '\\t' that cannot start any token",
        ),
        ("a: *there", "1:4: is no YAML: found undefined alias 'there'"),
        ("a: \x01", "1:4: is no YAML: character U+0001 is not allowed"),
        ("a: 1\n---\nb: 2", "2:1: is no YAML: expected a single document in the stream but found another document"),
        ("- a", "1:1: must be a mapping of sections (name, tiers, models, ...)"),
        ("", "1:1: is empty"),
        ("[" * 3000, "1:1: is nested too deeply"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert told(file) == [f"c.yaml:{problem}"]


def test_a_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes("name: a\n# f\u00fcr\n".encode("latin-1"))
    assert told(file) == ["c.yaml:2:4: byte 11 is no UTF-8: save the file as UTF-8"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("x: !!python/object:os.system {}", "tag tag:yaml.org,2002:python/object:os.system is not supported"),
        ("name: !env HOME", "name: tag !env is not supported: write plain values"),
        ("name: &a [*a]", "name[0]: is an alias that contains itself"),
        ("name: 1e999", "name: 1e999 is no number that can be used here"),
        ("? [a]\n: b", "a key must be a word"),
    ],
)
def test_values_that_are_not_plain_are_refused(tmp_path: Path, line: str, problem: str) -> None:
    assert any(problem in each for each in told(write(tmp_path, line)))


def test_aliases_cannot_blow_up_a_small_file(tmp_path: Path) -> None:
    text = "x-0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    text += "".join(f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert any("aliases make more than 200000 values" in each for each in told(write(tmp_path, text)))


def test_only_true_and_false_are_truth_values(tmp_path: Path) -> None:
    file = write(tmp_path, dedent(GOOD) + "policies:\n  deny: [{id: words, terms: [no, on, yes, 1:30]}]\n")
    assert load_catalogue(file).policies.deny[0].terms == ("no", "on", "yes", "1:30")


def test_anchors_and_merge_keys_work_and_what_stands_there_wins(tmp_path: Path) -> None:
    models = """\
  - &base
    id: other
    version: "1"
    kind: openai
    name: other
    price: {version: "1", input_micros_per_million: 7, output_micros_per_million: 7}
  - {<<: *base, id: third, version: "9"}
  - {id: fourth, <<: *base}
plans:
"""
    text = "x-unused: &nobody {a: 1}\n" + dedent(GOOD).replace("plans:\n", models, 1)
    found = load_catalogue(write(tmp_path, text))
    assert [each.ref for each in found.models] == ["small@1", "other@1", "third@9", "fourth@1"]
    assert found.models[3].price.input_micros_per_million == 7


def test_a_fault_behind_an_alias_is_told_once_and_where_it_is_written(tmp_path: Path) -> None:
    text = dedent(GOOD).replace("price: {", "price: &p {").replace("1_000,", "-1,")
    text = text.replace(
        "plans:\n  - {id", '  - {id: b, version: "1", kind: openai, name: b, price: *p}\nplans:\n  - {id', 1
    )
    assert told(write(tmp_path, text)) == [
        "c.yaml:9:63: models[small@1].price.input_micros_per_million: should be greater than or equal to 0, not -1"
    ]


def test_a_folder_is_one_catalogue(tmp_path: Path) -> None:
    head, tail = dedent(GOOD).split("plans:\n", 1)
    write(tmp_path, head, "10-models.yaml")
    write(tmp_path, "plans:\n" + tail, "20-plans.yml")
    write(
        tmp_path,
        """\
        models:
          - id: large
            version: "1"
            kind: openai
            name: l
            price: {version: "1", input_micros_per_million: 1, output_micros_per_million: 1}
        policies: {max_prompt_chars: 99, deny: [{id: a, terms: [x]}]}
        """,
        "30-more.yaml",
    )
    write(tmp_path, "policies: {deny: [{id: b, terms: [y]}]}", "40-deny.yaml")
    write(tmp_path, "this is not read: [", "notes.txt")
    found = load_catalogue(tmp_path)
    assert [each.id for each in found.models] == ["small", "large"]
    assert [each.id for each in found.policies.deny] == ["a", "b"]
    assert found.policies.max_prompt_chars == 99


def test_a_folder_tells_the_file_of_each_problem(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "a.yaml")
    write(
        tmp_path,
        "name: other\nplans:\n  - {id: one, pattern: router, steps: [{id: a, tier: x, models: [small]}]}\n",
        "b.yaml",
    )
    assert told(tmp_path) == [
        "b.yaml:1:1: name: is given already at a.yaml:1:1",
        "b.yaml:3:5: plans[one]: one is defined already at a.yaml:12:5",
        "b.yaml:3:54: plans[one].steps[a].tier: no tier x; there are fast",
    ]


def test_an_unreadable_file_of_a_folder_does_not_make_the_others_look_wrong(tmp_path: Path) -> None:
    head, tail = dedent(GOOD).split("plans:\n", 1)
    file = write(tmp_path, head, "a.yaml")
    write(tmp_path, "plans: [\n" + tail, "b.yaml")
    assert [each.split(":")[0] for each in told(file, tmp_path / "b.yaml")] == ["b.yaml"]


def test_deadlines_are_held_against_retention(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    assert told(file, retention=timedelta(days=7)) == []
    (problem,) = told(file, retention=timedelta(hours=1))
    assert problem.startswith("c.yaml:16:61: intake[requests].max_deadline: 1:00:00 is not below the topics' retention")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", timedelta(seconds=30)),
        ("1h30m", timedelta(minutes=90)),
        ("1d 2h", timedelta(hours=26)),
        ("250ms", timedelta(milliseconds=250)),
        ("0.5s", timedelta(milliseconds=500)),
        ("2w", timedelta(weeks=2)),
        ("PT30S", "PT30S"),
        (30, 30),
    ],
)
def test_durations(text: object, expected: object) -> None:
    assert duration_of(text) == expected


@pytest.mark.parametrize("text", ["30", "-5s", "5 minutes", "", "s", "1h-30m", "P", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        duration_of(text)


def test_catalogues_are_found_by_path_or_shipped_name(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    assert find_catalogue(file) == file
    assert {"cloud", "local", "small"} <= set(shipped())
    assert find_catalogue("local").name == "local.yaml"
    with pytest.raises(CatalogueError, match=r"no catalogue lcal: give a file, a folder or one of cloud, local, small"):
        find_catalogue("lcal")


def test_a_folder_without_catalogues_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="it has no file that ends with"):
        load_catalogue(tmp_path)
