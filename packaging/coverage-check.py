"""Hold the coverage, lines and branches together: 95 % over all, 100 % in every module that only decides.

A module that only decides says so: its docstring has the word "Pure". Reads the data file of the run before it
(COVERAGE_FILE). `--pure-only` skips the total, for a run without the engine.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ALL = 95.0
ALSO_PURE = (
    "llamad/config/model.py",
    "llamad/config/problems.py",
    "llamad/config/units.py",
    "llamad/errors.py",
    "llamad/host/address.py",
    "llamad/host/dirs.py",
)


def pure_modules() -> list[str]:
    """Those that have to be covered in full."""
    said = (
        str(file)
        for file in Path("llamad").rglob("*.py")
        if re.search(r"\bPure\b", ast.get_docstring(ast.parse(file.read_text())) or "")
    )
    return sorted({*said, *ALSO_PURE})


def main() -> int:
    """Print what is below its bound; 0 when nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", str(report)], check=True)
        data = json.loads(report.read_text())
    pure = pure_modules()
    short = 0
    for name in pure:
        file = data["files"].get(name)
        if file is None:
            print(f"{name}: pure, and no test imports it")
            short += 1
        elif file["summary"]["percent_covered"] < 100:
            lines = ", ".join(map(str, file["missing_lines"]))
            branches = ", ".join(f"{a}->{b}" for a, b in file.get("missing_branches", ()))
            print(f"{name}: pure, {file['summary']['percent_covered']:.1f} % covered; missing: {lines} {branches}")
            short += 1
    total = data["totals"]["percent_covered"]
    print(f"coverage: {total:.1f} % of lines and branches; {len(pure)} pure modules")
    if "--pure-only" in sys.argv[1:]:
        return int(short > 0)
    if total < ALL:
        print(f"coverage: below {ALL:.0f} %; the least covered:")
        least = sorted(data["files"].items(), key=lambda item: -item[1]["summary"]["missing_lines"])[:10]
        for name, file in least:
            lines = file["summary"]["missing_lines"]
            print(
                f"  {name}: {file['summary']['percent_covered']:.1f} %, {lines} lines missing: {file['missing_lines']}"
            )
    return int(short > 0 or total < ALL)


if __name__ == "__main__":
    sys.exit(main())
