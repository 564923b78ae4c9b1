"""A configuration that was read once: what is wrong with it, what it would do, and all that is needed to accept it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from llamad.accepted import mistakes
from llamad.config.files import Files
from llamad.config.loader import Loaded
from llamad.config.model import Config
from llamad.config.problems import Problem, ProblemKind
from llamad.config.verdict import Verdict
from llamad.errors import ConfigError
from llamad.host.threads import aside
from llamad.servers.intents import intents, refusals
from llamad.servers.plan import Intent


@dataclass(frozen=True, slots=True)
class Beside:
    """What a configuration refers to beside servers, as it is now: `problems` other than remarks refuse a reload, those
    of a wrong text a start as well; `changes` are against what holds, in words, and `take` has it hold.
    """

    problems: tuple[Problem, ...]
    changes: tuple[str, ...]
    take: Callable[[], None]

    def refused(self, *, at_start: bool) -> tuple[Problem, ...]:
        """The problems for which it is refused."""
        harmless = {ProblemKind.REMARK, ProblemKind.WORLD} if at_start else {ProblemKind.REMARK}
        return tuple(problem for problem in self.problems if problem.kind not in harmless)


@dataclass(frozen=True, slots=True)
class Candidate:
    """`wanted` is empty and `beside` None where the text is too broken to tell."""

    loaded: Loaded
    verdict: Verdict
    wanted: Mapping[str, Intent]
    beside: Beside | None = None

    @property
    def config(self) -> Config:
        """The configuration; ConfigError where it is refused."""
        if self.loaded.config is None or self.verdict.refused:
            raise ConfigError(self.verdict.summary, hint="nothing was changed", problems=self.verdict.lines)
        return self.loaded.config


async def judge(
    loaded: Loaded,
    accepted: Files | None,
    verify: Callable[[Loaded, Config], Beside],
    *,
    running: Mapping[str, Intent],
    left: Iterable[str] | None = None,
) -> Candidate:
    """Everything that is wrong with what was read, in one pass, for a llamad whose servers are `running` by what was
    `accepted` last. At a start `left` are the servers that an earlier llamad left; then an option that a binary does
    not know fails its server only. It changes nothing.
    """
    config = loaded.config
    if config is None:
        refused = tuple(one for one in loaded.problems if one.kind is ProblemKind.TEXT)
        return Candidate(loaded, Verdict(loaded.problems, refused), {})
    wrong = mistakes(loaded, running if left is None else left, accepted)
    beside = await aside(verify, loaded, config)
    wanted = await aside(intents, config, loaded)  # of a thousand servers it takes a while
    problems = (*loaded.problems, *beside.problems, *wrong)
    of_servers = refusals(loaded, wanted, running) if left is None else ()
    refused = (*of_servers, *beside.refused(at_start=left is not None), *wrong)
    return Candidate(loaded, Verdict(problems, refused), wanted, beside)
