"""A conversation as the tokenizer's chat template writes it, whole and once, with the answer's place found in it.

A template may write the assistant's header with the answer only, add blanks or an empty think block, strip the text, or
drop earlier reasoning. So prompt and answer are never rendered apart. The conversation is rendered with its answer and
with a made-up word in its place: what stands before and behind that word stands before and behind the answer, too,
or the row is refused. The answer itself is never searched for, so it may well stand in the prompt.

What stands before the answer in a row's text is also what a model is given when it is asked: a model is measured on
what it was trained on. This is the template's generation prompt where the template agrees with itself. Where it does
not, the text of a finished turn counts: a template that puts an empty think block into an answer without reasoning
gives that block to the model, too, so that it answers instead of thinking. An answer that brings its reasoning begins
at the generation prompt, and the reasoning carries loss.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from rapidun.data.badrows import RowFaultError
from rapidun.data.conversation import Row, Turn, answer_turn, present, turn_text, turns_before
from rapidun.data.rendering import NO_POWERS, Rendering, raises_to_a_power, rendered, with_fixed_date
from rapidun.data.special import added_tokens
from rapidun.errors import ConfigError, ModelError

FIXED_DATE = "2025-01-01"  # a template that asks for today's date would write other tokens tomorrow
_ANSWER = "qa7f3a9cz"  # a word that survives trimming; made longer where a row holds it
_QUESTION: Turn = {"role": "user", "content": "x"}
_PROBES: tuple[list[Turn], ...] = ([_QUESTION], [{"role": "system", "content": "x"}, _QUESTION])
_WHAT = "the chat template"


@dataclass(frozen=True)
class TurnEnd:
    """How the answer's turn ends.

    Args:
        text: The template's text from the answer to the end of its turn; "" where the template writes none.
        token_id: The first special token in it, at which an answer is over; None where it is all words.
    """

    text: str
    token_id: int | None


class ChatTemplate:
    """The chat template of a tokenizer, with its variables settled.

    Args:
        tokenizer: A transformers tokenizer.
        options: Variables of the template; ``date``, as ``2025-01-01``, is what ``strftime_now`` tells.

    Attributes:
        source: Everything that decides what it writes, as text.
        framing: A short conversation as it writes it.
        end: How an answer's turn ends.

    Raises:
        ModelError: If the template cannot render a user and an assistant turn.
        ConfigError: If an option is not a variable of the template.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any]) -> None:
        self._tokenizer, self._added = tokenizer, added_tokens(tokenizer)
        longest = sorted(self._added, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        templates = getattr(tokenizer, "chat_template", None)
        if not templates:
            raise ModelError("The tokenizer has no chat template. Use --template alpaca, plain or a Jinja file.")
        sources = templates.values() if isinstance(templates, dict) else [templates]
        if any(map(raises_to_a_power, map(str, sources))):
            raise ModelError(f"The tokenizer's chat template uses **. {NO_POWERS} Use another --template.")
        whole = json.dumps(templates, sort_keys=True)
        self._options, day = _settled(options, whole, tokenizer)
        self._sources: dict[bool, str] = {}
        self._day = day
        self.source = json.dumps(
            [whole, self._options, day.isoformat(), tokenizer.special_tokens_map], sort_keys=True, default=str
        )
        self._parts = False  # whether contents are lists of parts, as the templates of some image models want them
        probe = self._probe()
        self.framing = self._render([*probe, _said(_ANSWER)])
        self.end = self._turn_end(probe)

    def render(self, row: Row) -> Rendering:
        """The row's text; without an answer, the prompt alone.

        Raises:
            RowFaultError: If the template refuses the row or the answer's place is not certain.
        """
        before, tools = turns_before(row), present(row.get("tools")) or None
        answer = answer_turn(row)
        self._check_calls([*before, answer], tools)
        prompt, after = self._around(before, tools)
        if not answer["content"]:
            return Rendering(prompt, len(prompt), len(prompt))
        full = self._render([*before, answer], tools)
        stop = len(full) - len(after)
        start, whole = self._place(full, prompt, stop, after, answer, before, tools)
        end = self._end_in(after)
        return Rendering(full[:stop] + end, start, stop, whole)

    def _place(
        self, full: str, prompt: str, stop: int, after: str, answer: Turn, before: list[Turn], tools: Any
    ) -> tuple[int, bool]:
        """Where the answer begins in ``full``, and whether all of it is there."""
        said = _letters(answer["content"])
        inside = _letters(full[len(prompt) : stop])
        fits = full.endswith(after)
        if fits and full.startswith(prompt) and inside and inside in said:
            return len(prompt), inside == said and not _reasoning(answer)
        header = self._render(before, tools, add_generation_prompt=True)
        inside = _letters(full[len(header) : stop])
        matches = bool(inside) and (inside.endswith(said) or said.endswith(inside))
        if fits and matches and full.startswith(header) and header != self._render(before, tools):
            return len(header), True
        raise RowFaultError(
            f"{_WHAT} changes the answer, so that its place in the text is not certain; if it holds reasoning, see "
            "which --template-option the template has for it, or take it out"
        )

    def _around(self, before: list[Turn], tools: Any = None) -> tuple[str, str]:
        """What stands before and behind any answer to these turns."""
        said = str([before, tools])
        answer = _ANSWER * (1 + said.count(_ANSWER))
        prompt, there, after = self._render([*before, _said(answer)], tools).partition(answer)
        if not there or answer in after:
            raise RowFaultError(f"{_WHAT} does not write the assistant's answer once and as it is")
        return prompt, after

    def _render(self, turns: list[Turn], tools: Any = None, **switches: bool) -> str:
        if self._parts:
            turns = [{**turn, "content": [{"type": "text", "text": turn_text(turn)}]} for turn in turns]
        settings = {"chat_template": self._source(tools), "tokenize": False, **switches, **self._options}
        given = len(json.dumps([turns, tools], default=str))
        return rendered(lambda: self._tokenizer.apply_chat_template(turns, tools=tools, **settings), given, _WHAT)

    def _source(self, tools: Any) -> str:
        """The template for rows with or without tools; some tokenizers have two."""
        if bool(tools) not in self._sources:
            source = str(self._tokenizer.get_chat_template(tools=tools))
            self._sources[bool(tools)] = with_fixed_date(source, self._day)
        return self._sources[bool(tools)]

    def _check_calls(self, turns: list[Turn], tools: Any) -> None:
        """Refuse what the template would leave out in silence: tools, and calls of them."""
        if tools and self._render(turns, tools) == self._render(turns):
            raise RowFaultError(
                f"{_WHAT} does not write the row's 'tools'; leave the column out, or use another template"
            )
        if any("tool_calls" in turn for turn in turns):
            without = [{"content": "", **turn} for turn in turns]
            for turn in without:
                turn.pop("tool_calls", None)
            if self._render(turns, tools) == self._render(without, tools):
                raise RowFaultError(f"{_WHAT} does not write 'tool_calls'; take them out, or use another template")

    def _probe(self) -> list[Turn]:
        """The shortest conversation that the template takes.

        Raises:
            ModelError: If there is none.
        """
        fault: RowFaultError | None = None
        for self._parts in (False, True):
            for turns in _PROBES:
                try:
                    self._around(turns)
                except RowFaultError as error:
                    fault = fault or error
                else:
                    return turns
        raise ModelError(f"The tokenizer's chat template cannot render a user and an assistant turn: {fault}")

    def _turn_end(self, probe: list[Turn]) -> TurnEnd:
        """What follows an answer whether or not another turn comes: the rest ends the conversation, not the turn."""
        prompt, after = self._around(probe)
        try:
            longer = self._render([*probe, _said(_ANSWER), _QUESTION])
        except RowFaultError:
            longer = ""
        begun = f"{prompt}{_ANSWER}"
        shared = _shared(after, longer.removeprefix(begun)) if longer.startswith(begun) else after
        tokens = list(self._pattern.finditer(after))
        if not tokens:
            return TurnEnd((shared if shared.strip() else after).rstrip(), None)
        last = max((each.end() for each in tokens if each.end() <= len(shared)), default=tokens[0].end())
        return TurnEnd(after[:last], self._added[tokens[0].group()])

    def _end_in(self, after: str) -> str:
        """The turn's end at the beginning of what follows an answer."""
        if self.end.text and after.startswith(self.end.text):
            return self.end.text
        token = self._pattern.search(after)
        return after[: token.end()] if token else after.rstrip()


def _settled(options: Mapping[str, Any], source: str, tokenizer: Any) -> tuple[dict[str, Any], datetime]:
    """The template's variables and its date, checked against the names that it mentions."""
    own = set(inspect.signature(tokenizer.apply_chat_template).parameters) | {"messages"}
    known = set(re.findall(r"[A-Za-z_]\w*", source))
    settled = dict(options)
    day = settled.pop("date", FIXED_DATE) if "strftime_now" in source else FIXED_DATE
    for name in settled:
        if name in own:
            raise ConfigError(
                f"--template-option {name}: {name!r} is not a variable of the template; a row decides it."
            )
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"--template-option {name}: the chat template has no variable {name!r}.{hint}")
    try:
        return settled, datetime.fromisoformat(str(day))
    except ValueError as error:
        raise ConfigError(
            f"--template-option date={day}: write it as year-month-day, for example 2025-01-01."
        ) from error


def _said(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def _reasoning(answer: Turn) -> bool:
    """Whether the turn brings reasoning beside its content."""
    return any(answer.get(name) for name in ("reasoning_content", "thinking", "reasoning"))


def _shared(first: str, second: str) -> str:
    """What both texts begin with."""
    same = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return first[: next(same, min(len(first), len(second)))]


def _letters(text: str) -> str:
    """Without white space: templates trim and indent."""
    return "".join(text.split())
