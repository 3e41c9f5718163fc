"""Would the tests notice? Each mutation is a fault put into a copy of the package; the tests named for it must fail.

    python benchmarks/mutations.py --list                    # numbers and faults
    python benchmarks/mutations.py                           # all, one at a time; long, and not part of CI
    python benchmarks/mutations.py --only stats weighting    # those whose file holds one of these texts
    python benchmarks/mutations.py --range 8 20
    python benchmarks/mutations.py --missing                 # those not known to be killed, in their file as it is now
    python benchmarks/mutations.py --stored                  # the page again, from the verdicts that are there

The working tree is not touched: `src` is copied once, and the tests run with the copy in front, in a fork of this
process, which has imported all that the package imports, but not the package. A test that failed is run again without
the fault and must pass then, or the verdict is an error. A mutation whose old text is not in its file exactly once is
said to be stale. Ends with 1 if one was not killed. Verdicts are lines of benchmarks/results/mutations.jsonl, of which
the last counts; docs/benchmarks/mutations.md is made from them.
"""

from __future__ import annotations

import argparse
import compileall
import gc
import importlib
import multiprocessing
import os
import pkgutil
import py_compile
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from provenance import current_commit, tree

import rapidun
from rapidun.files import atomic_write
from rapidun.jsonl import append_log, read_log

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "mutations.jsonl"
PAGE = ROOT / "docs" / "benchmarks" / "mutations.md"
MINUTES = 10
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Args:
        file: Below ``src/rapidun``.
        old: Text that is there once.
        new: What stands in its place.
        tests: Files or node ids below ``tests``, of which one must fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _(file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(file, old, new, tests)


TRAINS = "unlearning/test_methods_train.py"
JOINT = "unlearning/test_joint_step.py"
OBJECTIVES = "unlearning/test_objectives.py"
SCHEMES = "weighting/test_weight_schemes.py"
ROBUST = "weighting/test_robust_weights.py"
STATS = "test_stats.py"
PROPOSAL = "influence/test_proposal.py"
UCB = "reveal/test_neural_ucb.py"
LEDGER = "pipeline/test_ledger.py"
GATE = "attacks/test_gate.py"
WEIGHTS = "attacks/test_weights_and_layers.py"
VERIFY = "statement/test_verify.py"

MUTATIONS = [
    # The eight that once survived.
    _("revealing/neural_ucb.py", "scores = self.predict() + self.sigma()", "scores = self.predict()", UCB),
    _("revealing/strategies.py", "-(self.means() + bonus)", "-self.means()", UCB),
    _("weighting/schemes.py", "        weights.retain[retain],", "        weights.retain,", SCHEMES),
    _("attribution/null.py", "len(ranked) * (1 + above)", "len(ranked) * (0 + above)", PROPOSAL),
    _("stats.py", "CONFIDENCE = 0.95", "CONFIDENCE = 0.8", STATS),
    _(
        "unlearning/reference.py",
        "        with adapter_disabled(model):\n            return cls",
        "        if True:\n            return cls",
        JOINT,
    ),
    _("unlearning/trainer.py", "return losses * weights * float", "return losses * float", JOINT),
    _(
        "unlearning/methods/constrained.py",
        "max(0.0, self.dual + self.dual_step * violation)",
        "self.dual + self.dual_step * violation",
        TRAINS,
    ),
    _(
        "revealing/modules.py",
        "loss = loss + self.penalty * orthogonality_penalty(model)",
        "loss = loss + 0.0 * orthogonality_penalty(model)",
        "reveal/test_modules.py",
    ),
    _(
        "revealing/modules.py",
        "penalty=options.orthogonality if module == FORGET else 0.0",
        "penalty=0.0",
        "reveal/test_modules.py",
    ),
    # Statistics.
    _(
        "stats.py",
        'binomtest(hits, n).proportion_ci(confidence, method="exact")',
        'binomtest(hits, n).proportion_ci(confidence, method="wilson")',
        "evaluation/test_rates.py",
    ),
    _("stats.py", "t.interval(CONFIDENCE, n - 1, loc", "t.interval(CONFIDENCE, n, loc", STATS),
    _("stats.py", "max(float(low), within[0])", "float(low)", STATS),
    _("stats.py", "if n < 2 or len(set(values)) < 2:", "if n < 2:", STATS),
    _("stats.py", "[50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]", "[10, 90]", STATS),
    _("attribution/null.py", "bound = (1 + between) / part + above", "bound = between / part + above", PROPOSAL),
    _("attribution/null.py", "ranked - part * reach", "ranked - 0.1 * part * reach", PROPOSAL),
    # Weighting.
    _("weighting/robust.py", "raw / raw.mean()", "raw / np.median(raw)", ROBUST),
    _(
        "weighting/robust.py",
        "MAD_TO_DEVIATION * float(np.median(differing))",
        "1.2533 * float(np.mean(differing))",
        ROBUST,
    ),
    _(
        "weighting/robust.py",
        "ROUNDING_FLOOR * float(np.median(np.abs(values)))",
        "ROUNDING_FLOOR * float(np.abs(values).max())",
        ROBUST,
    ),
    _("weighting/robust.py", "standardised / temperature", "standardised", ROBUST),
    _(
        "weighting/scores.py",
        "alpha * reduce(ff) - beta * reduce(fr)",
        "alpha * reduce(ff) - beta * reduce(ff)",
        "weighting/test_weight_scores.py",
    ),
    _(
        "weighting/scores.py",
        "gamma * reduce(rr) - delta * reduce(rf)",
        "gamma * reduce(rr) + delta * reduce(rf)",
        "weighting/test_weight_scores.py",
    ),
    _(
        "weighting/scores.py",
        "block[~np.eye(rows, dtype=bool)].reshape(rows, rows - 1)",
        "block",
        "weighting/test_weight_scores.py",
    ),
    _(
        "weighting/schemes.py",
        'losses if options.direction == "high" else -losses',
        "-losses",
        SCHEMES,
        "weighting/test_weight_evidence.py",
    ),
    _(
        "weighting/schemes.py",
        "forget=robust_weights(scores.forget, options.forget_temperature",
        "forget=robust_weights(scores.forget, options.retain_temperature",
        SCHEMES,
    ),
    _(
        "weighting/schemes.py",
        'moved=out if negative == "retain" else np.zeros_like(out)',
        "moved=np.zeros_like(out)",
        SCHEMES,
        "weighting/test_weight_evidence.py",
    ),
    # Proposals and fusion.
    _("attribution/null.py", "(1 + above) / (len(known) + 1)", "(1 + above) / len(known)", PROPOSAL),
    _(
        "attribution/null.py",
        'np.searchsorted(np.sort(known), ranked, side="left")',
        'np.searchsorted(np.sort(known), ranked, side="right")',
        PROPOSAL,
    ),
    _("attribution/null.py", '+ margin * _ERRORS["tail"]', "", PROPOSAL),
    _("attribution/null.py", "_MARGIN * (1 + 1 / queries) / np.sqrt(rows)", "0.0 * queries", PROPOSAL),
    _("attribution/proposal.py", "int((rates <= fdr).sum())", "int((rates <= 2 * fdr).sum())", PROPOSAL),
    _(
        "attribution/proposal.py",
        'np.searchsorted(-ranked, -ranked, side="right")',
        'np.searchsorted(-ranked, -ranked, side="left") + 1',
        PROPOSAL,
    ),
    _(
        "attribution/fusion.py",
        "1e-9 * usual",
        "1e-9 * np.abs(pool).max(axis=1, keepdims=True)",
        "influence/test_fusion.py",
    ),
    _("attribution/fusion.py", "share / (constant + ranks(view))", "share / ranks(view)", "influence/test_fusion.py"),
    # Losses and data.
    _(
        "models/losses.py",
        "losses.sum(dim=1) / mask.sum(dim=1).clamp_min(1)",
        "losses.sum(dim=1) / mask.shape[1]",
        "models/test_answer_loss.py",
    ),
    _(
        "models/token_losses.py",
        "return normalisers - chosen",
        "return normalisers + chosen",
        "models/test_answer_loss.py",
    ),
    _(
        "models/row_losses.py",
        "return float(self.sums.sum() / max(int(self.tokens.sum()), 1))",
        "return float((self.sums / self.tokens).mean())",
        "models/test_token_scores.py",
    ),
    _("models/lora.py", "torch.manual_seed(seed)", "torch.manual_seed(0)", "models/test_lora.py"),
    _("data/tokenise.py", "        if end > boundary:", "        if end >= boundary:", "data/test_tokenise.py"),
    _("data/tokenise.py", "if len(ids) <= max_length:", "if len(ids) < max_length:", "data/test_tokenise.py"),
    # Objectives.
    _(
        "unlearning/methods/terms.py",
        "-(2.0 / beta) * F.logsigmoid(beta * rise(rows))",
        "-(2.0 / beta) * F.logsigmoid(-beta * rise(rows))",
        OBJECTIVES,
    ),
    _("unlearning/methods/terms.py", "F.kl_div(now, before", "F.kl_div(before, now", OBJECTIVES),
    _(
        "unlearning/methods/preference.py",
        "beta * (cross_entropy(rows) - delta)",
        "beta * cross_entropy(rows)",
        OBJECTIVES,
    ),
    _("unlearning/methods/reweighted.py", "known**beta1 * (1.0 - known) ** beta2", "known**beta1", OBJECTIVES),
    _(
        "unlearning/methods/reweighted.py",
        "(-beta * losses).exp().detach() * losses",
        "(beta * losses).exp().detach() * losses",
        OBJECTIVES,
    ),
    _(
        "unlearning/methods/constrained.py",
        "logits.amax(dim=-1) - logits.mean(dim=-1)",
        "logits.amax(dim=-1)",
        OBJECTIVES,
    ),
    _(
        "unlearning/sampling.py",
        "of_forget = max(1, round(share * batch_size))",
        "of_forget = max(1, int(share * batch_size))",
        "unlearning/test_sampling.py",
    ),
    _("unlearning/trainer.py", "loss = loss if penalty is None else loss + penalty", "loss = loss", TRAINS),
    # Gradients.
    _(
        "gradients/backward.py",
        "-errors.sum(dim=1, keepdim=True)",
        "errors.sum(dim=1, keepdim=True)",
        "gradients/test_collector.py",
    ),
    _("gradients/norms.py", "torch.where(norms > 0, norms, 1.0)", "norms", "gradients/test_collector.py"),
    _("gradients/factored.py", "(1 / math.sqrt(self.p))", "1.0", "gradients/test_factored.py"),
    _("gradients/rapidgrad.py", 'f"{seed}:{chunk}:{name}"', 'f"{seed}:{name}"', "gradients/test_sketches.py"),
    _("gradients/rapidgrad.py", 'f"{seed}:{chunk}:{name}"', 'f"{chunk}:{name}"', "gradients/test_sketches.py"),
    # Index and influence.
    _(
        "attribution/scorers/lexical.py",
        "K1 * (1 - B + B * postings.lengths",
        "K1 * (1 + B * postings.lengths",
        "index/test_index_views.py",
        "index/test_index_search.py",
    ),
    _(
        "attribution/matrix.py",
        'scores *= scale / divisors(norm).squeeze(1) if similarity == "cosine" else scale',
        "scores *= scale",
        "index/test_index_search.py",
    ),
    _(
        "attribution/store/verify.py",
        "None if file_sha256(file) == entry.sha256 else",
        "None if True else",
        "index/test_index_verify.py",
    ),
    _(
        "attribution/quality.py",
        "(relevant[above].sum() + from_ties) / k",
        "relevant[above].sum() / k",
        "influence/test_quality.py",
    ),
    # Evaluation.
    _(
        "evaluation/perplexity.py",
        "change, tokens = after.row_losses - before.row_losses",
        "change, tokens = before.row_losses - after.row_losses",
        "evaluation/test_perplexity.py",
    ),
    _(
        "evaluation/gate.py",
        "if Rate.from_counts(math.ceil(share * n), n).high <= limit:",
        "if Rate.from_counts(math.ceil(share * n), n).value <= limit:",
        "evaluation/test_release_gate.py",
    ),
    _(
        "evaluation/keywords.py",
        "if z > 0 and frequent[word] >= FEWEST_ANSWERS",
        "if frequent[word] >= FEWEST_ANSWERS",
        "evaluation/test_judges.py",
    ),
    _("evaluation/keywords.py", "if with_word.mean() <= max_clean_rate:", "if True:", "evaluation/test_judges.py"),
    _(
        "evaluation/generation.py",
        "return prompt[len(prompt) - room :]",
        "return prompt[:room]",
        "evaluation/test_answer_generation.py",
    ),
    _(
        "evaluation/entity_spans.py",
        "2 * (answer & reference).total() / total if total else 1.0",
        "2 * (answer & reference).total() / total if total else 0.0",
        "reveal/test_ner_task_rows.py",
        "evaluation/test_task_judges.py",
    ),
    _("evaluation/signatures.py", "if high < NEARLY_EQUAL * low:", "if high < low:", "evaluation/test_signatures.py"),
    # Reveal and valuation.
    _(
        "revealing/reward.py",
        "1.0 / sum(share / value for share, value in parts)",
        "sum(share * value for share, value in parts)",
        "reveal/test_diversity_and_reward.py",
    ),
    _(
        "revealing/reward.py",
        "np.exp(-np.sum(kept * np.log(kept)))",
        "np.exp(np.sum(kept * np.log(kept)))",
        "reveal/test_diversity_and_reward.py",
    ),
    _("valuation/fidelity.py", "gains = truth.clip(min=0)", "gains = truth", "valuation/test_fidelity.py"),
    _("valuation/shares.py", "numbers.clip(min=0)[:, None]", "numbers[:, None]", "valuation/test_shares.py"),
    _(
        "settings/value.py",
        "math.ceil(rows * self.amount - 1e-9)",
        "math.floor(rows * self.amount)",
        "valuation/test_selection.py",
    ),
    _("valuation/linfik.py", "return total / counts.unsqueeze(1)", "return total", "valuation/test_linfik.py"),
    _(
        "pipeline/tuning.py",
        "min(done, key=lambda trial: trial.score)",
        "max(done, key=lambda trial: trial.score)",
        "pipeline/test_tuning.py",
    ),
    _(
        "pipeline/ledger.py",
        "        if entry.active:\n            merged",
        "        if True:\n            merged",
        LEDGER,
    ),
    # Attacks.
    _(
        "attacks/gate.py",
        "verdict in (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)",
        "verdict in (Verdict.UNDECIDED, Verdict.FAIL, Verdict.PASS)",
        GATE,
    ),
    _("attacks/gate.py", "if high <= limit and n >= fewest:", "if low <= limit and n >= fewest:", GATE),
    _("attacks/gate.py", "key=lambda point: point.high)\n    needed", "key=lambda point: point.low)\n    needed", GATE),
    _("models/rounding.py", "levels = 2 ** (bits - 1) - 1", "levels = 2**bits - 1", GATE),
    _("attacks/quantise.py", "                weight.copy_(own)", "                weight.mul_(1.0)", WEIGHTS),
    _("attacks/sampling.py", '{seed}/{sample}/{row}"', '{seed}/{row}"', "attacks/test_attack_run.py"),
    # Statements.
    _("statement/verify.py", "predicate.expires < date.today()", "predicate.expires > date.today()", VERIFY),
    _("statement/verify.py", "if salt.mark != predicate.salted.salt:", "if not salt.mark:", VERIFY),
    _("statement/verify.py", "there - stored.keys())[:NAMED]", "stored.keys() - stored.keys())[:NAMED]", VERIFY),
    _("statement/verify.py", "if not is_signed_by(key, envelope.signature, envelope.signed):", "if False:", VERIFY),
    # Report, command line, distributed builds.
    _("report/visible.py", "foreign if mixed else []", "[]", "report/test_visible.py"),
    _("report/visible.py", "visible(trigger, strict=True)", "visible(trigger)", "report/test_visible.py"),
    _("cli/console.py", "return (done - units) / (now - since)", "return done / (now - since)", "cli/test_progress.py"),
    _(
        "distributed/job.py",
        "len(rows) != manifest.rows or _sample(rows) != spec.sample",
        "len(rows) != manifest.rows",
        "distributed/test_local.py::test_what_a_worker_raises_reaches_the_caller_and_nothing_is_left_running",
    ),
    # Files.
    _("jsonl.py", 'content[: content.rfind(b"\\n") + 1]', "content", "test_text.py"),
    _("sealed.py", "hexdigest().encode() == seal", 'hexdigest() != ""', "index/test_index_verify.py", "test_files.py"),
    _("text.py", '"Cc", "Cf", "Cs"', '"Cc", "Cs"', "test_text.py"),
    _("lifecycle.py", "file.truncate(0)\n                since", "since", "test_lifecycle.py"),
    _("together.py", '        _point(states / "current", str(number))', "        pass", "pipeline/test_ledger.py"),
]


def run(mutation: Mutation, copy: Path) -> tuple[str, str]:
    """ "killed", "SURVIVED", "STALE", "timeout" or "ERROR", and the test that noticed; then the copy is as it was."""
    path = copy / "rapidun" / mutation.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(mutation.old) != 1:
        return f"STALE ({text.count(mutation.old)} times)", ""
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        code, said = tested([f"tests/{test}" for test in mutation.tests], copy)
    finally:
        path.write_text(text, encoding="utf-8")
    if code in (0, None):
        return "timeout" if code is None else "SURVIVED", ""
    failed = re.search(r"^(?:FAILED|ERROR) (tests/\S+\.py(?:::.*?)?)(?: - |$)", said, re.MULTILINE)
    if code != 1 or failed is None:
        return f"ERROR {code}: {said.strip().splitlines()[-1:]}", ""
    code, said = tested([failed[1]], copy)
    return "killed" if code == 0 else f"ERROR {code} without the fault: {said.strip().splitlines()[-1:]}", failed[1]


def tested(tests: list[str], copy: Path) -> tuple[int | None, str]:
    """pytest's exit status, None where it does not end, and what it said; in a process of its own."""
    with tempfile.TemporaryFile() as said:
        child = FORK.Process(target=_test, args=(tests, copy, said.fileno()))
        child.start()
        child.join(60 * MINUTES)
        if child.is_alive():
            os.killpg(child.pid or 0, signal.SIGKILL)
            child.join()
            return None, ""
        said.seek(0)
        return child.exitcode, said.read().decode(errors="replace")


def _test(tests: list[str], copy: Path, said: int) -> None:
    os.setsid()
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path.insert(0, str(copy))
    forget_package()
    # one test may take as long as all of them: a machine that is busy is no fault
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-o", "timeout=0", "--tb=line", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def import_all() -> None:
    """The package, and with it what it imports from others, which then need not be imported for every mutation."""
    for found in pkgutil.walk_packages(rapidun.__path__, "rapidun."):
        if not found.name.endswith("__main__"):
            with suppress(ImportError):  # of what is optional
                importlib.import_module(found.name)
    for name in (
        "transformers.trainer",
        "transformers.models.llama.modeling_llama",
        "datasets",
        "hypothesis",
        "plotly.io",
    ):
        importlib.import_module(name)
    forget_package()
    gc.collect()
    gc.freeze()


def forget_package() -> None:
    """The next import of it is a new one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rapidun"]:
        del sys.modules[name]


Key = tuple[str, str, str]


def key_of(mutation: Mapping[str, Any]) -> Key:
    """What a verdict is of."""
    return mutation["file"], mutation["old"], mutation["new"]


def verdicts() -> dict[Key, dict[str, Any]]:
    """The last stored line of every mutation."""
    return {key_of(line): line for line in read_log(RESULTS)}


def chosen(arguments: argparse.Namespace) -> list[tuple[int, Mutation]]:
    """Numbered mutations that were asked for."""
    first, last = arguments.range or (0, len(MUTATIONS))
    numbered = list(enumerate(MUTATIONS))[first:last]
    found = [(n, m) for n, m in numbered if not arguments.only or any(text in m.file for text in arguments.only)]
    if not arguments.missing:
        return found
    killed = {key for key, line in verdicts().items() if line["verdict"] == "killed" and is_current(line)}
    return [(n, m) for n, m in found if key_of(asdict(m)) not in killed]


def is_current(line: Mapping[str, Any]) -> bool:
    """Whether a verdict is of the file that is committed now."""
    return bool(line["source"] == tree(f"src/rapidun/{line['file']}"))


def judge(mutations: list[tuple[int, Mutation]]) -> list[str]:
    """The verdicts, each stored when it is there."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        compileall.compile_dir(copy, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        import_all()
        for number, mutation in mutations:
            began = time.monotonic()
            verdict, by = run(mutation, copy)
            seconds = round(time.monotonic() - began)
            source = tree(f"src/rapidun/{mutation.file}")
            line = {**asdict(mutation), "verdict": verdict, "by": by, "seconds": seconds, "source": source}
            append_log(RESULTS, [line])
            found.append(verdict)
            print(f"{number:3} {verdict:9} {_change(mutation)} {by} ({seconds} s)", flush=True)
    return found


def _change(mutation: Mutation) -> str:
    return f"{mutation.file}: {mutation.old.strip()[:60]!r} -> {mutation.new.strip()[:50]!r}"


def write_page() -> None:
    """docs/benchmarks/mutations.md."""
    known = verdicts()
    new = {"verdict": "not run", "source": ""}
    lines = [known.get(key_of(asdict(mutation)), {**asdict(mutation), **new}) for mutation in MUTATIONS]
    killed, current = sum(line["verdict"] == "killed" for line in lines), sum(map(is_current, lines))
    tried = sum(line["verdict"] != "not run" for line in lines)
    first = {
        key_of(line): line["verdict"] for line in reversed(read_log(RESULTS)) if not line["verdict"].startswith("E")
    }
    survived = sum(first.get(key_of(asdict(mutation))) == "SURVIVED" for mutation in MUTATIONS)
    page = [
        "# Would the tests notice?", "",
        f"{killed} of {tried} faults, put one at a time into a copy of the package, were noticed by the tests named "
        f"for them; {len(MUTATIONS) - tried} more were not tried yet. The first time {survived} were not; the "
        "tests that notice them now were written, or named, then. `python benchmarks/mutations.py`; the page was "
        f"written at commit {current_commit()}; {current} of the verdicts are of the file as it was then.", "",
        "| package | faults | noticed |", "|---|---|---|",
    ]  # fmt: skip
    rooms: dict[str, list[str]] = {}
    for mutation, line in zip(MUTATIONS, lines, strict=True):
        rooms.setdefault(mutation.file.partition("/")[0], []).append(line["verdict"])
    page += [f"| `{room}` | {len(found)} | {found.count('killed')} |" for room, found in rooms.items()]
    left = [(m, line["verdict"]) for m, line in zip(MUTATIONS, lines, strict=True) if line["verdict"] != "killed"]
    page += ["", "## Not noticed", ""]
    page += [f"* {verdict}: `{m.file}`, `{m.old.strip()}` -> `{m.new.strip()}`" for m, verdict in left] or ["None."]
    with atomic_write(PAGE, private=False) as file:
        file.write("\n".join(page) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--range", nargs=2, type=int, metavar=("FIRST", "LAST"))
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--stored", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{number:3} {_change(mutation)}" for number, mutation in chosen(arguments)))
        return
    found = [] if arguments.stored else judge(chosen(arguments))
    write_page()
    print(f"{found.count('killed')} of {len(found)} killed")
    sys.exit(found.count("killed") < len(found))


if __name__ == "__main__":
    main()
