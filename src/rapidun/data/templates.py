"""Templates: a row to the text that the model reads. One template serves a whole run (trap 19).

``full_text = prompt_text + response + ending``. ``prompt_text`` begins with exactly one BOS text where the
tokenizer has one (trap 6) and ends where the answer starts; ``ending`` ends with the EOS text, once. Because
both special tokens are in the text, tokenise with ``add_special_tokens=False``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rapidun.errors import FingerprintError, InputError, ModelError
from rapidun.files import sha256_of

Row = Mapping[str, Any]
_SENTINEL = "answer7f3a9c"  # stands for an answer while the text around it is looked at
# Some chat templates print today's date unless told one: a run that passes midnight would change its template.
_FIXED_VARIABLES = {"date_string": "01 Jan 2025"}
_ALPACA = (
    "Below is an instruction that describes a task{extra}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{prompt}\n\n{input}### Response:\n"
)
_ALPACA_EXTRA = ", paired with an input that provides further context"


@dataclass(frozen=True)
class Template:
    """How a row becomes text. Make one with `Template.resolve`.

    Args:
        name: ``chat``, ``alpaca``, ``plain`` or the path of a Jinja file.
        fingerprint: SHA-256 of everything that decides the text apart from the row.
        bos_text: The tokenizer's BOS, or ``""``.
        eos_text: The tokenizer's EOS.
        ending: What follows the answer, up to and including ``eos_text``.
        render: The prompt of a row, with or without BOS.
    """

    name: str
    fingerprint: str
    bos_text: str
    eos_text: str
    ending: str
    render: Callable[[Row], str] = field(repr=False, compare=False)

    @classmethod
    def resolve(cls, name_or_path: str, tokenizer: Any) -> Template:
        """The template called ``name_or_path`` for this tokenizer.

        Args:
            name_or_path: ``auto`` (``chat`` where the tokenizer has a chat template, else ``alpaca``), ``chat``,
                ``alpaca``, ``plain``, or the path of a Jinja file that renders a row's prompt.
            tokenizer: A transformers tokenizer.

        Raises:
            ModelError: If the tokenizer has no EOS, or ``chat`` is asked of one without a chat template.
            InputError: If there is no such name or file, or the file is not a Jinja template of a prompt.
        """
        if tokenizer.eos_token is None:
            raise ModelError("The tokenizer has no end-of-sequence token. Set eos_token in tokenizer_config.json.")
        name = name_or_path
        if name == "auto":
            name = "chat" if getattr(tokenizer, "chat_template", None) else "alpaca"
        if name == "chat":
            return _chat_template(tokenizer)
        if name in _BUILT_IN:
            source, render = _BUILT_IN[name]
            return _make(name, source, tokenizer, render)
        return _file_template(Path(name), tokenizer)

    def prompt_text(self, row: Row) -> str:
        """Everything up to where the answer starts, BOS included.

        A row with nothing but an answer (layout ``text``) is plain text: BOS alone, whatever the template.
        """
        if not row.get("prompt") and not row.get("context") and not row.get("messages"):
            return self.bos_text
        bare = {**row, "prompt": _without_leading(str(row.get("prompt") or ""), self.bos_text)}
        return self.bos_text + _without_leading(self.render(bare), self.bos_text)

    def full_text(self, row: Row) -> str:
        """``prompt_text + response + ending``."""
        return self.prompt_text(row) + self.answer_text(row)

    def answer_text(self, row: Row) -> str:
        """``response + ending``; an EOS (or, in plain text, a BOS) that the data already carries is not doubled."""
        response = str(row["response"])
        if not row.get("prompt"):
            response = _without_leading(response, self.bos_text)
        return _without_trailing(response, self.eos_text) + self.ending


def require_same_template(first: Template, second: Template) -> None:
    """Check that two parts of a run use one template (trap 19).

    Raises:
        FingerprintError: Names both templates and fingerprints.
    """
    if first.fingerprint != second.fingerprint:
        raise FingerprintError(
            f"Two templates in one run: {first.name!r} ({first.fingerprint[:16]}) and "
            f"{second.name!r} ({second.fingerprint[:16]}). Influence, training and evaluation need the same one; "
            "pass the same --template everywhere, with the same tokenizer."
        )


def user_text(row: Row) -> str:
    """Prompt, blank line, context; the prompt alone where there is no context."""
    return f"{row['prompt']}\n\n{row['context']}" if row.get("context") else str(row["prompt"])


def _transcript(row: Row) -> str:
    """Earlier turns of a chat as text, for templates that know no roles; empty for other rows."""
    earlier = (row.get("messages") or [])[:-1]
    return "".join(f"{turn['role'].capitalize()}: {turn['content']}\n\n" for turn in earlier)


def _plain(row: Row) -> str:
    return f"{_transcript(row)}{user_text(row)}\n"


def _alpaca(row: Row) -> str:
    context = row.get("context")
    return _ALPACA.format(
        extra=_ALPACA_EXTRA if context else "",
        prompt=_transcript(row) + row["prompt"],
        input=f"### Input:\n{context}\n\n" if context else "",
    )


_BUILT_IN: dict[str, tuple[str, Callable[[Row], str]]] = {
    "plain": ("{transcript}{prompt}\n\n{context}\n", _plain),
    "alpaca": (_ALPACA + _ALPACA_EXTRA, _alpaca),
}


def _make(name: str, source: str, tokenizer: Any, render: Callable[[Row], str], ending: str | None = None) -> Template:
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token
    after = eos if ending is None else ending
    kind = name if name in ("chat", *_BUILT_IN) else "file"
    fingerprint = sha256_of(part.encode("utf-8") for part in (kind, source, bos, eos, after))
    return Template(name, fingerprint, bos, eos, after, render)


def _chat_template(tokenizer: Any) -> Template:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("The tokenizer has no chat template. Use --template alpaca, plain or a Jinja file.")

    def apply(messages: list[dict[str, str]], *, generation: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation, **_FIXED_VARIABLES
            )
        )

    def render(row: Row) -> str:
        earlier = list((row.get("messages") or [])[:-1])
        try:
            return apply([*earlier, {"role": "user", "content": user_text(row)}], generation=True)
        except jinja2.TemplateError as error:
            raise ModelError(f"The chat template refuses row {row.get('id')!r}: {error}") from error

    source = str(tokenizer.get_chat_template())
    return _make("chat", source, tokenizer, render, _chat_ending(apply, tokenizer.eos_token))


def _chat_ending(apply: Callable[..., str], eos: str) -> str:
    """What the chat template writes after an answer, up to EOS; EOS is added where it writes none.

    Text after EOS (often a newline) is dropped: no model is asked to go on there.
    """
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _SENTINEL}]
    try:
        _, found, after = apply(turns, generation=False).partition(_SENTINEL)
    except jinja2.TemplateError as error:
        raise ModelError(
            f"The tokenizer's chat template cannot render a user and an assistant turn: {error}"
        ) from error
    before_eos = after.partition(eos)[0].rstrip() if found else ""
    return before_eos + eos


def _file_template(path: Path, tokenizer: Any) -> Template:
    """A Jinja file over the row's columns, ``messages``, ``bos_token`` and ``eos_token``; it renders the prompt.

    Jinja's defaults hold: one newline at the very end of the file is not part of the text, all others are.
    """
    if not path.is_file():
        raise InputError(f"--template {path}: no such name or file. Use auto, chat, alpaca, plain or a Jinja file.")
    source = path.read_text(encoding="utf-8")
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        used = meta.find_undeclared_variables(environment.parse(source))
        compiled = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{path}:{error.lineno}: not a Jinja template ({error.message}).") from error
    if "response" in used or "prompt" not in used | ({"prompt"} if "messages" in used else set()):
        raise InputError(
            f"{path}: the template must use 'prompt' (or 'messages') and must not use 'response': it renders what "
            "stands before the answer; the answer and the end-of-sequence token are added after it."
        )
    tokens = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token}

    def render(row: Row) -> str:
        values = {"context": "", "messages": [], **row}
        try:
            return compiled.render({**values, **tokens})
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InputError(f"{path}: cannot render row {row.get('id')!r} ({error}).") from error

    return _make(str(path), source, tokenizer, render)


def _without_leading(text: str, part: str) -> str:
    while part and text.startswith(part):
        text = text[len(part) :]
    return text


def _without_trailing(text: str, part: str) -> str:
    while part and text.endswith(part):
        text = text[: -len(part)]
    return text
