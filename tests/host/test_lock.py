"""One runtime directory, one llamad."""

from pathlib import Path

import pytest

from llamad.errors import LlamadError
from llamad.host.dirs import Directories
from llamad.host.lock import lock_file, only_one


def test_two_do_not_share_a_runtime_directory(tmp_path: Path) -> None:
    directories = Directories(tmp_path, tmp_path, tmp_path)
    for _ in range(2):  # the first one has let go of it
        with only_one(directories), pytest.raises(LlamadError, match="another llamad already uses"):  # noqa: SIM117
            with only_one(directories):
                pass
    assert lock_file(directories).stat().st_mode & 0o777 == 0o600


def test_one_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    directories = Directories(tmp_path / "none", tmp_path, tmp_path)
    with pytest.raises(LlamadError, match=r"cannot open .*llamad\.lock: No such file"), only_one(directories):
        pass
