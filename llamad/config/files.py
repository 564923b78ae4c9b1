"""Reading the configuration's files: the one that was named, then the drop-ins beside it."""

from dataclasses import dataclass
from pathlib import Path

from llamad.config.problems import Position, Problem, ProblemKind
from llamad.config.yamltree import Node, parse_tree
from llamad.host.files import MOST_BYTES, names_in, read_bytes

DROP_INS = "conf.d"


@dataclass(frozen=True, slots=True)
class Source:
    """One file that was read; `top` is None where it holds nothing (or nothing could be made of it)."""

    file: Path
    top: Node | None


def read_files(file: Path) -> tuple[list[Source], list[Problem]]:
    """Read FILE, then `conf.d/*.yaml` beside it in name order. What cannot be read is a problem and no source."""
    sources: list[Source] = []
    problems: list[Problem] = []
    drop_ins, found = _drop_ins(file.parent / DROP_INS)
    problems += found
    for path in (file, *drop_ins):
        try:
            text = read_bytes(path, most=MOST_BYTES).decode("utf-8-sig")
        except OSError as error:
            problems.append(Problem(Position(path, 1, 1), "", f"cannot be read: {error.strerror or error}"))
            continue
        except UnicodeDecodeError as error:
            before = bytes(error.object[: error.start])
            line, column = before.count(b"\n"), len(before) - (before.rfind(b"\n") + 1)
            problems.append(Problem(Position(path, line + 1, column + 1), "", "this is not UTF-8 text"))
            continue
        top, found = parse_tree(path, text)
        problems += found
        if top is not None and top.value is not None and not hasattr(top.value, "items"):
            problems.append(Problem(top.position, "", "the file must hold a mapping (key: value)"))
            top = None
        sources.append(Source(path, top))
    return sources, problems


def is_drop_in(path: Path) -> bool:
    """Whether a file of the folder DROP_INS is read: a hidden one is an editor's, or a tool's that is writing it."""
    return path.suffix == ".yaml" and not path.name.startswith(".")


def _drop_ins(folder: Path) -> tuple[list[Path], list[Problem]]:
    try:
        names = names_in(folder)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [Problem(Position(folder, 1, 1), "", f"cannot be read: {error.strerror}")]
    there = [folder / name for name in names]
    ignored = [
        Problem(Position(path, 1, 1), "", "is not read: drop-ins end in .yaml", ProblemKind.WORLD)
        for path in there
        if path.suffix == ".yml" and is_drop_in(path.with_suffix(".yaml"))
    ]
    return [path for path in there if is_drop_in(path)], ignored
