"""YAML files as one tree of plain values, with the place of each.

Read strictly, because a catalogue is law: a key given twice is refused, only ``true`` and ``false`` are truth values
(``no`` is a word), dates and 1:30 stay text, and only plain values are made (no Python objects). Anchors, aliases and
merge keys (``<<``) work within a file; top-level keys that start with ``x-`` are free for them.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from registry.places import Path, Places, name_of
from registry.problems import Place, Problem

MAX_BYTES: Final = 4 * 1024 * 1024
"""Of one file; a snapshot must fit into one Kafka record of 2 MiB anyway."""
_MAX_VALUES: Final = 200_000
"""Aliases can multiply a small file into a huge tree; a catalogue of 1,000 models has about 30,000 values."""
_FREE_TEXT: Final = frozenset({"system", "suffix", "pattern", "terms", "reason"})
"""Fields in which ``${name}`` may be meant as it stands."""
_PLACEHOLDER: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(:?[-?+][^}]*)?\}")
_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = _TAG + "merge"
_EXTENSION: Final = "x-"
_TAGGED: Final = "tag {} is not supported: write plain values"


class _UnusableError(ValueError):
    """A node that gives no value; the message is for people."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, with underscores in numbers (``500_000``)."""


_Loader.yaml_implicit_resolvers = {}  # SafeLoader's are YAML 1.1's
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9_]*)(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)", "-+0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def compose(file: File) -> tuple[MappingNode | None, list[Problem]]:
    """Parses a file; None if it is empty or can't be parsed."""
    name = str(file)
    try:
        raw = file.read_bytes()
    except OSError as error:
        return None, [Problem("", f"can't be read: {error.strerror or error}", Place(name, 1, 1))]
    if len(raw) > MAX_BYTES:
        return None, [Problem("", f"has {len(raw)} bytes; at most {MAX_BYTES} are read", Place(name, 1, 1))]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = raw.count(b"\n", 0, error.start) + 1, error.start - raw.rfind(b"\n", 0, error.start)
        return None, [Problem("", f"byte {error.start} is no UTF-8: save the file as UTF-8", Place(name, line, column))]
    return _compose_text(text, name)


def _compose_text(text: str, name: str) -> tuple[MappingNode | None, list[Problem]]:
    try:
        loader = _Loader(text)
        loader.name = name
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(name, mark.line + 1, mark.column + 1) if mark else Place(name, 1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part)
        return None, [Problem("", f"is no YAML: {what}", place)]
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(name, before.count("\n") + 1, error.position - before.rfind("\n"))
        return None, [Problem("", f"is no YAML: character U+{error.character:04X} is not allowed", place)]
    except RecursionError:
        return None, [Problem("", "is nested too deeply", Place(name, 1, 1))]
    if node is None:
        return None, []
    if not isinstance(node, MappingNode):
        return None, [Problem("", "must be a mapping of sections (name, tiers, models, ...)", _place(node))]
    return node, []


def merge(roots: Sequence[MappingNode]) -> tuple[MappingNode, list[Problem]]:
    """Several files as one: lists of the same section are joined in order, anything else may be given once only."""
    if len(roots) == 1:
        return roots[0], []
    problems: list[Problem] = []
    return _merged(roots, (), problems), problems


def _merged(nodes: Sequence[MappingNode], path: Path, problems: list[Problem]) -> MappingNode:
    pairs: dict[str, tuple[Node, Node]] = {}
    for node in nodes:
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                problems.append(Problem(".".join(map(str, path)), "a key must be a word", _place(key)))
                continue
            if key.value.startswith(_EXTENSION) and not path:
                continue  # anchors live within their file; alias nodes hold their values already
            known = pairs.get(key.value)
            if known is None or known[0].start_mark.name == key.start_mark.name:
                # Given twice in one file: the constructor says so, it needs to see both.
                pairs[key.value if known is None else f"{key.value}\0{len(pairs)}"] = (key, value)
            elif isinstance(known[1], SequenceNode) and isinstance(value, SequenceNode):
                joined = SequenceNode(value.tag, [*known[1].value, *value.value], known[1].start_mark, value.end_mark)
                pairs[key.value] = (known[0], joined)
            elif isinstance(known[1], MappingNode) and isinstance(value, MappingNode):
                pairs[key.value] = (known[0], _merged([known[1], value], (*path, key.value), problems))
            else:
                label = ".".join(str(part) for part in (*path, key.value))
                problems.append(Problem(label, f"is given already at {_place(known[0])}", _place(key)))
    return MappingNode(nodes[0].tag, list(pairs.values()), nodes[0].start_mark, nodes[-1].end_mark)


def construct(root: MappingNode) -> tuple[dict[str, object], Places, list[Problem]]:
    """Plain values (dict, list, str, int, float, bool, None), the place of each, and what can't be made."""
    builder = _Builder()
    value = builder.build(root, ())
    data = value if isinstance(value, dict) else {}
    for name in [name for name in data if name.startswith(_EXTENSION)]:
        del data[name]
    return data, builder.places, builder.problems


class _Builder:
    """Walks a tree of nodes once."""

    def __init__(self) -> None:
        self.places = Places()
        self.problems: list[Problem] = []
        self._open: list[Node] = []
        self._values = 0

    def build(self, node: Node, path: Path) -> object:
        """The value of a node; None where there is a problem."""
        self._values += 1
        self.places.values[path] = _place(node)
        if self._values > _MAX_VALUES:
            if self._values == _MAX_VALUES + 1:
                self._problem(path, node, f"aliases make more than {_MAX_VALUES} values of this file")
            return None
        if any(node is outer for outer in self._open):
            self._problem(path, node, "is an alias that contains itself")
            return None
        self._open.append(node)
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return self._sequence(node, path)
            return _plain(node, path) if isinstance(node, ScalarNode) else None
        except _UnusableError as error:
            self._problem(path, node, str(error))
            return None
        finally:
            self._open.pop()

    def _mapping(self, node: MappingNode, path: Path) -> object:
        if node.tag != _TAG + "map":
            raise _UnusableError(_TAGGED.format(node.tag))
        values: dict[str, object] = {}
        here = self.places.values[path]
        # First what is merged in, the first source last: so what stands here itself wins, in values and in places.
        for key, value in reversed(node.value):
            if key.tag == _MERGE:
                for source in reversed(list(self._merge_sources(value, path))):
                    merged = self.build(source, path)
                    values.update(merged if isinstance(merged, dict) else {})
        self.places.values[path] = here
        own: set[str] = set()
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, ScalarNode):
                self._problem(path, key, "a key must be a word")
                continue
            name = str(key.value)
            if name in own:
                first = self.places.keys[(*path, name)]
                self._problem((*path, name), key, f"is given twice; the first is on line {first.line}")
                continue
            own.add(name)
            self.places.keys[(*path, name)] = _place(key)
            values[name] = self.build(value, (*path, name))
        return values

    def _merge_sources(self, node: Node, path: Path) -> Iterator[Node]:
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if isinstance(source, MappingNode):
                yield source
            else:
                self._problem(path, source, "'<<' merges mappings only")

    def _sequence(self, node: SequenceNode, path: Path) -> object:
        if node.tag != _TAG + "seq":
            raise _UnusableError(_TAGGED.format(node.tag))
        values = []
        for index, each in enumerate(node.value):
            at = (*path, index)
            if isinstance(each, MappingNode):  # named before it is looked into, for problems inside it
                self._name(at, {key.value: part.value for key, part in each.value if isinstance(key, ScalarNode)})
            values.append(self.build(each, at))
            self._name(at, values[-1])  # merged keys can have brought the version
        return values

    def _name(self, path: Path, element: object) -> None:
        if name := name_of(element):
            self.places.names[path] = name

    def _problem(self, path: Path, node: Node, message: str) -> None:
        self.problems.append(Problem(self.places.label(path), message, _place(node)))


def _plain(node: ScalarNode, path: Path) -> str | int | float | bool | None:
    """The value of a scalar."""
    text = str(node.value)
    value: str | int | float | bool | None = text
    match node.tag.removeprefix(_TAG):
        case "null":
            value = None
        case "bool":
            value = text.lower() == "true"
        case "int" if re.fullmatch(r"[-+]?[0-9_]{1,30}", text):
            value = int(text.replace("_", ""))
        case "float" if math.isfinite(number := _float(text)):
            value = number
        case "str" | "merge":
            _refuse_placeholder(text, path)
        case "int" | "float":
            raise _UnusableError(f"{text[:40]} is no number that can be used here")
        case _:
            raise _UnusableError(_TAGGED.format(node.tag))
    return value


def _refuse_placeholder(text: str, path: Path) -> None:
    found = _PLACEHOLDER.search(text)
    if found and not _FREE_TEXT.intersection(part for part in path if isinstance(part, str)):
        raise _UnusableError(
            f"{found[0]} is a placeholder, and catalogues have none: a snapshot means the same everywhere. "
            "Addresses and keys belong in local settings (worker.endpoints)"
        )


def _float(text: str) -> float:
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return math.nan


def _place(node: Node) -> Place:
    mark = node.start_mark
    return Place(str(mark.name), mark.line + 1, mark.column + 1)
