"""What is cheap to check is checked before a model is loaded: one line, exit code 2, nothing written.

The model of these tests has weights that cannot be read, so that a check that comes after loading shows itself.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from cli.conftest import Rapidun
from tiny import save_tiny, tiny_rows, write_rows

FILES = "--model broken --forget forget.jsonl --retain retain.jsonl"
UNLEARN, WEIGH = f"unlearn {FILES} --out o", f"weigh {FILES} --out o"
EVALUATE = "evaluate --model broken --data evaluation.jsonl --poisoned forget.jsonl --clean retain.jsonl --out o"
BUILD = "index build --model broken --data retain.jsonl --out o"
TRACE = "trace --model broken --data retain.jsonl"
ASK = f"{TRACE} --prompt why"
VALUE = "value --model broken --task-data forget.jsonl --candidates retain.jsonl --out o"
REVEAL = "reveal --model broken --task task.yaml --out o"
RUN = "run run.yaml --out o"
SCAN = "scan --model broken --prompts retain.jsonl --out o"
TUNE = "tune run.yaml --tuning evaluation.jsonl --out o --trials 0"

NUMBERS = {
    f"{UNLEARN} --learning-rate inf": "unlearning.learning_rate: 'inf'",
    f"{UNLEARN} --learning-rate nan": "unlearning.learning_rate: 'nan'",
    f"{UNLEARN} --learning-rate -1": "unlearning.learning_rate: '-1'",
    f"{UNLEARN} --learning-rate 1e9": "unlearning.learning_rate: '1e9'",
    f"{UNLEARN} --steps -3": "unlearning.steps = -3",
    f"{UNLEARN} --steps 99999999999": "unlearning.steps = 99999999999",
    f"{UNLEARN} --batch-size 0": "unlearning.batch_size = 0",
    f"{UNLEARN} --max-length 0": "data.max_length = 0",
    f"{UNLEARN} --max-length 99999999": "data.max_length = 99999999",
    f"{UNLEARN} --seed -1": "seed = -1",
    f"{UNLEARN} --seed 99999999999": "seed = 99999999999",
    f"{UNLEARN} --option beta=.inf": "option beta = inf",
    f"{UNLEARN} --option beta=-1": "option beta = -1",
    f"{UNLEARN} --set lora.alpha=.inf": "lora.alpha = inf",
    f"{UNLEARN} --set unlearning.retain_budget=.nan": "unlearning.retain_budget = nan",
    f"{UNLEARN} --set weights.options.w_min=9": "scheme 'consistency_hidden': option w_min = 9",
    f"{UNLEARN} --weights influence --set weights.options.forget_temperature=.inf": "option forget_temperature = inf",
    f"{UNLEARN} --set data.sample.forget=99": "forget.jsonl: 99 rows asked for, 8 there",
    f"{WEIGH} --set influence.sketch_size=99999999999": "influence.sketch_size = 99999999999",
    f"{WEIGH} --scheme influence --set weights.options.top_k=0": "option top_k = 0",
    f"{EVALUATE} --set evaluation.max_new_tokens=0": "evaluation.max_new_tokens = 0",
    f"{EVALUATE} --set evaluation.repetition_penalty=.inf": "evaluation.repetition_penalty = inf",
    f"{EVALUATE} --set evaluation.prompts=99": "evaluation.jsonl: evaluation.prompts = 99 rows asked for, 9 there",
    f"{SCAN} --tried 1": "scan.tried = 1",
    f"{SCAN} --tried 13": "retain.jsonl: 12 different plain questions",
    f"{SCAN} --words 0": "scan.words = 0",
    f"{BUILD} --k 0": "index.k = 0",
    f"{BUILD} --k 99999999999": "index.k = 99999999999",
    f"{BUILD} --damping inf": "index.damping = inf",
    f"{BUILD} --max-tokens 0": "index.max_tokens = 0",
    f"{BUILD} --shard-rows 0": "index.shard_rows = 0",
    f"{BUILD} --precondition-rows 0": "index.precondition_rows = 0",
    f"{BUILD} --workers 0": "--workers 0",
    f"{ASK} --fdr 7": "fdr = 7.0",
    f"{ASK} --fdr nan": "fdr = nan",
    f"{ASK} --clean train.jsonl": "--clean shows --propose how clean rows score: give --propose DIR",
    f"{ASK} --index i --propose p --clean nowhere.jsonl": "nowhere.jsonl: no such file. --clean takes rows",
    f"{ASK} --k 0": "--k",
    f"{ASK} --tokens -1": "--tokens",
    f"{VALUE} --k 0": "value.k = 0",
    f"{VALUE} --sample 0%": "--sample 0%",
    f"{VALUE} --sample many": "--sample many",
    f"{VALUE} --sample inf%": "--sample inf%",
    f"{VALUE} --select top:0": "--select top:0",
    f"{VALUE} --select top:inf": "--select top:inf",
    f"{VALUE} --student ridge --set student.options.alphas=[-1]": "option alphas.0 = -1",
    f"{REVEAL} --set task.search.temperature=.inf": "task.search.temperature = inf",
    f"{REVEAL} --set task.release.modules.learning_rate=.nan": "option learning_rate = nan",
    f"{RUN} --set gate.max_asr_upper=7": "gate.max_asr_upper = 7",
    f"{RUN} --set gate.max_perplexity_ratio=.inf": "gate.max_perplexity_ratio = inf",
    f"{TUNE} --probe-steps 1": "--probe-steps",
}
NAMES = {
    f"{UNLEARN} --forget bare.jsonl --method dpo": "method 'dpo' needs a preferred answer",
    f"{UNLEARN} --forget bare.jsonl --method beear": "method 'beear' needs a preferred answer",
    f"{RUN} --set data.forget=bare.jsonl --set unlearning.method=dpo": "method 'dpo' needs a preferred answer",
    f"{TUNE} --set data.forget=bare.jsonl --set unlearning.method=dpo": "method 'dpo' needs a preferred answer",
    f"{UNLEARN} --method npoo": "unknown method 'npoo'",
    f"{UNLEARN} --option bta=0.1": "Did you mean 'beta'?",
    f"{UNLEARN} --weights influ": "'influ' is unknown",
    f"{UNLEARN} --weights none.jsonl": "none.jsonl: no such file",
    f"{UNLEARN} --weights forget.jsonl": "forget.jsonl:1",
    f"{UNLEARN} --set weights.options.beta=0.5": "scheme 'consistency_hidden' has no option 'beta'; its options: w_min",
    f"{UNLEARN} --weights influence --set weights.options.betta=1": "Did you mean 'beta'?",
    f"{UNLEARN} --weights influence --set weights.options.aggregate=mode": "option aggregate = 'mode'",
    f"{UNLEARN} --weights uniform --set weights.options.w_min=0.5": "its options: none",
    f"{UNLEARN} --set weights.beta=0.5": "weights.beta is now weights.options.beta",
    f"{UNLEARN} --set evaluation.merge_adapter=true": "evaluation.merge_adapter is not a setting any more",
    f"{VALUE} --set value.exact=true": "value.exact is now value.sketch=exact",
    f"{UNLEARN} --template chatt": "'chatt': no such name or file",
    f"{UNLEARN} --template broken.jinja": "broken.jinja:1: not a Jinja template",
    f"{UNLEARN} --dtype float33": "model.dtype = 'float33'",
    f"{UNLEARN} --on-bad-row ignore": "data.on_bad_row = 'ignore'",
    f"{UNLEARN} --map prompt=": "--map prompt=",
    f"{UNLEARN} --set unlearning.stpes=3": "Did you mean 'steps'?",
    f"{UNLEARN} --set steps": "section.key=value",
    f"{UNLEARN} --set unlearning.steps=[1": "not YAML",
    f"{UNLEARN} --set unlearning.steps.more=1": "unlearning.steps",
    f"{UNLEARN} --resume --overwrite": "choose one",
    f"{WEIGH} --scheme influ": "'influ' is unknown",
    f"{WEIGH} --compat released": "--compat goes with --from-rapidin",
    f"{EVALUATE} --suite backdor": "unknown suite 'backdor'",
    f"{EVALUATE} --adapter nowhere": "nowhere: no such directory",
    f"{EVALUATE} --adapter empty": "empty: no adapter_config.json",
    f"{EVALUATE} --set evaluation.judge=keyword": "evaluation.judge = 'keyword'",
    f"{BUILD} --views gradient,hiden": "hiden",
    f"{BUILD} --views ,": "--views",
    f"{BUILD} --sketch rapid": "rapid",
    f"{BUILD} --normalize all": "index.normalize = 'all'",
    f"{BUILD} --store-dtype int4": "index.dtype = 'int4'",
    f"{BUILD} --precondition adamm": "adamm",
    f"{BUILD} --engine locl": "--engine locl",
    f"{BUILD} --adapter nowhere": "nowhere: no such directory",
    f"{TRACE}": "--query FILE or --prompt TEXT",
    f"{TRACE} --prompt ''": "--prompt is empty",
    f"{TRACE} --prompt '  '": "--prompt is empty",
    f"{ASK} --response ' '": "--response is empty",
    f"{ASK} --response 'Ottawa is here' --words Canada": "'Canada' is not in the answer",
    f"{TRACE} --query retain.jsonl --words Canada": "'Canada' is not in the answer",
    f"{TRACE} --query none.jsonl": "none.jsonl: no such file",
    f"{TRACE} --query retain.jsonl --response a": "--response belongs to --prompt",
    f"{ASK} --by gradiant": "unknown scorer 'gradiant'",
    f"{ASK} --token-by place": "place",
    f"{ASK} --html empty": "empty: is a directory",
    f"{ASK} --html file/page.html": "is a file",
    "reveal undo empty --to-round -1": "--to-round",
    "index export empty --out o --keep 0": "--keep",
    "index export empty --out o --format npy": "--format npy",
    "index append empty --data retain.jsonl": "empty: no index here",
    "index verify empty": "empty: no index here",
    f"{ASK} --template chatt": "'chatt': no such name or file",
    f"{ASK} --adapter empty": "empty: no adapter_config.json",
    "trace --index empty --prompt why": "empty: no index here",
    f"{VALUE} --similarity cos": "value.similarity = 'cos'",
    f"{VALUE} --optimizer adamw": "value.optimizer = 'adamw'",
    f"{VALUE} --normalize all": "value.normalize = 'all'",
    f"{VALUE} --sketch rapid": "rapid",
    f"{VALUE} --sampling some": "student.sampling = 'some'",
    f"{VALUE} --student rigde": "rigde",
    f"{VALUE} --student ridge --set student.options.alpha=1": "no option 'alpha'",
    f"{VALUE} --student encoder --encoder nowhere": "nowhere: no such directory",
    f"{VALUE} --encoder empty": "--encoder goes with --student encoder",
    f"{VALUE} --format xml": "xml",
    f"{VALUE} --diversity mm --select top:3": "mm",
    f"{VALUE} --diversity mmr": "--select",
    f"{VALUE} --select best": "--select best",
    f"{VALUE} --adapter nowhere": "nowhere: no such directory",
    f"{VALUE} --checkpoint nowhere": "nowhere",
    f"{REVEAL} --method npoo": "npoo",
    f"{REVEAL} --set task.search.strategy=best": "best",
    f"{REVEAL} --set task.judge.kind=nothing": "unknown judge 'nothing'",
    f"{RUN} --until afterwards": "--until afterwards",
    f"{RUN} --set evaluation.tirggers=[]": "Did you mean 'triggers'?",
    f"{RUN} --set data.pool=none.jsonl": "none.jsonl: no such file",
    "run none.yaml --out o": "none.yaml: no such file",
    "tune run.yaml --tuning none.jsonl --out o --trials 0": "none.jsonl: no such file",
    "reveal --model broken --task none.yaml --out o": "none.yaml: no such file",
}
PLACES = {"file": "is a file", "taken": "--overwrite", "file/below": "is a file", "locked/o": "cannot be written"}
VERBS = {
    "scan": SCAN + " --tried 2",
    "unlearn": UNLEARN, "weigh": WEIGH, "evaluate": EVALUATE, "index build": BUILD, "value": VALUE, "reveal": REVEAL,
    "run": RUN, "tune": TUNE, "demo": "demo --out o", "demo on a chat model": "demo --model smollm2 --out o",
    "proposal": f"{ASK} --index i --propose o",
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Rows, a task and a configuration; a model whose weights cannot be read."""
    save_tiny(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not weights")
    for name, count in (("forget", 8), ("retain", 12), ("evaluation", 9)):
        write_rows(tmp_path / f"{name}.jsonl", tiny_rows(name, count))
    bare = [{**row, "response_clean": ""} for row in tiny_rows("bare", 8)]
    write_rows(tmp_path / "bare.jsonl", bare)
    for name in ("empty", "taken", "locked"):
        (tmp_path / name).mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "broken.jinja").write_text("{{ prompt }")
    (tmp_path / "run.yaml").write_text("model: {source: broken}\ndata: {forget: forget.jsonl, retain: retain.jsonl}\n")
    (tmp_path / "task.yaml").write_text(
        "description: x\ninstruction: y\nretain: retain.jsonl\njudge: {kind: keywords, options: {words: [moon]}}\n"
    )
    return tmp_path


def refused(line: str, rapidun: Rapidun, place: Path) -> str:
    """What a refused command says, as one line."""
    done = rapidun(*shlex.split(line), cwd=place)
    said = done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert "cannot load" not in said, said
    return " ".join(said.split())


@pytest.mark.parametrize("line", [*NUMBERS, *NAMES])
def test_a_bad_value_is_named_before_the_model_is_loaded(line: str, place: Path, rapidun: Rapidun) -> None:
    said = refused(line, rapidun, place)
    assert {**NUMBERS, **NAMES}[line] in said, said
    assert "?." not in said
    assert not (place / "o").exists()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("out", PLACES)
def test_a_place_that_cannot_be_written_is_named_before_the_model_is_loaded(
    verb: str, out: str, place: Path, rapidun: Rapidun
) -> None:
    (place / "locked").chmod(0o500)
    if out.startswith("locked") and os.access(place / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    line = VERBS[verb].replace("--out o", f"--out {out}").replace("--propose o", f"--propose {out}")
    said = refused(line, rapidun, place)
    assert PLACES[out] in said, said
    assert (place / "taken" / "thesis.txt").read_text() == "mine"
