"""Add up the tiers' JUnit files in a folder and close with one line as pytest's own; 1 when anything failed.

`--no-skips` makes a skipped lab test a failure: where the lab has to run, silence is no success.
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def main() -> int:
    """Print why lab tests were skipped, then the sum."""
    folder = Path(sys.argv[-1])
    counts: Counter[str] = Counter()
    seconds = 0.0
    skipped_lab: Counter[str] = Counter()
    for file in sorted(folder.glob("*.xml")):
        for suite in ElementTree.parse(file).getroot().iter("testsuite"):
            seconds += float(suite.get("time", 0))
            for kind in ("tests", "failures", "errors", "skipped"):
                counts[kind] += int(suite.get(kind, 0))
        if file.stem == "lab":
            for skip in ElementTree.parse(file).getroot().iter("skipped"):
                skipped_lab[skip.get("message") or "no reason given"] += 1
    for reason, number in skipped_lab.most_common():
        print(f"{number} lab tests skipped: {reason}")
    bad, skipped = counts["failures"] + counts["errors"], counts["skipped"]
    passed = counts["tests"] - bad - skipped
    if skipped_lab and "--no-skips" in sys.argv[1:]:
        print("a skipped lab test is a failure here (CI=true or --system)")
        bad += skipped_lab.total()
        skipped -= skipped_lab.total()
    parts = {"failed": bad, "passed": passed, "skipped": skipped}
    words = ", ".join(f"{number} {what}" for what, number in parts.items() if number or what == "passed")
    print(f" {words} in {seconds:.2f}s ".center(80, "="))
    return int(bad > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
