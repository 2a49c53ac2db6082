"""Catalogues from YAML: one file, or a folder of files whose sections are joined.

Everything that is wrong is reported in one go: an element with a mistake is put aside, and the rest is checked as if it
were there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path as File
from typing import Final

from pydantic import ValidationError

from registry.document import compose, construct, merge
from registry.errors import CatalogueProblemsError
from registry.places import Path, Places, name_of
from registry.problems import Place, Problem, in_order
from registry.validate import validate
from registry.wording import duration_of, in_words, is_duration, path_of, shape_in
from schemas.catalogue import Catalogue, Shape
from schemas.errors import CatalogueError

SHIPPED: Final = File(__file__).parent / "catalogues"
"""Folder of the catalogues that come with Tierflow."""
_SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of reading files.

    Attributes:
        catalogue: The catalogue; None if there are errors.
        problems: Errors and warnings in the order of the files.
        files: Files that were read.
    """

    catalogue: Catalogue | None
    problems: tuple[Problem, ...]
    files: tuple[File, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What must be mended."""
        return tuple(each for each in self.problems if each.is_error)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What should be looked at."""
        return tuple(each for each in self.problems if not each.is_error)


def shipped() -> tuple[str, ...]:
    """Names of the catalogues that come with Tierflow."""
    return tuple(sorted(file.stem for file in SHIPPED.glob("*.yaml")))


def find_catalogue(name: str | File) -> File:
    """The file or folder that a name stands for: a path that exists, or a shipped catalogue.

    Raises:
        CatalogueError: It is neither.
    """
    file = File(name)
    if file.exists():
        return file
    if str(name) in shipped():
        return SHIPPED / f"{name}.yaml"
    raise CatalogueError(f"no catalogue {name}: give a file, a folder or one of {', '.join(shipped())}")


def load_catalogue(*names: str | File, retention: timedelta | None = None) -> Catalogue:
    """Reads and checks a catalogue.

    Args:
        names: Files, folders or names of shipped catalogues; several are joined.
        retention: How long intake and tier topics keep records; deadlines must be shorter.

    Raises:
        CatalogueError: Names each problem with file, line, column and field.
    """
    loaded = read_catalogue(*names, retention=retention)
    if loaded.catalogue is None:
        raise CatalogueProblemsError(loaded.errors)
    return loaded.catalogue


def read_catalogue(*names: str | File, retention: timedelta | None = None) -> Loaded:
    """Reads and checks a catalogue; its problems are part of the answer.

    Raises:
        CatalogueError: There is no such file or folder.
    """
    files = _files(names)
    roots, problems = [], []
    for file in files:
        root, found = compose(file)
        problems += found
        if root is not None:
            roots.append(root)
    if problems:  # without all its files a catalogue would seem to lack what stands in the unreadable one
        return Loaded(catalogue=None, problems=in_order(problems), files=files)
    if not roots:
        nothing = Problem("", "is empty", Place(str(files[0]), 1, 1))
        return Loaded(catalogue=None, problems=(nothing,), files=files)
    root, problems = merge(roots)
    data, places, found = construct(root)
    problems += found
    catalogue, found = _shaped(data, places, {(each.field, each.place) for each in problems}, retention)
    problems += found
    sound = catalogue if not any(each.is_error for each in problems) else None
    return Loaded(catalogue=sound, problems=in_order(problems), files=files)


def _files(names: Sequence[str | File]) -> tuple[File, ...]:
    files: list[File] = []
    for name in names:
        found = find_catalogue(name)
        if found.is_dir():
            inside = sorted(file for file in found.iterdir() if file.suffix in _SUFFIXES and file.is_file())
            if not inside:
                raise CatalogueError(f"no catalogue in folder {found}: it has no file that ends with .yaml or .yml")
            files += inside
        else:
            files.append(found)
    if not files:
        raise CatalogueError(f"no catalogue given: name a file, a folder or one of {', '.join(shipped())}")
    return tuple(files)


def _shaped(
    data: dict[str, object], places: Places, known: set[tuple[str, Place | None]], retention: timedelta | None
) -> tuple[Catalogue | None, list[Problem]]:
    """Checks shapes, then references."""
    problems = _durations(Catalogue, data, (), places)
    try:
        catalogue = Catalogue.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        return catalogue, [*problems, *validate(catalogue, places, retention=retention)]
    broken: set[Path] = set()
    for each in details:
        path = path_of(each)
        at_name = each["type"] == "extra_forbidden" or "[key]" in each["loc"]
        place = places.of_key(path) if at_name else places.of(path)
        if (places.label(path), place) not in known:
            problems.append(Problem(places.label(path), in_words(each, Catalogue), place))
        index = next((at for at, part in enumerate(path) if isinstance(part, int)), None)
        broken.add(path[: index + 1] if index is not None else path)
    return None, [*problems, *_check_rest(data, places, broken, retention)]


def _check_rest(
    data: dict[str, object], places: Places, broken: set[Path], retention: timedelta | None
) -> Sequence[Problem]:
    """Checks the references of what is sound, while the broken elements count as present."""
    absent: dict[str, set[str]] = {}
    for path in sorted(broken, key=lambda path: [(isinstance(part, int), part) for part in path], reverse=True):
        *head, last = path
        holder: object = data
        for part in head:
            holder = holder[part] if isinstance(holder, dict | list) else None  # type: ignore[index]
        if isinstance(holder, list) and isinstance(last, int):
            element = holder.pop(last)
            places = places.without(path)
            names = {name_of(element), str(element.get("id")) if isinstance(element, Mapping) else ""}
            absent.setdefault(str(head[-1]), set()).update(names - {""})
        elif isinstance(holder, dict):
            holder.pop(last, None)
    data.setdefault("name", "unnamed")
    try:
        rest = Catalogue.model_validate(data)
    except ValidationError:
        return ()
    return validate(rest, places, retention=retention, absent=absent)


def _durations(shape: type[Shape], data: object, path: Path, places: Places) -> list[Problem]:
    """Turns the durations of people into those of pydantic, in place; a wrong one is taken out and reported."""
    if isinstance(data, list):
        return [
            each for index, element in enumerate(data) for each in _durations(shape, element, (*path, index), places)
        ]
    if not isinstance(data, dict):
        return []
    problems: list[Problem] = []
    for name, field in shape.model_fields.items():
        if name not in data:
            continue
        at = (*path, name)
        if is_duration(field.annotation):
            try:
                data[name] = duration_of(data[name])
            except ValueError as error:
                del data[name]
                problems.append(Problem(places.label(at), str(error), places.of(at)))
        elif inner := shape_in(field.annotation):
            problems += _durations(inner, data[name], at, places)
    return problems
