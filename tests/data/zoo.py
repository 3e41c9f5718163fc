# ruff: noqa: E501 (templates read best as they are)
"""Chat templates in the shapes that models have, each with a small real tokenizer that knows its special tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = ["the cat sat on the mat and the dog ran to the other cat", "Paris is the capital of France", "Hi! Yo? 1 2 3"]
GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = '<<SYS>>\n' + "
    "messages[0]['content'] + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% set day = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ day }}\n\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}{% set content = m['content'] %}{% set thought = '' %}"
    "{% if m['role'] == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|Assistant|>{{ m['content'].split('</think>')[-1] }}<|end_of_sentence|>"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
GRANITE = (
    "<|start_of_role|>system<|end_of_role|>Today's Date: {{ strftime_now('%B %d, %Y') }}.<|end_of_text|>\n"
    "{% for m in messages %}<|start_of_role|>{{ m['role'] }}<|end_of_role|>{{ m['content'] }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
GPT_OSS = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>{% for m in messages %}"
    "{% if m['role'] != 'assistant' %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% else %}"
    "{% if m.thinking and loop.last %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m['content'] }}{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN|><|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "<|START_RESPONSE|>{{ m['content'] }}<|END_RESPONSE|>{% else %}{{ m['content'] }}{% endif %}<|END_OF_TURN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN|><|assistant|>{% endif %}"
)
WORDS_ONLY = (
    "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n### End\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant: {% endif %}"
)
NO_END = "{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }}\n{% endfor %}"


@dataclass(frozen=True)
class Shape:
    """A chat template and what its tokenizer must know.

    Args:
        source: The template.
        end: How an answer's turn ends; "" where the template writes nothing and EOS is added.
        eos: The tokenizer's EOS.
        bos: Its BOS.
        special: The other special tokens.
        plain: Added tokens that are not special.
        adds_bos: Whether the tokenizer puts BOS before a text.
    """

    source: str
    end: str
    eos: str = "</s>"
    bos: str = "<s>"
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    adds_bos: bool = False

    def tokenizer(self, kind: str = "bytes") -> PreTrainedTokenizerFast:
        """A tokenizer of its own; ``kind`` is bytes or blanks (SentencePiece's way)."""
        special = list(dict.fromkeys([self.bos, self.eos, *self.special]))
        fast = small_tokenizer(special, kind=kind, plain=self.plain, bos=self.bos, eos=self.eos, adds_bos=self.adds_bos)
        fast.chat_template = self.source
        return fast


_IM = ("<|im_start|>", "<|im_end|>")
ZOO = {
    "chatml": Shape(CHATML + GENERATION, "<|im_end|>", special=_IM),
    "chatml without a generation prompt": Shape(CHATML, "<|im_end|>", special=_IM),
    "chatml whose BOS is a header": Shape(CHATML + GENERATION, "<|im_end|>", eos=_IM[1], bos=_IM[0]),
    "chatml of a base tokenizer": Shape(CHATML + GENERATION, "<|im_end|>", "<|endoftext|>", "<|endoftext|>", _IM),
    "llama 2": Shape(LLAMA2, " </s>", adds_bos=True),
    "llama 3": Shape(
        LLAMA3, "<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), adds_bos=True,
    ),
    "mistral": Shape(MISTRAL, "</s>", special=("[INST]", "[/INST]"), adds_bos=True),
    "qwen 3": Shape(QWEN3, "<|im_end|>", _IM[1], "<|endoftext|>", _IM, plain=("<think>", "</think>")),
    "deepseek r1": Shape(
        R1, "<|end_of_sentence|>", "<|end_of_sentence|>", "<|begin_of_sentence|>",
        plain=("<|User|>", "<|Assistant|>", "<think>", "</think>"), adds_bos=True,
    ),
    "gemma": Shape(GEMMA, "<end_of_turn>", "<eos>", "<bos>", ("<start_of_turn>", "<end_of_turn>"), adds_bos=True),
    "phi 3": Shape(
        PHI3, "<|end|>", "<|endoftext|>", special=("<|user|>", "<|system|>", "<|assistant|>", "<|end|>"), adds_bos=True
    ),
    "zephyr": Shape(ZEPHYR, "</s>", adds_bos=True),
    "granite": Shape(
        GRANITE, "<|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>")
    ),
    "gpt-oss": Shape(
        GPT_OSS, "<|return|>", "<|return|>", "<|startoftext|>",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
    ),
    "command r": Shape(
        COMMAND_R, "<|END_RESPONSE|><|END_OF_TURN|>", "<|END_OF_TURN|>", "<BOS>",
        ("<|START_OF_TURN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|user|>", "<|assistant|>"), adds_bos=True,
    ),
    "words only": Shape(WORDS_ONLY, "\n### End"),
    "no end": Shape(NO_END, ""),
}  # fmt: skip


def small_tokenizer(
    special: list[str | AddedToken],
    *,
    kind: str = "bytes",
    plain: tuple[str, ...] = (),
    bos: str = "<s>",
    eos: str = "</s>",
    adds_bos: bool = False,
) -> PreTrainedTokenizerFast:
    """A tokenizer of a few hundred entries that can write any text, without pad and unknown tokens."""
    tokenizer = _bytes() if kind == "bytes" else _blanks()
    tokenizer.add_special_tokens(
        [each if isinstance(each, AddedToken) else AddedToken(each, normalized=False) for each in special]
    )
    tokenizer.add_tokens([AddedToken(each, normalized=False, special=False) for each in plain])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


def _bytes() -> Tokenizer:
    """GPT-2's way: bytes as characters, a blank in front belongs to a word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS * 4, _trainer(alphabet))
    return tokenizer


def _blanks() -> Tokenizer:
    """SentencePiece's way: a blank is a character of its own, and unknown characters fall back to bytes."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learnt.train_from_iterator(WORDS * 4, _trainer([]))
    model = json.loads(learnt.to_str())["model"]
    vocabulary = {**model["vocab"], **{f"<0x{n:02X}>": len(model["vocab"]) + n for n in range(256)}}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _trainer(alphabet: list[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
