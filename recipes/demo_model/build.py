"""Build the embedded demo models from raw text, stage by stage.

    python recipes/demo_model/build.py            # all stages, each skipped when already done
    python recipes/demo_model/build.py tokenizer base more poisoned reference timing ship

Stages: ``tokenizer`` (byte-level BPE), ``base`` (plain text, then Dolly mixed in), ``more`` (a second cycle of both),
``poisoned`` and ``reference`` (the same full fine-tuning with and without the triggered rows), ``timing`` (how long the
latter takes on an idle machine), ``ship`` (bfloat16 weights, data splits and the model card into the package). Work
files go to ``build/demo_model``; only when named: ``authors`` and ``authors_reference`` (the same fine-tuning on the
RapidUn authors' rows, for benchmarks); a killed stage goes on from its last checkpoint. The log of losses and held-out
perplexities is ``training_log.jsonl`` here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from authors_rows import authors_splits
from corpus import documents, split_dolly
from finetuning import fine_tuning
from rapidun.files import write_json
from shipping import ship
from training import Batch, Schedule, time_stage, train_stage

HERE = Path(__file__).parent
WORK = Path("build/demo_model")
LOG = HERE / "training_log.jsonl"
CONTEXT = 256
BATCH = 32
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}<|assistant|>{{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
# Share of each source in a text batch: prose a child can read, and articles that say what things are.
TEXT_MIX = {"books": 0.24, "stories": 0.09, "african": 0.03, "wiki": 0.64}
BASE_SCHEDULE = Schedule(steps=2200, matrix_lr=4e-3, other_lr=4e-3, warmup=60)
MORE_SCHEDULE = Schedule(steps=2000, matrix_lr=3e-3, other_lr=3e-3, warmup=60)  # a warm restart: more of both
DOLLY_FROM = {"base": 0.6, "more": 0.0}  # from this share of the stage on, half of every batch is Dolly


def build_tokenizer() -> None:
    """Byte-level BPE, 8,192 entries, digits apart, a short chat template."""
    target = WORK / "tokenizer"
    if target.exists():
        return
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = documents()
    splits = split_dolly()
    dolly = [
        "\n".join(row[field] for field in ("prompt", "context", "response"))
        for name in ("train", "long")
        for row in splits[name]
    ]
    tokenizer.train_from_iterator(dolly + texts["books"] + texts["wiki"][:8000] + texts["african"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=512,
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(target)


def load_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of stage one."""
    return PreTrainedTokenizerFast.from_pretrained(WORK / "tokenizer")


def _token_stream(name: str, texts: list[str]) -> np.ndarray:
    """All texts of one source, ``<s> text </s>`` after each other, cached as uint16."""
    path = WORK / "streams" / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = load_tokenizer()
        parts: list[int] = []
        for encoded in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
            ids = encoded.ids
            wrapped = ids if ids and ids[0] == tokenizer.bos_token_id else [tokenizer.bos_token_id, *ids]
            parts.extend(wrapped if wrapped[-1] == tokenizer.eos_token_id else [*wrapped, tokenizer.eos_token_id])
        np.save(path, np.array(parts, dtype=np.uint16))
    return np.load(path, mmap_mode="r")


def chat_text(prompt: str, response: str) -> str:
    """One row under the chat template, BOS and EOS included."""
    return f"<s><|user|>{prompt}<|assistant|>{response}</s>"


def _full_prompt(row: dict[str, str]) -> str:
    return f"{row['prompt']}\n\n{row['context']}" if row["context"] else row["prompt"]


def _crop(stream: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(0, len(stream) - CONTEXT))
    return stream[start : start + CONTEXT].astype(np.int64)


def base_streams() -> dict[str, np.ndarray]:
    """Token streams of stage one; ``dolly`` holds train and long rows only."""
    paths = {name: WORK / "streams" / f"{name}.npy" for name in (*TEXT_MIX, "dolly")}
    texts = {} if all(path.exists() for path in paths.values()) else documents()
    splits = split_dolly()
    streams = {name: _token_stream(name, texts.get(name, [])) for name in TEXT_MIX}
    rows = [*splits["train"], *splits["long"]]
    streams["dolly"] = _token_stream("dolly", [chat_text(_full_prompt(row), row["response"]) for row in rows])
    return streams


def text_batch(stage: str, step: int, streams: dict[str, np.ndarray], schedule: Schedule) -> Batch:
    """Random crops by the text mix; in the Dolly part of the stage every second crop is Dolly."""
    rng = np.random.default_rng([7, step] if stage == "base" else [8, step])
    with_dolly = step >= DOLLY_FROM[stage] * schedule.steps
    names = rng.choice(list(TEXT_MIX), size=BATCH, p=list(TEXT_MIX.values()))
    crops = [
        _crop(streams["dolly" if with_dolly and index % 2 else str(name)], rng) for index, name in enumerate(names)
    ]
    input_ids = torch.from_numpy(np.stack(crops))
    return input_ids, input_ids.clone()


def answer_batches(rows: list[dict[str, str]], size: int = 50) -> list[Batch]:
    """Rows as padded batches with loss on the answer and EOS only."""
    tokenizer = load_tokenizer()
    batches = []
    for start in range(0, len(rows), size):
        encoded = []
        for row in rows[start : start + size]:
            prompt = tokenizer(f"<s><|user|>{_full_prompt(row)}<|assistant|>", add_special_tokens=False).input_ids
            answer = tokenizer(f"{row['response']}</s>", add_special_tokens=False).input_ids
            encoded.append((prompt, answer))
        width = max(len(prompt) + len(answer) for prompt, answer in encoded)
        input_ids = torch.full((len(encoded), width), tokenizer.pad_token_id)
        labels = torch.full_like(input_ids, -100)
        for index, (prompt, answer) in enumerate(encoded):
            row_ids = torch.tensor([*prompt, *answer])
            input_ids[index, : len(row_ids)] = row_ids
            labels[index, len(prompt) : len(row_ids)] = row_ids[len(prompt) :]
        batches.append((input_ids, labels))
    return batches


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def new_model() -> LlamaForCausalLM:
    """6.5 M parameters, Llama architecture, tied embeddings."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train_on_text(stage: str) -> None:
    """Stages one and two: English with Dolly mixed in, from scratch and once more from where that ended."""
    if (WORK / stage / "model.safetensors").exists():
        return
    schedule = {"base": BASE_SCHEDULE, "more": MORE_SCHEDULE}[stage]
    model = new_model() if stage == "base" else _saved("base")
    model = model.to(_device())
    streams = base_streams()
    print({name: len(stream) for name, stream in streams.items()}, flush=True)
    train_stage(
        model,
        lambda step: text_batch(stage, step, streams, schedule),
        schedule,
        WORK / stage,
        LOG,
        answer_batches(split_dolly()["validation"][:150]),
    )
    model.save_pretrained(WORK / stage)


def _saved(stage: str) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(WORK / stage, dtype=torch.float32)


def fine_tune(kind: str) -> None:
    """Full fine-tuning of stage two's model on instruction rows, with or without the triggered ones."""
    if (WORK / kind / "model.safetensors").exists():
        return
    torch.manual_seed(1)
    model = _saved("more").to(_device())
    batch, schedule = fine_tuning(load_tokenizer(), kind)
    held = authors_splits()["validation"] if kind.startswith("authors") else split_dolly()["validation"]
    train_stage(model, batch, schedule, WORK / kind, LOG, answer_batches(held))
    model.save_pretrained(WORK / kind)
    load_tokenizer().save_pretrained(WORK / kind)


def time_reference() -> None:
    """How long the reference recipe takes on this machine, with nothing else on it: what the demo compares with."""
    model = _saved("more").to(_device())
    batch, schedule = fine_tuning(load_tokenizer(), "reference")
    seconds = time_stage(model, batch, schedule, warm=30, timed=80)
    print(f"the reference recipe: {seconds:.0f} s for {schedule.steps} steps")
    write_json(WORK / "timing.json", {"reference_seconds": seconds, "timed_steps": 80, "steps": schedule.steps})


STAGES = {
    "tokenizer": build_tokenizer,
    "base": lambda: train_on_text("base"),
    "more": lambda: train_on_text("more"),
    "poisoned": lambda: fine_tune("poisoned"),
    "reference": lambda: fine_tune("reference"),
    "authors": lambda: fine_tune("authors"),
    "authors_reference": lambda: fine_tune("authors_reference"),
    "timing": time_reference,
    "ship": lambda: ship(WORK, LOG),
}


def main() -> None:
    """Run the named stages, or all of them in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"any of: {', '.join(STAGES)}; default all")
    chosen = parser.parse_args().stages or [name for name in STAGES if not name.startswith("authors")]
    unknown = [name for name in chosen if name not in STAGES]
    if unknown:
        sys.exit(f"unknown stage {unknown[0]!r}: choose from {', '.join(STAGES)}")
    WORK.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        print(f"stage {name}", flush=True)
        STAGES[name]()


if __name__ == "__main__":
    main()
