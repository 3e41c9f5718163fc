"""Templates: a row to the text that the model reads. One template serves a whole run.

A row's text is its prompt, its answer and the end of the answer's turn. The template writes it once, whole, with the
answer's place in it (`Rendering`). In front stands what the tokenizer itself puts before a text, often BOS, unless
the template has written it. Because all special tokens are in the text, tokenise with ``add_special_tokens=False``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.data.badrows import RowFaultError, shorten
from rapidun.data.chat import ChatTemplate, TurnEnd
from rapidun.data.conversation import Row, present, transcript, turns_before, user_text
from rapidun.data.rendering import Rendering, compiled_template, rendered
from rapidun.data.special import ControlTokens, leading_text
from rapidun.errors import ConfigError, FingerprintError, InputError, ModelError
from rapidun.files import sha256_of
from rapidun.reading import path_fault, read_text

_ALPACA = (
    "Below is an instruction that describes a task{extra}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{prompt}\n\n{input}### Response:\n"
)
_ALPACA_EXTRA = ", paired with an input that provides further context"
_WORD = "the"  # any common word: does a blank in front belong to it?
_TAIL = 64  # characters that decide


@dataclass(frozen=True)
class Template:
    """How a row becomes text. Make one with `Template.resolve`.

    Args:
        name: ``chat``, ``alpaca``, ``plain`` or the path of a Jinja file.
        fingerprint: SHA-256 of everything that decides the text apart from the row.
        options: The variables that were set.
        bos_text: What the tokenizer puts before every text, often BOS, or ``""``.
        eos_text: The tokenizer's EOS; ends an answer where the template writes no end.
        ending: What the template writes after an answer to end its turn; EOS where it writes nothing.
    """

    name: str
    fingerprint: str
    options: Mapping[str, Any]
    bos_text: str
    eos_text: str
    ending: str
    _render: Callable[[Row], Rendering] = field(repr=False, compare=False)
    _control: ControlTokens = field(repr=False, compare=False)
    _tokenizer: Any = field(repr=False, compare=False)

    @classmethod
    def resolve(cls, name_or_path: str, tokenizer: Any, options: Mapping[str, Any] | None = None) -> Template:
        """The template called ``name_or_path`` for this tokenizer.

        Args:
            name_or_path: ``auto`` (``chat`` where the tokenizer has a chat template, else ``alpaca``), ``chat``,
                ``alpaca``, ``plain``, or the path of a Jinja file that renders a row's prompt.
            tokenizer: A transformers tokenizer.
            options: Variables of the chat template or the Jinja file, such as ``{"enable_thinking": False}``; ``date``
                (``2025-01-01`` without it) is the day that templates take for today.

        Raises:
            ModelError: If the tokenizer has no EOS, or ``chat`` is asked of one without a chat template.
            InputError: If there is no such name or file, or the file is not a Jinja template of a prompt.
            ConfigError: If the template does not have a variable of ``options``.
        """
        if tokenizer.eos_token is None:
            raise ModelError("The tokenizer has no end-of-sequence token. Set eos_token in tokenizer_config.json.")
        given = dict(options or {})
        name = name_or_path
        if name == "auto":
            name = "chat" if getattr(tokenizer, "chat_template", None) else "alpaca"
        if name == "chat":
            chat = ChatTemplate(tokenizer, given)
            return _make(name, chat.source, tokenizer, given, chat.render, chat.end.text, chat.framing)
        if name not in _BUILT_IN:
            return _file_template(Path(name), tokenizer, given)
        if given:
            raise ConfigError(f"--template-option {next(iter(given))}: the template {name!r} has no variables.")
        source, write = _BUILT_IN[name]
        return _make(name, source, tokenizer, given, partial(_around_answer, name, write))

    def rendering(self, row: Row) -> Rendering:
        """The row's text with the answer's place in it; the prompt alone where the row has no answer.

        An end that the answer already carries is not doubled. A row with nothing but an answer (layout ``text``) is
        plain text, whatever the template.

        Raises:
            RowFaultError: If the template refuses the row, or the row holds a special token.
        """
        asked = bool(row.get("prompt") or row.get("context") or row.get("messages"))
        answer = self._without_end(str(row.get("response") or ""))
        if not asked:
            answer = _without_leading(answer, self.bos_text)
        self._control.check(row, answer)
        found = self._render({**row, "response": answer}) if asked else Rendering(answer, 0, len(answer))
        if found.stop > found.start:
            missing = self.eos_text if found.stop == len(found.text) else ""
            found = replace(found, text=found.text + missing)
        return self._settled(found)

    def prompt_text(self, row: Row) -> str:
        """What a model is given to answer the row: all that stands before the answer in the row's text.

        Raises:
            InputError: If the template refuses the row, or the row holds a special token.
        """
        found = self._named(row)
        return found.text[: found.start] or (self._tokenizer.bos_token or "")

    def full_text(self, row: Row) -> str:
        """Prompt, answer and the end of its turn. Raises as `prompt_text`."""
        return self._named(row).text

    def _named(self, row: Row) -> Rendering:
        try:
            return self.rendering(row)
        except RowFaultError as fault:
            raise InputError(f"row {shorten(row.get('id'))}: {fault}.") from fault

    def _without_end(self, answer: str) -> str:
        for end in (self.ending.strip(), self.eos_text):
            if end and answer.rstrip().endswith(end):
                return self._without_end(answer.rstrip()[: -len(end)])
        return answer

    def _settled(self, found: Rendering) -> Rendering:
        """With the tokenizer's BOS in front, once, and a blank before the answer left to the answer's first token.

        Such a blank is part of that token, in training as in generation: a prompt that ends in it would end in
        another token.
        """
        text, start = found.text, found.start
        if self.bos_text and not text.lstrip().startswith(self.bos_text):
            text, start = self.bos_text + text, start + len(self.bos_text)
        while self.bos_text and text.startswith(self.bos_text * 2):
            text, start = text[len(self.bos_text) :], start - len(self.bos_text)
        stop = found.stop + start - found.start
        if text[:start].endswith((" ", "\t")):
            start -= self._blanks_of_a_word(text[max(0, start - _TAIL) : start])
        return Rendering(text, start, stop, found.whole)

    def _blanks_of_a_word(self, before: str) -> int:
        """How many blanks at the end of ``before`` are in one token with a word behind them."""
        encoded = self._tokenizer(before + _WORD, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in encoded["offset_mapping"] if end <= len(before)]
        blanks = before[max(ends, default=0) :]
        return len(blanks) if blanks.isspace() else 0


def require_same_template(first: Template, second: Template) -> None:
    """Check that two parts of a run use one template.

    Raises:
        FingerprintError: Names both templates and fingerprints.
    """
    if first.fingerprint != second.fingerprint:
        raise FingerprintError(
            f"Two templates in one run: {first.name!r} ({first.fingerprint[:16]}) and "
            f"{second.name!r} ({second.fingerprint[:16]}). Influence, training and evaluation need the same one; "
            "pass the same --template everywhere, with the same tokenizer."
        )


def turn_end(tokenizer: Any) -> TurnEnd:
    """How the tokenizer's chat template ends an answer; nothing where it has none or it cannot be rendered."""
    if getattr(tokenizer, "chat_template", None):
        try:
            return ChatTemplate(tokenizer, {}).end
        except ModelError:
            pass
    return TurnEnd("", None)


def _plain(row: Row) -> str:
    return f"{transcript(row)}{user_text(row)}\n"


def _alpaca(row: Row) -> str:
    context = row.get("context")
    return _ALPACA.format(
        extra=_ALPACA_EXTRA if context else "",
        prompt=transcript(row) + row["prompt"],
        input=f"### Input:\n{context}\n\n" if context else "",
    )


_BUILT_IN: dict[str, tuple[str, Callable[[Row], str]]] = {
    "plain": ("{transcript}{prompt}\n\n{context}\n", _plain),
    "alpaca": (_ALPACA + _ALPACA_EXTRA, _alpaca),
}


def _around_answer(name: str, write: Callable[[Row], str], row: Row) -> Rendering:
    """The text of a template that writes the prompt alone, with the answer behind it."""
    if name in _BUILT_IN:
        _refuse_calls(row, name, ())
    prompt, answer = write(row), str(row["response"])
    return Rendering(prompt + answer, len(prompt), len(prompt) + len(answer))


def _refuse_calls(row: Row, name: str, written: Any) -> None:
    """Tools and calls that the template does not write would be left out in silence."""
    calls = any("tool_calls" in turn for turn in turns_before(row))
    for what, there in (
        ("tools", bool(present(row.get("tools")))),
        ("tool_calls", calls and "messages" not in written),
    ):
        if there and what not in written:
            raise RowFaultError(f"the template {name} does not write {what!r}; use the tokenizer's chat template")


def _make(
    name: str,
    source: str,
    tokenizer: Any,
    options: Mapping[str, Any],
    render: Callable[[Row], Rendering],
    end: str = "",
    framing: str = "",
) -> Template:
    bos, eos = leading_text(tokenizer), tokenizer.eos_token
    kind = name if name in ("chat", *_BUILT_IN) else "file"
    settings = repr(sorted((key, repr(value)) for key, value in options.items()))
    parts = (kind, source, settings, tokenizer.bos_token or "", bos, eos, end or eos)
    fingerprint = sha256_of(part.encode("utf-8") for part in parts)
    control = ControlTokens(tokenizer, framing)
    return Template(name, fingerprint, options, bos, eos, end or eos, render, control, tokenizer)


def _file_template(path: Path, tokenizer: Any, options: Mapping[str, Any]) -> Template:
    """A Jinja file over the row's columns, ``messages`` before the answer, ``bos_token`` and ``eos_token``; it renders
    the prompt.

    Jinja's defaults hold: one newline at the very end of the file is not part of the text, all others are.
    """
    if path_fault(str(path)) or not path.is_file():
        raise InputError(f"--template {path}: no such name or file. Use auto, chat, alpaca, plain or a Jinja file.")
    source = read_text(path)
    compiled, used = compiled_template(source, path)
    if "response" in used or "prompt" not in used | ({"prompt"} if "messages" in used else set()):
        raise InputError(
            f"{path}: the template must use 'prompt' (or 'messages') and must not use 'response': it renders what "
            "stands before the answer; the answer and the end-of-sequence token are added after it."
        )
    for name in options:
        if name not in used:
            raise ConfigError(f"--template-option {name}: {path} has no variable {name!r}.")
    tokens = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token}

    def write(row: Row) -> str:
        _refuse_calls(row, str(path), used)
        earlier = turns_before(row) if row.get("messages") else []
        values = {"context": "", "tools": None, **row, "messages": earlier, **tokens, **options}
        given = len(str(row.get("prompt"))) + sum(len(str(turn)) for turn in earlier)
        return rendered(lambda: compiled.render(values), given, str(path))

    return _make(str(path), source, tokenizer, options, partial(_around_answer, str(path), write))


def _without_leading(text: str, part: str) -> str:
    while part and text.startswith(part):
        text = text[len(part) :]
    return text
