"""The models there are: the files of a folder, and what a running server says it serves."""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from llamad.errors import LlamadError
from llamad.host.files import is_folder, names_in, status
from llamad.host.gguf import GgufError, Header, Part, read_header, split_part

MAX_DEPTH = 5
MAX_ENTRIES = 20_000
"""Files and folders that one scan looks at."""
MAX_NAMED = 5
MAX_NAMES = 64
MAX_TEXT = 512


class Kind(StrEnum):
    """What a file is for."""

    MODEL = "model"
    PROJECTOR = "projector"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One model: a file, or the parts of a split one. `path` is what `model:` names; `size` is of all parts, in bytes.

    `problem` says why it cannot be used (then `header` may be None). `projectors` and `templates` lie beside it.
    """

    path: Path
    name: str
    kind: Kind
    size: int
    parts: tuple[Path, ...]
    header: Header | None = None
    problem: str | None = None
    projectors: tuple[Path, ...] = ()
    templates: tuple[Path, ...] = ()


class ModelsFolderError(LlamadError):
    """The folder of models cannot be read."""


def scan(models_dir: Path) -> list[ModelFile]:
    """Every model below `models_dir`, by path; none where the folder is not there (yet).

    A folder below that cannot be read is in the list too, with its problem. Reads headers from the disk: call it in a
    thread. Links are followed, but no folder is entered twice; what lies deeper than MAX_DEPTH folders is left out.
    Raises ModelsFolderError.
    """
    found: list[ModelFile] = []
    try:
        for folder, files, problem in _folders(models_dir):
            if problem is not None:
                found.append(ModelFile(folder, folder.name, Kind.MODEL, 0, (), problem=problem))
            found += _of_folder(folder, files)
    except FileNotFoundError:
        return []
    except OSError as error:
        hint = "make it a folder that llamad's user may read, or correct models_dir"
        raise ModelsFolderError(f"cannot read {models_dir}: {error.strerror}", hint=hint) from error
    return sorted(found, key=lambda one: one.path)


def _folders(top: Path) -> Iterator[tuple[Path, list[Path], str | None]]:
    """Each folder with its files, and why it could not be read. OSError for the first one only."""
    visited: set[tuple[int, int]] = set()
    waiting = [(top, 0)]
    left = MAX_ENTRIES
    while waiting:
        folder, depth = waiting.pop()
        try:
            here = status(folder)
            if (here.st_dev, here.st_ino) in visited:
                continue
            visited.add((here.st_dev, here.st_ino))
            names = names_in(folder, most=left)
        except OSError as error:
            if depth == 0:
                raise
            yield folder, [], f"this folder cannot be read: {error.strerror}"
            continue
        left -= len(names)
        paths = [folder / name for name in names]
        folders = [path for path in paths if is_folder(path)]
        if depth < MAX_DEPTH:
            waiting += [(path, depth + 1) for path in reversed(folders) if not path.name.startswith(".")]
        yield folder, [path for path in paths if path not in folders], None


def _of_folder(folder: Path, files: list[Path]) -> list[ModelFile]:
    single: list[ModelFile] = []
    splits: dict[tuple[str, int], dict[int, Path]] = {}
    for path in files:
        if part := split_part(path.name):
            splits.setdefault((part.stem, part.count), {})[part.number] = path
        elif path.suffix.lower() == ".gguf":
            single.append(_one_file(path))
    split = [_split_model(folder, stem, count, parts) for (stem, count), parts in splits.items()]
    return _with_company([*single, *split], [path for path in files if path.suffix.lower() == ".jinja"])


def _one_file(path: Path) -> ModelFile:
    header, problem = _look(path)
    return ModelFile(path, path.stem, _kind(path, header), _size(path), (path,), header, problem)


def _split_model(folder: Path, stem: str, count: int, parts: Mapping[int, Path]) -> ModelFile:
    looked = {number: _look(path) for number, path in sorted(parts.items())}
    missing = [number for number in range(1, count + 1) if number not in parts]
    header = looked[1][0] if 1 in looked else None
    problem = next((f"part {number}: {why}" for number, (_, why) in looked.items() if why is not None), None)
    if strange := [number for number in parts if not 1 <= number <= count]:
        problem = f"part {min(strange)} of {count} makes no sense"
    elif missing:
        named = ", ".join(f"{number:05}" for number in missing[:MAX_NAMED])
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        problem = f"of {count} parts, these are missing: {named}{more}"
    elif problem is None and header is not None and header.split_count not in (None, count):
        problem = f"its first part speaks of {header.split_count} parts, its name of {count}"
    path = parts.get(1) or folder / Part(stem, 1, count).file_name
    there = tuple(parts[number] for number in sorted(parts))
    return ModelFile(path, stem, _kind(path, header), sum(map(_size, there)), there, header, problem)


def _look(path: Path) -> tuple[Header | None, str | None]:
    try:
        return read_header(path), None
    except GgufError as error:
        return None, str(error)
    except FileNotFoundError:
        return None, "it is a link to a file that is not there"
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"


def _size(path: Path) -> int:
    try:
        found = status(path)
    except OSError:  # the file is listed with what is wrong with it
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _kind(path: Path, header: Header | None) -> Kind:
    said = None if header is None else header.kind
    if said == "adapter":
        return Kind.ADAPTER
    clip = header is not None and header.architecture == "clip"
    return Kind.PROJECTOR if said == "mmproj" or clip or path.name.lower().startswith("mmproj") else Kind.MODEL


def _with_company(models: list[ModelFile], templates: list[Path]) -> list[ModelFile]:
    """Tell each model of the projectors and templates in its folder; a template named like one is that one's only."""
    projectors = tuple(sorted(one.path for one in models if one.kind is Kind.PROJECTOR))
    names = {one.name for one in models}
    return [
        replace(
            one,
            projectors=projectors,
            templates=tuple(path for path in templates if path.stem == one.name or path.stem not in names),
        )
        if one.kind is Kind.MODEL
        else one
        for one in models
    ]


# --- what a server serves


@dataclass(frozen=True, slots=True)
class Served:
    """What one server serves. `source`: `server`, or `file` where it did not say and its model's header speaks for it.

    None where nothing is known; `context` is that of one slot.
    """

    names: tuple[str, ...]
    source: str
    context: int | None = None
    slots: int | None = None
    path: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    modalities: tuple[str, ...] = ()


def served(models_json: object, props_json: object) -> Served | None:
    """What the answers to `/v1/models` and `/props` say (parsed JSON of whatever shape); None: nothing of use."""
    entries = _entries(models_json)
    props = props_json if isinstance(props_json, Mapping) else {}
    names: dict[str, None] = {}
    for entry in entries:
        aliases = entry.get("aliases")
        for name in (entry.get("id"), *(aliases if isinstance(aliases, list) else ())):
            if (text := _text(name)) is not None:
                names[text] = None
    if not names and (alias := _text(props.get("model_alias"))) is not None:
        names[alias] = None
    if not names and not props:
        return None
    meta = _mapping(entries[0].get("meta") if entries else None)
    settings = _mapping(props.get("default_generation_settings"))
    modalities = _mapping(props.get("modalities"))
    return Served(
        names=tuple(names)[:MAX_NAMES],
        source="server",
        context=_number(settings.get("n_ctx")) or _number(meta.get("n_ctx")),
        slots=_number(props.get("total_slots")),
        path=_text(props.get("model_path")),
        quantization=_text(props.get("model_ftype")) or _text(meta.get("ftype")),
        parameters=_number(meta.get("n_params")),
        modalities=tuple(one for one in ("vision", "video", "audio") if modalities.get(one) is True),
    )


def served_by_file(path: Path, header: Header | None) -> Served:
    """What a server of the file `path` will serve, as far as the file says."""
    part = split_part(path.name)
    name = path.stem if part is None else part.stem
    if header is None:
        return Served((name,), "file", path=str(path))
    return Served((name,), "file", header.context_length, path=str(path), quantization=header.quantization)


def _entries(models_json: object) -> list[Mapping[str, object]]:
    data = _mapping(models_json).get("data")
    return [one for one in data[:MAX_NAMES] if isinstance(one, Mapping)] if isinstance(data, list) else []


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) and value else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
