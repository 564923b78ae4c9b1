"""A strict reader of Prometheus' text format, for what promtool would refuse."""

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_exposition(data: bytes) -> Samples:
    """Every sample by name and labels. Fails unless it is valid: it ends with a newline, families are grouped, HELP
    and TYPE stand once and before the samples, no series is there twice, histograms are whole.
    """
    text = data.decode()
    assert not text or text.endswith("\n")
    seen: list[str] = []
    declared: set[tuple[str, str]] = set()
    types: dict[str, str] = {}
    for line in text.splitlines():
        assert line, "an empty line"
        if line.startswith("#"):
            _, kind, name, rest = [*line.split(" ", 3), ""][:4]
            assert kind in ("HELP", "TYPE"), line
            assert (kind, name) not in declared, f"{kind} of {name} twice"
            declared.add((kind, name))
            if kind == "TYPE":
                types[name] = rest
        else:
            name = _family(line.partition("{")[0].partition(" ")[0], types)
        if not seen or seen[-1] != name:
            assert name not in seen, f"{name} is not grouped"
            seen.append(name)
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = (sample.name, frozenset(sample.labels.items()))
            assert series not in samples, f"{series} twice"
            samples[series] = sample.value
    return samples


def _family(sample: str, types: dict[str, str]) -> str:
    for suffix in ("_bucket", "_sum", "_count"):
        base = sample.removesuffix(suffix)
        if base != sample and types.get(base) == "histogram":
            return base
    return sample


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """One sample's value, None where it is not there."""
    return samples.get((name, frozenset(labels.items())))
