"""The package and the install script, as far as they can be seen without installing anything."""

import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGING = REPOSITORY / "packaging"
SCRIPTS = [PACKAGING / "install", PACKAGING / "build-deb", PACKAGING / "layout.sh"] + [
    PACKAGING / "deb" / name for name in ("preinst", "postinst", "prerm", "postrm")
]
DEBIAN_NAMES = {"python-json-logger": "pythonjsonlogger", "pyyaml": "yaml"}

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is Debian's")


def output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    output(PACKAGING / "build-deb", folder)
    return next(folder.glob("*.deb"))


@pytest.fixture(scope="module")
def contents(package: Path) -> dict[str, str]:
    """path -> mode, owner and group, of the package."""
    lines = [line.split(maxsplit=5) for line in output("dpkg-deb", "--contents", package).splitlines()]
    return {line[5].removeprefix("."): f"{line[0]} {line[1]}" for line in lines}


@needs_dpkg
def test_the_package_has_every_part(contents: dict[str, str]) -> None:
    assert {path for path in contents if "/dist-packages/" not in path and not path.endswith("/")} == {
        "/etc/llamad/llamad.yaml",
        "/usr/bin/llamad",
        "/usr/lib/systemd/system/llamad.service",
        "/usr/lib/systemd/system/llamad.socket",
        "/usr/lib/sysusers.d/llamad.conf",
        "/usr/lib/tmpfiles.d/llamad.conf",
        "/usr/share/bash-completion/completions/llamad",
        "/usr/share/doc/llamad/changelog.gz",
        "/usr/share/doc/llamad/copyright",
        *(f"/usr/share/doc/llamad/examples/{path.name}" for path in (REPOSITORY / "systemd/examples").iterdir()),
        "/usr/share/fish/vendor_completions.d/llamad.fish",
        "/usr/share/lintian/overrides/llamad",
        "/usr/share/man/man5/llamad.yaml.5.gz",
        "/usr/share/man/man8/llamad.8.gz",
        "/usr/share/zsh/vendor-completions/_llamad",
    }
    assert "/etc/llamad/conf.d/" in contents


@needs_dpkg
def test_the_package_has_every_module_and_nothing_of_the_tests(contents: dict[str, str]) -> None:
    modules = {
        f"/usr/lib/python3/dist-packages/{path.relative_to(REPOSITORY)}" for path in REPOSITORY.glob("llamad/**/*.py")
    }
    found = {path for path in contents if path.endswith(".py")}
    assert found == modules


@needs_dpkg
def test_everything_belongs_to_root_and_only_programs_are_executable(contents: dict[str, str]) -> None:
    assert {mode.split()[1] for mode in contents.values()} == {"root/root"}
    assert [path for path, mode in contents.items() if mode[0] == "-" and "x" in mode.split()[0]] == ["/usr/bin/llamad"]


@needs_dpkg
def test_the_configuration_is_a_conffile(package: Path) -> None:
    assert output("dpkg-deb", "--info", package, "conffiles").split() == ["/etc/llamad/llamad.yaml"]


@needs_dpkg
def test_the_package_depends_on_what_the_project_depends_on(package: Path) -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        wanted = [one.split(">=") for one in tomllib.load(file)["project"]["dependencies"]]
    expected = {f"python3-{DEBIAN_NAMES.get(name, name)} (>= {version})" for name, version in wanted}
    depends = {one.strip() for one in output("dpkg-deb", "--field", package, "Depends").split(",")}
    assert depends == expected | {"python3 (>= 3.11)", "systemd (>= 252)"}


@needs_dpkg
def test_two_builds_give_the_same_bytes(package: Path, tmp_path: Path) -> None:
    output(PACKAGING / "build-deb", tmp_path)
    assert (tmp_path / package.name).read_bytes() == package.read_bytes()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_is_posix_shell(script: Path) -> None:
    output("sh", "-n", script)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "--uninstall"),
        (["--nonsense"], 64, "usage:"),
        (["--purge"], 64, "--uninstall"),
        (["--wheels"], 64, "--wheels"),
    ],
)
def test_install_explains_itself(arguments: Sequence[str], code: int, words: str) -> None:
    done = subprocess.run([PACKAGING / "install", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stdout + done.stderr) == (code, True)
