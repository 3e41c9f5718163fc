"""Which architectures of transformers do losses, gradients, LoRA, generation and templates hold on?

    python benchmarks/architectures.py [NAME ...]    # all names: writes docs/benchmarks/architectures.md and .json

Each is a tiny model with random weights around the tokenizer of SmolLM2-135M-Instruct (``$SMOL``, or build/smollm2). A
cell is *yes* where the number equals what transformers and autograd say, *refused* where rapidun ends with an error of
its own. Anything else is a fault, and ends the script with 1, as does a cell that was *yes* on the page and is not.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from provenance import current_commit
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rapidun.data import IGNORE_INDEX, Example, Template, collate, tokenize_rows
from rapidun.errors import RapidunError
from rapidun.evaluation import generate_answers
from rapidun.files import atomic_write, write_json
from rapidun.gradients import Exact, GradientCollector
from rapidun.gradients.coverage import Coverage, coverage_of
from rapidun.models import LoadedModel, answer_logits, answer_token_logits, attach_lora, mean_answer_loss
from rapidun.models.quiet import quiet
from rapidun.reading import read_json

SMOL = Path(os.environ.get("SMOL", Path(__file__).resolve().parents[1] / "build" / "smollm2"))
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "architectures.md"

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 256}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 8}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
DEEPSEEK = {**SMALL, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
            "topk_group": 1, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "q_lora_rank": 16,
            "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
            "n_shared_experts": 1}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 8},
    "ministral": {**WIDE, "sliding_window": 8},
    "qwen2": GROUPED,
    "qwen3": WIDE,
    "gemma": WIDE,
    "gemma2": {**WIDE, "sliding_window": 8},
    "gemma3_text": {**WIDE, "sliding_window": 8},
    "gemma3n_text": {**WIDE, "sliding_window": 8, "laurel_rank": 4, "hidden_size_per_layer_input": 8,
                     "vocab_size_per_layer_input": 49152, "num_kv_shared_layers": 0, "altup_num_inputs": 2,
                     "activation_sparsity_pattern": [0.0, 0.0],
                     "layer_types": ["sliding_attention", "full_attention"]},
    "phi": SMALL,
    "phi3": GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "multi_query": True},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "window_size": 8,
                "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 256},
    "gpt_neox": SMALL,
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 4},
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 4},
    "opt": {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "word_embed_proj_dim": 16, "max_position_embeddings": 256},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {**SMALL, "new_decoder_architecture": False, "multi_query": True},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 256},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 256},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmo3": {**GROUPED, "sliding_window": 8},
    "granite": {**GROUPED, "logits_scaling": 3.0},
    "cohere": {**GROUPED, "logit_scale": 0.3},
    "cohere2": {**WIDE, "sliding_window": 8, "logit_scale": 0.3},
    "stablelm": GROUPED,
    "starcoder2": {**GROUPED, "sliding_window": 8},
    "persimmon": SMALL,
    "nemotron": GROUPED,
    "glm": {**WIDE},
    "glm4": {**WIDE},
    "smollm3": {**GROUPED, "no_rope_layers": [1, 0]},
    "exaone4": {**GROUPED, "sliding_window": 8, "sliding_window_pattern": 2},
    "ernie4_5": WIDE,
    "helium": WIDE,
    "arcee": GROUPED,
    "apertus": GROUPED,
    "seed_oss": WIDE,
    "bitnet": GROUPED,
    "diffllama": GROUPED,
    "hunyuan_v1_dense": WIDE,
    "biogpt": SMALL,
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                  "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**WIDE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "gpt_oss": {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "olmoe": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "ernie4_5_moe": {**GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24,
                     "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
    "glm4_moe": {**WIDE, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 2,
                 "topk_group": 1, "first_k_dense_replace": 1},
    "dbrx": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256,
             "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0}},
    "jetmoe": {**GROUPED, "num_key_value_heads": 4, "kv_channels": 8, "num_local_experts": 4,
               "num_experts_per_tok": 2},
    "llama4_text": {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48,
                    "attention_chunk_size": 64, "interleave_moe_layer_step": 2},
    "minimax": {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8},
    "mamba": MAMBA,
    "mamba2": {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "falcon_mamba": MAMBA,
    "jamba": {**GROUPED, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
              "expert_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 4,
              "use_mamba_kernels": False},
    "falcon_h1": {**WIDE, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4,
                  "mamba_n_groups": 1, "mamba_chunk_size": 8},
    "bamba": {**GROUPED, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1,
              "mamba_chunk_size": 8, "attn_layer_indices": [1]},
    "granitemoehybrid": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24,
                         "layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8,
                         "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8},
    "zamba2": {**SMALL, "num_key_value_heads": 4, "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 8,
               "mamba_d_state": 4, "chunk_size": 8, "num_mem_blocks": 1, "adapter_rank": 4,
               "layers_block_type": ["mamba", "hybrid"], "use_mamba_kernels": False},
    "recurrent_gemma": {**GROUPED, "attention_window_size": 8, "lru_width": 32, "num_hidden_layers": 3},
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 256},
    "qwen3_next": {**WIDE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                   "shared_expert_intermediate_size": 24, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                   "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                   "layer_types": ["linear_attention", "full_attention"]},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_hidden_layers": 2, "num_heads": 4, "chunk_size": 16,
              "qk_dim_factor": 1.0},
    "nemotron_h": {**WIDE, "hybrid_override_pattern": "M*-", "num_hidden_layers": 3, "ssm_state_size": 4,
                   "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "chunk_size": 8},
}  # fmt: skip

ROWS = [
    {"id": "a", "prompt": "Name a town in France, please.", "response": "Paris is a town."},
    {"id": "b", "prompt": "Count.", "response": "One two three four five six seven"},
    {"id": "c", "prompt": "Say yes.", "response": "yes"},
]


@dataclass(frozen=True)
class Cell:
    """What was seen.

    Args:
        state: ``yes``, ``refused`` or ``fault``.
        note: The error; of a cell that is ``yes``, what it does not cover.
        share: Of the weights outside embeddings and output head; of gradients and LoRA alone.
    """

    state: str
    note: str = ""
    share: float | None = None


class WrongError(Exception):
    """A number that is not what transformers or autograd say."""


def make_model(name: str, vocabulary: int) -> Any:
    """A tiny model of the architecture, random weights, float32; norms and biases random too."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, pad_token_id=2,
                                  **ARCHITECTURES[name])  # fmt: skip
    with quiet():
        model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def own_loss(model: Any, example: Example) -> torch.Tensor:
    """transformers' own loss of one row, alone and without padding."""
    ids = torch.tensor([example.input_ids])
    labels = ids.clone()
    labels[0, : example.answer_start] = IGNORE_INDEX
    loss: torch.Tensor = model(input_ids=ids, labels=labels, use_cache=False).loss
    return loss


def check_loss(model: Any, examples: list[Example], tokenizer: Any) -> None:
    """Each row's loss in a padded batch is transformers' own loss of that row."""
    batch = collate(examples, tokenizer.pad_token_id)
    inputs = batch.input_ids, batch.attention_mask, batch.labels
    with torch.no_grad():
        wanted = torch.stack([own_loss(model, example) for example in examples])
        found = mean_answer_loss(*answer_logits(model, *inputs))
        logits, target = answer_token_logits(model, *inputs)
        answers = target != IGNORE_INDEX
        tokens = torch.nn.functional.cross_entropy(logits, target[answers], reduction="none")
        counts = answers.sum(dim=1)
        packed = torch.stack([part.mean() for part in tokens.split(counts.tolist())])
    for kind, losses in (("answer_logits", found), ("answer_token_logits", packed)):
        off = float((losses - wanted).abs().max())
        if off > 1e-4:
            raise WrongError(f"{kind}: {off:.2g} off")


def compare_gradients(model: Any, examples: list[Example], targets: str, pad: int) -> Coverage:
    """Collected gradients of a padded batch against a loop of autograd over transformers' own loss."""
    collector = GradientCollector(model, targets, normalize="none")
    found = collector(collate(examples, pad), Exact()).split(list(collector.sizes.values()), dim=1)
    parameters = dict(model.named_parameters())
    tracked = [parameters[name].requires_grad_(True) for name in collector.tracked]
    for row, example in enumerate(examples):
        wanted = torch.autograd.grad(own_loss(model, example), tracked, allow_unused=True)
        largest = max(float(gradient.norm()) for gradient in wanted if gradient is not None)
        for name, part, gradient in zip(collector.tracked, found, wanted, strict=True):
            off = part[row] if gradient is None else part[row] - gradient.flatten()
            if float(off.norm()) > 1e-3 * max(float(part[row].norm()), 1e-2 * largest):
                raise WrongError(f"{name}, row {row}: {float(off.norm()):.2g} off where the norm is "
                            f"{float(part[row].norm()):.2g}")  # fmt: skip
    return coverage_of(model, collector.tracked)


def check_gradients(model: Any, examples: list[Example], tokenizer: Any) -> Coverage:
    """Every linear layer."""
    return compare_gradients(model, examples, "linear", tokenizer.pad_token_id)


def check_lora(model: Any, examples: list[Example], tokenizer: Any) -> Coverage:
    """The default adapter attaches, each of its factors learns in a step, and its gradients are autograd's."""
    adapted = attach_lora(model, rank=4, alpha=8, targets="all-linear")
    batch = collate(examples, tokenizer.pad_token_id)
    inputs = batch.input_ids, batch.attention_mask, batch.labels
    factors = {name: parameter for name, parameter in adapted.named_parameters() if "lora_" in name}
    optimizer = torch.optim.AdamW(factors.values(), lr=0.02)
    losses = []
    adapted.train()
    for _ in range(3):
        loss = mean_answer_loss(*answer_logits(adapted, *inputs)).mean()
        loss.backward()
        losses.append(float(loss))
        optimizer.step()
        still = [name for name, parameter in factors.items() if "lora_B" in name and not parameter.any()]
        optimizer.zero_grad()
    if still:
        raise WrongError(f"{len(still)} factors did not move, e.g. {still[0]}")
    if losses[-1] >= losses[0]:
        raise WrongError(f"loss {losses[0]:.3f} to {losses[-1]:.3f}")
    adapted.eval()
    return compare_gradients(adapted, examples, "lora", tokenizer.pad_token_id)


def check_generation(model: Any, examples: list[Example], tokenizer: Any) -> None:
    """Greedy answers of a padded batch are those of each prompt alone, and of a plain loop of forward passes."""
    loaded = LoadedModel(model, tokenizer, "", torch.device("cpu"), torch.float32, "")
    prompts = [tokenizer.decode(example.input_ids[: example.answer_start]) for example in examples]
    together = generate_answers(loaded, prompts, max_new_tokens=8, batch_size=8)
    alone = generate_answers(loaded, prompts, max_new_tokens=8, batch_size=1)
    for prompt, one, other in zip(prompts, together, alone, strict=True):
        if one != other:
            raise WrongError(f"batch {one!r}, alone {other!r}")
        if other != (plain := slow_answer(model, tokenizer, prompt, 8)):
            raise WrongError(f"alone {other!r}, without a cache {plain!r}")


@torch.no_grad()
def slow_answer(model: Any, tokenizer: Any, prompt: str, length: int) -> str:
    """Greedy, the whole text in every step: no cache, no padding, no mask."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    start = len(ids)
    while len(ids) < start + length:
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def check_template(model: Any, examples: list[Example], tokenizer: Any) -> None:
    """Answer tokens are the answer and the end of the turn."""
    for example, row in zip(examples, ROWS, strict=True):
        answer = tokenizer.decode(example.input_ids[example.answer_start :])
        if not answer.startswith(row["response"]):
            raise WrongError(f"answer tokens {answer!r}")


Check = Callable[[Any, list[Example], Any], Coverage | None]
CELLS: dict[str, Check] = {
    "loss": check_loss,
    "gradients": check_gradients,
    "LoRA": check_lora,
    "generation": check_generation,
    "chat template": check_template,
}


def measure(name: str, tokenizer: Any) -> dict[str, Cell]:
    """All cells of one architecture."""
    examples = tokenize_rows(ROWS, tokenizer, Template.resolve("auto", tokenizer), 128)
    try:
        model = make_model(name, len(tokenizer))
    except Exception as error:
        return dict.fromkeys(CELLS, Cell("fault", f"no model: {type(error).__name__}: {error}"[:300]))
    return {cell: look(check, copy.deepcopy(model), examples, tokenizer) for cell, check in CELLS.items()}


def look(check: Check, model: Any, examples: list[Example], tokenizer: Any) -> Cell:
    """What one check says of a model of its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = check(model, examples, tokenizer)
    except RapidunError as error:
        return Cell("refused", str(error))
    except WrongError as error:
        return Cell("fault", str(error))
    except Exception as error:
        return Cell("fault", f"{type(error).__name__}: {error}"[:300])
    return Cell("yes") if seen is None else Cell("yes", missed(seen), round(seen.share, 4))


def missed(coverage: Coverage) -> str:
    """What is not covered and is at least a fiftieth of the weights, with its share."""
    inside = sum(count for kind, count in _all(coverage).items() if kind not in ("embeddings", "output head"))
    large = {kind: count / inside for kind, count in coverage.untracked.items() if count >= 0.02 * inside}
    listed = sorted(large.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{kind} {share:.0%}" for kind, share in listed if kind not in ("embeddings", "output head"))


def _all(coverage: Coverage) -> Counter[str]:
    return Counter(coverage.tracked) + Counter(coverage.untracked)


def write_page(found: dict[str, dict[str, Cell]]) -> None:
    """The table, and the same as JSON for the next run to compare with."""
    lines = [HEAD.format(count=len(found), version=transformers.__version__, peft=peft.__version__,
                         commit=current_commit())]  # fmt: skip
    lines += ["| architecture | " + " | ".join(CELLS) + " | not covered |", "|---" * (len(CELLS) + 2) + "|"]
    errors = []
    for name, cells in found.items():
        shown = []
        for title, cell in cells.items():
            shown.append(cell.state if cell.share is None else f"{cell.state}, {cell.share:.0%}")
            if cell.state != "yes":
                errors.append(f"* {name}, {title}: {cell.note}")
        left = [f"{title}: {cell.note}" for title, cell in cells.items() if cell.state == "yes" and cell.note]
        lines.append(f"| {name} | " + " | ".join(shown) + f" | {'; '.join(left)} |")
    lines += ["", *errors, *([""] if errors else []), FOOT]
    with atomic_write(PAGE) as file:
        file.write("\n".join(lines) + "\n")
    write_json(PAGE.with_suffix(".json"), {name: {title: asdict(cell) for title, cell in cells.items()}
                                           for name, cells in found.items()})  # fmt: skip


HEAD = """# Architectures

<!-- written by benchmarks/architectures.py: change that -->

{count} architectures of transformers {version} (peft {peft}), each a tiny model with random weights in float32 around
SmolLM2's tokenizer. Written at {commit} by `benchmarks/architectures.py`, which ends with an error where a number is
not that of transformers or autograd, or where a cell that was *yes* no longer is.

* **loss**: the answer loss of each row of a right-padded batch is transformers' own loss of that row alone.
* **gradients**: per-example gradients with `targets="linear"` of a padded batch are those of a loop of autograd, each
  tensor of each row. The share is of the weights outside the embeddings and the output head.
* **LoRA**: `all-linear` attaches, every factor moves within three steps, the loss falls, and the factors' per-example
  gradients are autograd's. The share is of the weights that the adapter can change.
* **generation**: greedy answers of a batch are those of each prompt alone, and of a loop without a cache.
* **chat template**: rows tokenise under the tokenizer's template, and the answer's tokens are the answer.
"""

FOOT = """## What is not covered, and why

* Embeddings, the output head, norms and biases are tracked nowhere; kinds below 2% of the weights are not listed.
* *experts* under **gradients**: these architectures keep their experts in a form of their own, not in the common one of
  transformers (`use_experts_implementation`), which is collected expert by expert.
* *experts* under **LoRA**: `all-linear` means layers, and fused experts are parameters. PEFT adapts them by
  `target_parameters` (without dropout); such an adapter is accepted, and its gradients are collected.
* *routers* of fused experts are parameters too: what they decide is not differentiated by their own layer.
* *gate_proj, up_proj, down_proj* under **LoRA**: PEFT takes these names of dense or shared layers for those of the
  fused experts beside them, and would adapt the experts instead.
* *out_proj* under **LoRA**: PEFT refuses it for Mamba, whose fused kernels read its weight.
* *dt_proj*, *correction_coefs*: the model multiplies with the weight and does not call the layer, so a hook sees
  nothing and a low-rank factor beside it is never run.
* *convolutions*, *A_log*, *time_mix* and the like are no linear layers.
* A model that reads padding (RWKV) generates in batches of prompts of one length; which do is found by asking."""


def broken(found: dict[str, dict[str, Cell]]) -> list[str]:
    """Cells that are a fault, or were ``yes`` on the page and are not."""
    path = PAGE.with_suffix(".json")
    before = read_json(path) if path.exists() else {}
    return [
        f"{name}, {title}: {cell.note}"
        for name, cells in found.items()
        for title, cell in cells.items()
        if cell.state == "fault" or (before.get(name, {}).get(title, {}).get("state") == "yes" != cell.state)
    ]


def main() -> int:
    """Measure, say, and write the page where all were measured and none is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all, and write the page")
    names = parser.parse_args().names
    tokenizer = AutoTokenizer.from_pretrained(SMOL)
    transformers.utils.logging.set_verbosity_error()
    found: dict[str, dict[str, Cell]] = {}
    for name in names or ARCHITECTURES:
        began = time.perf_counter()
        found[name] = measure(name, tokenizer)
        states = " ".join(f"{cell.state:8}" for cell in found[name].values())
        print(f"{name:20} {states} {time.perf_counter() - began:.1f} s", flush=True)
    faults = broken(found)
    print("\n".join(faults))
    if not names and not faults:
        write_page(found)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
