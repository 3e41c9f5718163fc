"""GCG: words behind the prompt, searched by gradient, that make the model begin the forgotten answer.

Zou et al. 2023 (arXiv 2307.15043), algorithm 1, as `nanogcg` has it (the extra ``gcg``): tokens of a suffix are
exchanged, in each step the best of some candidates that the gradient of the answer's loss proposes. Suffixes are
searched for a few forget rows, each for its own prompt and the beginning of its own answer, and then take turns behind
every prompt that is asked. Any model is brought to say anything by words enough: only beside a twin that was searched
just as long does it mean that something was hidden. The budget here is small; a longer search finds more.
"""

from __future__ import annotations

import gc
import importlib.util
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Row, Target, turns, with_prompt
from rapidun.attacks.trial import CannotRun, Outcome, Trial
from rapidun.errors import ModelError
from rapidun.models import LoadedModel
from rapidun.models.modes import evaluating
from rapidun.models.passes import Progress, pass_budget
from rapidun.models.quiet import quiet

SEARCHES, WIDTH, TOKENS = 2, 32, 16
"""Rows that are searched for, candidates a step, and tokens of the answer that are searched for."""
MOST = 256
"""Tokens that the gradient proposes for a place; nanogcg's own."""
BACKWARD = 3
"""A pass that takes the gradient costs so many."""
SUFFIX = 20
"""Tokens of a suffix; nanogcg's own beginning has about so many."""
PLACE = "{optim_str}"
"""Where nanogcg puts the suffix."""


@register_attack(
    "gcg", title="searched for a suffix", unit="search steps", efforts=(10, 40), quick=(), release=()
)  # fmt: skip
def gcg(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial for each number of steps. In no preset: a verdict must not depend on what is installed."""
    if importlib.util.find_spec("nanogcg") is None:
        raise CannotRun("it needs nanogcg: pip install 'rapidun[gcg]'")
    rows = [row for row in searched_for(target) if _fits(target, row)]
    if not rows:
        raise CannotRun("no forget row can be searched for: its template changes what stands behind a prompt")
    reads = len(rows) * (WIDTH + BACKWARD)
    return [
        Trial("", steps, f"{steps:g} steps", target.material.measured, partial(_measure, target, rows, int(steps)),
              reads=int(steps) * reads)
        for steps in efforts
    ]  # fmt: skip


def searched_for(target: Target) -> list[Row]:
    """A few forget rows, drawn by the seed."""
    return target.material.draw(target.material.forget, SEARCHES)


def _measure(target: Target, rows: Sequence[Row], steps: int, said: Progress | None) -> list[Outcome]:
    suffixes = []
    for number, row in enumerate(rows, 1):
        suffixes.append(suffix_for(target, row, steps))
        if said is not None:
            said(number, len(rows))
    material = target.material
    if material.has_triggers:
        asked = zip(material.known(), turns(suffixes), strict=False)
        return target.ask(target.loaded, [replace(q, row=behind(q.row, suffix)) for q, suffix in asked], said)
    own = {str(row["id"]): suffix for row, suffix in zip(rows, suffixes, strict=True)}
    pairs = zip(material.forget, turns(suffixes), strict=False)
    return target.losses(target.loaded, [behind(row, own.get(str(row["id"]), suffix)) for row, suffix in pairs], said)


def behind(row: Row, suffix: str) -> dict[str, Any]:
    """The row with a suffix behind its prompt."""
    return with_prompt(row, f"{row['prompt']} {suffix}")


def _fits(target: Target, row: Row) -> bool:
    """Whether the text has one place for the suffix, and an answer behind it."""
    return _parts(target, row)[0].count(PLACE) == 1 and bool(_parts(target, row)[1])


def _parts(target: Target, row: Row) -> tuple[str, str]:
    """What the model is given, with `PLACE` in it, and the beginning of the answer."""
    given = target.template.prompt_text(behind(row, PLACE))
    whole = target.template.rendering(row)
    tokenizer = target.loaded.tokenizer
    answer = tokenizer(whole.text[whole.start : whole.stop], add_special_tokens=False, return_offsets_mapping=True)
    ends = answer["offset_mapping"][:TOKENS]
    return given, whole.text[whole.start :][: ends[-1][1]] if ends else ""


def suffix_for(target: Target, row: Row, steps: int) -> str:
    """The suffix that a search of ``steps`` steps finds; the same for the same seed. The model is as it was.

    Raises:
        ModelError: If the model or its tokenizer cannot be searched.
    """
    import nanogcg
    from nanogcg.utils import get_nonascii_toks

    loaded = target.loaded
    given, answer = _parts(target, row)
    tokenizer = Complete(loaded.tokenizer, given)
    allowed = len(loaded.tokenizer) - len(set(get_nonascii_toks(tokenizer).tolist()))
    config = nanogcg.GCGConfig(
        num_steps=steps, search_width=WIDTH, batch_size=_at_once(loaded, given + answer),
        topk=max(1, min(MOST, allowed)), verbosity="ERROR",
        use_prefix_cache=False,  # it indexes the cache as transformers had it before version 5
    )  # fmt: skip
    try:
        with _searched(loaded, target.material.seed):
            return str(nanogcg.run(loaded.model, tokenizer, "", answer, config).best_string)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ModelError(f"nanogcg cannot search this model: {' '.join(str(error).split())[:200]}") from error


@contextmanager
def _searched(loaded: LoadedModel, seed: int) -> Iterator[None]:
    """Inside, the model is ready for a search of this seed, and nothing is said; afterwards all is as it was."""
    took_gradients = [(parameter, parameter.requires_grad) for parameter in loaded.model.parameters()]
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    gc.freeze()  # nanogcg collects garbage in every pass, and else looks at all that this process holds each time
    try:
        with evaluating(loaded.model), quiet(), redirect_stderr(io.StringIO()), torch.random.fork_rng(devices):
            loaded.model.requires_grad_(False)
            torch.manual_seed(seed)
            yield
    finally:
        gc.unfreeze()
        for parameter, flag in took_gradients:
            parameter.requires_grad_(flag)


def _at_once(loaded: LoadedModel, text: str) -> int:
    """Candidates in a pass: as many as the logits of all their positions, and a copy of them, leave room for."""
    tokens = len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) + SUFFIX
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    each = 2 * tokens * vocabulary * torch.finfo(loaded.dtype).bits // 8
    return max(1, min(WIDTH, int(pass_budget(loaded.model) // each)))


class Complete:
    """A tokenizer whose texts are complete: nanogcg is given the run's own text, and no special token is added to it.

    Args:
        tokenizer: The model's; it is not changed.
        text: What its chat template is to have made.
    """

    chat_template, bos_token = "complete", None

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.tokenizer, self.text = tokenizer, text

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        """The text."""
        return self.text

    def __call__(self, text: Any, **options: Any) -> Any:
        """As the tokenizer, without special tokens."""
        return self.tokenizer(text, **{**options, "add_special_tokens": False})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)
