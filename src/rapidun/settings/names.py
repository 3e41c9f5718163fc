"""Names of what is registered elsewhere, so that a wrong one is refused before anything heavy is imported.

The registers are beside the code that they name, which needs torch. Here stand the names that come with rapidun (a test
holds both equal); every ``register_...`` adds its own, and so does a plugin's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator

from rapidun.errors import ConfigError, RapidunError


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'npo'?``, or nothing where no name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class Names:
    """The known names of one kind of thing, in order.

    Args:
        unknown: What is said of another name: ``{name}`` is it in quotes, ``{given}`` without, ``{known}`` are all.
        names: Those that come with rapidun.
    """

    def __init__(self, unknown: str, *names: str) -> None:
        self._unknown, self._names = unknown, dict.fromkeys(names)
        self.built_in, self._entered = names, set[str]()
        self.rule: Callable[..., object] | None = None
        """What an open register checks besides: a name with its options. Raises ConfigError."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __str__(self) -> str:
        return ", ".join(self)

    def add(self, name: str) -> None:
        """Know one more, as a register does.

        Raises:
            ConfigError: If what comes with rapidun has the name.
        """
        if name in self._entered:
            raise ConfigError(f"the name {name!r} is taken by what comes with rapidun; give yours another.")
        if name in self.built_in:
            self._entered.add(name)
        self._names[name] = None

    def check(self, name: str) -> str:
        """The name.

        Raises:
            ConfigError: If it is not known; lists those that are, and says which is the nearest.
        """
        if name not in self._names:
            raise self.unknown(name)
        return name

    def unknown(self, name: str) -> ConfigError:
        """The error about a name that is not known."""
        text = self._unknown.format(name=repr(name), given=name, known=self)
        return ConfigError(text + nearest(name, self._names))

    def valid(self, name: str, *options: Any) -> str:
        """`check`, and the rule for a name with options, as pydantic wants it. Raises ValueError."""
        try:
            self.check(name)
            if options and self.rule is not None:
                self.rule(name, *options)
        except (RapidunError, TypeError) as error:
            raise ValueError(str(error)) from error
        return name


METHODS = Names(
    "unknown method {name}: choose from {known}, or give the --plugin that has it.",
    *("rapidun_kl", "rapidun_deep", "rapidun", "finetune", "ga", "graddiff", "kl", "npo", "simnpo", "dpo", "idk"),
    *("rmu", "undial", "ceu", "wga", "satimp", "loreun", "pdu", "fisher_ewc", "task_vector", "fisher", "retrain"),
    *("crow", "beear", "magnitude", "wanda", "int4"),
)
SCHEMES = Names(
    "weighting scheme {name} is unknown; choose one of {known}, or give the --plugin that has it.",
    *("influence", "self_only", "released", "dynamic", "loss", "representation", "consistency", "consistency_hidden"),
    *("trusted_influence", "uniform", "random", "shuffled"),
)
FEATURES = Names(
    "features {name} are unknown. Known: {known}; those of a scorer of your own need its --plugin.",
    "change",
    "gradient",
    "hidden",
    "lexical",
)
SCORERS = Names(
    "unknown scorer {name}: choose from {known}, or give the --plugin that has it.",
    "gradient",
    "change",
    "answer",
    "prompt",
    "lexical",
)
SKETCHES = Names("sketch kind {name}: use one of {known}.", "exact", "factored", "rapidgrad", "readout")
PRECONDITIONERS = Names("preconditioner {name}: use one of {known}.", "none", "adam", "kfac", "ekfac")
JUDGES = Names(
    "unknown judge {name}: choose from {known}, or give the --plugin that has it.",
    *("classifier", "code", "entities", "exact-number", "hf-classifier", "keywords", "regex"),
)
STRATEGIES = Names("unknown strategy {name}: choose from {known}.", "greedy", "neural_ucb", "random", "seed", "ucb")
STUDENTS = Names(
    "--student {given}: neither a kind of student ({known}) nor a saved student's directory.",
    *("encoder", "kernel", "ridge"),
)
ATTACKS = Names(
    "unknown attack {name}: choose from {known}, or give the --plugin that has it.",
    *(
        "as_is",
        "trigger_variants",
        "paraphrase",
        "quantise",
        "nf4",
        "merge_dtype",
        "relearn",
        "relearn_full",
        "prefill",
    ),
    *("sampling", "few_shot", "logit_lens", "unlearning_membership", "gcg"),
)
SUITES = Names(
    "unknown suite {name}: choose from {known}, or give the --plugin that has it.",
    *("auto", "backdoor", "perplexity", "qa", "tofu", "generation", "lm-eval"),
)
MITIGATIONS = Names("unknown mitigation {name}: choose from {known}.", "cleangen")
DIVERSITIES = Names("--diversity {given}: use one of {known}.", "facility", "matching", "mmr")

MethodName = Annotated[str, AfterValidator(METHODS.valid)]
SchemeName = Annotated[str, AfterValidator(SCHEMES.valid)]
FeatureName = Annotated[str, AfterValidator(FEATURES.valid)]
SketchName = Annotated[str, AfterValidator(SKETCHES.valid)]
PreconditionerName = Annotated[str, AfterValidator(PRECONDITIONERS.valid)]
JudgeName = Annotated[str, AfterValidator(JUDGES.valid)]
StrategyName = Annotated[str, AfterValidator(STRATEGIES.valid)]
AttackName = Annotated[str, AfterValidator(ATTACKS.valid)]
SuiteName = Annotated[str, AfterValidator(SUITES.valid)]
MitigationName = Annotated[str, AfterValidator(MITIGATIONS.valid)]
DiversityName = Annotated[str, AfterValidator(DIVERSITIES.valid)]
