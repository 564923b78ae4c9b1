"""The configuration's files: the one that was named, then the drop-ins beside it. Read once; what was read is kept, so
that what is judged, applied, and kept as accepted is the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llamad.config.merging import without_servers
from llamad.config.problems import Position, Problem, ProblemKind
from llamad.config.unseen import UTF_16, UTF_16_WORDS
from llamad.config.yamltree import Node, parse_tree
from llamad.host.files import names_in, read_bytes
from llamad.host.sandbox import denied_hint

DROP_INS = "conf.d"


@dataclass(frozen=True, slots=True)
class Files:
    """The files as they were at one moment, `contents` in the order of reading; `problems` are what could not be read,
    `unread` the files and folders of these that are there all the same. `held` are files that are away just now and
    still count as they were, `has_folder` that there is one of drop-ins.
    """

    main: Path
    contents: Mapping[Path, bytes]
    problems: tuple[Problem, ...] = ()
    unread: frozenset[Path] = frozenset()
    held: frozenset[Path] = frozenset()
    has_folder: bool = True

    def gone(self, accepted: "Files") -> frozenset[Path]:
        """The files of `accepted` that are not there any more. One that cannot be read may be there."""
        there = self.contents.keys() | self.unread
        return frozenset(path for path in accepted.contents if path not in there and path.parent not in self.unread)

    def hold(self, accepted: "Files", away: Iterable[Path]) -> "Files":
        """With what these files of `accepted` said, as if they were there."""
        held = frozenset(away)
        if not held:
            return self
        contents = {**self.contents, **{path: accepted.contents[path] for path in held}}
        order = sorted(contents, key=lambda path: (path != self.main, path.name))
        problems = tuple(problem for problem in self.problems if problem.position.file not in held)
        return replace(self, contents={path: contents[path] for path in order}, problems=problems, held=held)


@dataclass(frozen=True, slots=True)
class Source:
    """One file that was read; `top` is None where it holds nothing (or nothing could be made of it)."""

    file: Path
    top: Node | None


def read_disk(file: Path) -> Files:
    """Read FILE, then `conf.d/*.yaml` beside it in name order. What cannot be read is a problem."""
    contents: dict[Path, bytes] = {}
    problems: list[Problem] = []
    there: set[Path] = set()

    def unread(path: Path, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            there.add(path)
        message = f"cannot be read: {error.strerror or error}"
        problems.append(Problem(Position(path, 1, 1), "", message, hint=denied_hint(error)))

    folder, drop_ins, has_folder = file.parent / DROP_INS, list[Path](), True
    try:
        drop_ins, problems = _drop_ins(folder)
    except FileNotFoundError:
        has_folder = False
    except OSError as error:
        unread(folder, error)
    for path in (file, *drop_ins):
        try:
            contents[path] = read_bytes(path)
        except OSError as error:
            unread(path, error)
    return Files(file, contents, tuple(problems), frozenset(there), has_folder=has_folder)


def parse(files: Files) -> tuple[list[Source], list[Problem]]:
    """The trees of the files, and everything that is wrong with their text. A server of a file that is away counts only
    where no other file has it by now: that file may have been renamed.
    """
    sources: list[Source] = []
    problems = list(files.problems)
    for path, data in files.contents.items():
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = bytes(error.object[: error.start])
            line, column = before.count(b"\n"), len(before) - (before.rfind(b"\n") + 1)
            words = UTF_16_WORDS if data.startswith(UTF_16) else "this is not UTF-8 text"
            problems.append(Problem(Position(path, line + 1, column + 1), "", words))
            continue
        top, found = parse_tree(path, text)
        problems += found
        if top is not None and top.value is not None and not isinstance(top.value, Mapping):
            problems.append(Problem(top.position, "", "the file must hold a mapping (key: value)"))
            top = None
        sources.append(Source(path, top))
    return (_without_moved(sources, files.held) if files.held else sources), problems


def _without_moved(sources: list[Source], held: frozenset[Path]) -> list[Source]:
    there = {
        name
        for source in sources
        if source.file not in held and source.top is not None and (servers := source.top.get("servers")) is not None
        for name in servers.entries
    }
    return [
        Source(source.file, without_servers(source.top, there))
        if source.file in held and source.top is not None
        else source
        for source in sources
    ]


def is_drop_in(path: Path) -> bool:
    """Whether a file of the folder DROP_INS is read: a hidden one is an editor's, or a tool's that is writing it."""
    return path.suffix == ".yaml" and not path.name.startswith(".")


def _drop_ins(folder: Path) -> tuple[list[Path], list[Problem]]:
    there = [folder / name for name in names_in(folder)]
    ignored = [
        Problem(Position(path, 1, 1), "", "is not read: drop-ins end in .yaml", ProblemKind.WORLD)
        for path in there
        if path.suffix == ".yml" and is_drop_in(path.with_suffix(".yaml"))
    ]
    return [path for path in there if is_drop_in(path)], ignored
