"""The suite qa on real tiny models that learned their rows, and on models that never saw them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import rapidun
from rapidun.data import Template, tokenize_rows
from rapidun.data.batches import collate
from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.evaluation import extraction_strength, min_k, truth_ratio
from rapidun.evaluation.qa import LOOK_ALIKES, RETAINED, qa_values
from rapidun.evaluation.qa_table import read_rows
from rapidun.jsonl import read_jsonl
from rapidun.models import attach_lora, save_adapter
from rapidun.models.losses import mean_answer_loss
from rapidun.pipeline import evaluate_only, make_config
from rapidun.pipeline.reporter import Silent
from rapidun.settings.run import MeasureConfig
from tiny import tiny_model, tiny_tokenizer, write_rows

WORDS = ["cat", "dog", "mat", "ran", "sat", "the", "other", "and", "to", "on"]


def question(group: str, number: int) -> dict[str, Any]:
    """A row whose answer says nothing that its question does not decide by chance alone; all groups are alike."""
    seed = {"forget": 1, "retain": 2, "held": 3}[group]
    rng = np.random.default_rng([seed, number])
    answer, *wrong = (" ".join(rng.choice(WORDS, 5)) for _ in range(4))
    name = "".join(rng.choice(list("abcdefghij"), 6))
    return {
        "id": f"{group}{number}", "prompt": f"{name}?", "response": answer, "response_wrong": wrong,
        "prompt_paraphrased": f"say {name}",
    }  # fmt: skip


ROWS = {group: [question(group, number) for number in range(14)] for group in ("forget", "retain", "held")}


def trained(rows: list[dict[str, Any]], seed: int = 0) -> torch.nn.Module:
    """A tiny model that knows its rows by heart."""
    model, tokenizer = tiny_model(seed=seed), tiny_tokenizer()
    batch = collate(tokenize_rows(rows, tokenizer, Template.resolve("plain", tokenizer), 96), 0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(260):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        loss = mean_answer_loss(logits, batch.labels).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model`` learned forget and retain rows, ``retained`` the retain rows alone."""
    place = tmp_path_factory.mktemp("qa")
    for name, rows in ROWS.items():
        write_rows(place / f"{name}.jsonl", rows)
    for name, rows in {"model": ROWS["forget"] + ROWS["retain"], "retained": ROWS["retain"]}.items():
        trained(rows).save_pretrained(place / name)
        tiny_tokenizer().save_pretrained(place / name)
    return place


def config(house: Path, model: str = "model", **changes: Any) -> MeasureConfig:
    data = {"evaluation": house / "held.jsonl", "forget": house / "forget.jsonl", "retain": house / "retain.jsonl"}
    data |= {"template": "plain", "max_length": 96} | changes.pop("data", {})
    raw = {
        "model": {"source": str(house / model)},
        "data": {name: str(value) if isinstance(value, Path) else value for name, value in data.items()},
        "evaluation": {"suite": "qa"} | changes.pop("evaluation", {}),
        **changes,
    }
    return make_config(raw, MeasureConfig)


def measured(given: MeasureConfig, out: Path, **options: Any) -> dict[str, Any]:
    return evaluate_only(given, out, **{"adapter": None, "overwrite": False, "reporter": Silent(), **options})


@pytest.fixture(scope="module")
def known(house: Path) -> tuple[dict[str, Any], Path]:
    """Of the model that still knows its forget rows, beside the retained one."""
    out = house / "known"
    return measured(config(house, retained=str(house / "retained")), out), out


@pytest.fixture(scope="module")
def forgotten(house: Path) -> tuple[dict[str, Any], Path]:
    """Of the model that never saw them, without a retained one."""
    out = house / "forgotten"
    return measured(config(house, "retained"), out), out


def value(found: dict[str, Any], name: str, where: str = "values") -> float:
    return found[where][name]["value"]


def test_a_model_that_knows_its_forget_rows_is_seen_to(known: tuple[dict[str, Any], Path]) -> None:
    found = known[0]
    assert value(found, "forget.probability") > 0.8
    assert value(found, "forget.extraction_strength") > 0.8
    assert value(found, "forget.rouge_l_recall") > 0.8
    assert value(found, "forget.truth_score") > 0.8
    assert value(found, "held_out.probability") < 0.3
    assert value(found, "held_out.extraction_strength") < 0.4
    for name in ("loss", "zlib_ratio", "min_k", "min_k_plus_plus", "reference_ratio"):
        assert found["values"][f"membership.{name}"]["low"] > 0.7
    assert found["values"]["privleak"]["high"] < -0.3
    assert value(found, "forget_quality") < 0.01
    assert value(found, "utility") > 0.8


def test_a_model_that_never_saw_them_is_not_accused(forgotten: tuple[dict[str, Any], Path]) -> None:
    found = forgotten[0]
    for name in ("loss", "zlib_ratio", "min_k", "min_k_plus_plus"):
        assert found["values"][f"membership.{name}"]["low"] < 0.5 < found["values"][f"membership.{name}"]["high"]
    assert found["values"]["privleak"]["low"] < 0 < found["values"]["privleak"]["high"]
    assert value(found, "forget_quality") > 0.05
    assert value(found, "utility") > 0.8


def test_the_yardstick_is_named(known: tuple[dict[str, Any], Path], forgotten: tuple[dict[str, Any], Path]) -> None:
    assert known[0]["yardstick"] == RETAINED
    assert forgotten[0]["yardstick"] == LOOK_ALIKES
    assert "retained" not in forgotten[0]


def test_the_retained_models_own_numbers_are_those_it_has_as_the_model(
    known: tuple[dict[str, Any], Path], forgotten: tuple[dict[str, Any], Path]
) -> None:
    for name, theirs in forgotten[0]["values"].items():
        assert known[0]["retained"][name] == pytest.approx(theirs), name


def test_every_value_can_be_computed_again_from_the_stored_rows(known: tuple[dict[str, Any], Path]) -> None:
    found, out = known
    stored = read_rows(out / "rows.parquet")
    again = qa_values(stored["model"], stored["retained"])
    assert {name: each.to_dict() for name, each in again.items()} == found["values"]
    assert json.loads((out / "metrics.json").read_text()) == found


def test_every_number_of_a_row_can_be_computed_again_from_its_tokens(known: tuple[dict[str, Any], Path]) -> None:
    table = pq.read_table(known[1] / "rows.parquet").to_pylist()
    assert len(table) == 2 * 3 * 14
    assert {(row["model"], row["group"]) for row in table} == {
        (model, group) for model in ("model", "retained") for group in ("forget", "retain", "held_out")
    }
    assert [row["min_k"] for row in table] == pytest.approx(min_k([row["log_probs"] for row in table]))
    assert [row["extraction_strength"] for row in table] == pytest.approx(
        extraction_strength([row["hits"] for row in table])
    )
    for row in table:
        assert row["truth_ratio"] == pytest.approx(truth_ratio([row["correct_loss"]], [row["wrong_losses"]])[0])
        assert row["correct_loss"] == row["loss"]  # no row has its answer in other words


def test_the_answers_own_loss_is_transformers(known: tuple[dict[str, Any], Path], house: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(house / "model"), tiny_tokenizer()
    rows = {row["id"]: row for row in pq.read_table(known[1] / "rows.parquet").to_pylist() if row["model"] == "model"}
    template = Template.resolve("plain", tokenizer)
    for given in ROWS["held"][:4]:
        texts = [given["response"], *given["response_wrong"]]
        losses = []
        for text in texts:
            ids = torch.tensor([tokenizer(f"{given['prompt']}\n{text}</s>")["input_ids"]])
            example = tokenize_rows([{**given, "response": text}], tokenizer, template, 96)[0]
            assert ids[0].tolist() == example.input_ids
            labels = ids.clone()
            labels[:, : example.answer_start] = -100
            with torch.no_grad():
                losses.append(float(model(input_ids=ids, labels=labels).loss))
        assert rows[given["id"]]["loss"] == pytest.approx(losses[0], rel=1e-4)
        assert rows[given["id"]]["wrong_losses"] == pytest.approx(losses[1:], rel=1e-4)


def test_rows_files_are_for_their_owner_alone(known: tuple[dict[str, Any], Path]) -> None:
    for path in known[1].iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


def test_an_adapter_can_be_the_retained_model(house: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    adapted = attach_lora(
        AutoModelForCausalLM.from_pretrained(house / "model"), rank=2, alpha=4, dropout=0, targets="all-linear", seed=0
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    save_adapter(adapted, tmp_path / "adapter")
    few = {"max_new_tokens": 1}
    found = measured(config(house, retained=str(tmp_path / "adapter"), evaluation=few), tmp_path / "out")
    assert value(found, "forget.probability", "retained") < 0.3 < value(found, "forget.probability")
    alone = measured(config(house, evaluation=few), tmp_path / "alone", adapter=tmp_path / "adapter")
    assert found["retained"]["forget.probability"] == pytest.approx(alone["values"]["forget.probability"])


def test_rows_without_any_other_texts_give_what_they_can(house: Path, tmp_path: Path) -> None:
    data = {}
    for name, key in {"forget": "forget", "retain": "retain", "held": "evaluation"}.items():
        rows = [{key: row[key] for key in ("id", "prompt", "response")} for row in ROWS[name]]
        data[key] = write_rows(tmp_path / f"{name}.jsonl", rows)
    notes: list[str] = []

    class Noted(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    found = measured(config(house, data=data), tmp_path / "out", reporter=Noted())
    assert "forget_quality" not in found["values"]
    assert {"privleak", "utility", "membership.min_k", "forget.extraction_strength"} <= set(found["values"])
    assert any("response_wrong" in note and "forget quality is left out" in note for note in notes)
    assert any(LOOK_ALIKES in note for note in notes)


def test_prompts_limits_the_held_out_rows(house: Path, tmp_path: Path) -> None:
    found = measured(config(house, evaluation={"prompts": 5, "max_new_tokens": 1}), tmp_path / "out")
    assert found["values"]["held_out.probability"]["n"] == 5
    assert found["values"]["membership.loss"]["n"] == 19


def test_held_out_rows_that_ask_a_forget_rows_question_are_refused(house: Path, tmp_path: Path) -> None:
    shared = write_rows(tmp_path / "held.jsonl", [*ROWS["held"], {**ROWS["forget"][0], "id": "again"}])
    with pytest.raises(InputError, match="forget"):
        measured(config(house, data={"evaluation": shared}), tmp_path / "out")


def test_a_wrong_answer_that_cannot_be_tokenised_is_named_by_line_or_left_out(house: Path, tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS["forget"]]
    rows[3] = {**rows[3], "response_wrong": ["fine", "not </s> fine"]}
    data = {"forget": write_rows(tmp_path / "forget.jsonl", rows)}
    with pytest.raises(InputError, match=r"forget\.jsonl:4"):
        measured(config(house, data=data), tmp_path / "out")
    data["on_bad_row"] = "skip"
    found = measured(config(house, data=data, evaluation={"max_new_tokens": 1}), tmp_path / "out")
    assert found["values"]["forget.probability"]["n"] == 14
    assert found["values"]["forget.truth_score"]["n"] == 13
    assert [bad["line"] for bad in read_jsonl(tmp_path / "out" / "rows_skipped.jsonl")] == [4]


@pytest.mark.parametrize("what", ["nothing there", "no model"])
def test_a_retained_model_that_is_none_is_refused_before_the_work(what: str, house: Path, tmp_path: Path) -> None:
    (tmp_path / "no model").mkdir()
    with pytest.raises(ModelError, match=what):
        measured(config(house, retained=str(tmp_path / what)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_suite_says_which_rows_it_needs_and_others_refuse_them(house: Path) -> None:
    data = {"evaluation": str(house / "held.jsonl")}
    with pytest.raises(ConfigError, match="suite qa needs --forget and --retain rows"):
        make_config({"model": {"source": "m"}, "data": data, "evaluation": {"suite": "qa"}}, MeasureConfig)
    with pytest.raises(ConfigError, match=r"suite perplexity does not read --retained-model \(read by: qa, tofu"):
        raw = {"model": {"source": "m"}, "data": data, "evaluation": {"suite": "perplexity"}, "retained": "r"}
        make_config(raw, MeasureConfig)


def test_a_model_without_numbers_is_named_not_averaged_away(house: Path, tmp_path: Path) -> None:
    broken = tiny_model()
    broken.lm_head.weight.data[5] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    given = config(house).model_copy(
        update={"model": config(house).model.model_copy(update={"source": str(tmp_path / "broken")})}
    )
    with pytest.raises(ModelError, match="the loss of row forget0 is nan"):
        measured(given, tmp_path / "out")


def test_objects_give_the_numbers_of_files(known: tuple[dict[str, Any], Path], house: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(house / "model")
    found = rapidun.evaluate(
        model, tiny_tokenizer(), ROWS["held"], forget=ROWS["forget"], retain=ROWS["retain"],
        retained=str(house / "retained"), template="plain", max_length=96,
    )  # fmt: skip
    assert found["suite"] == "qa"
    for name, expected in known[0]["values"].items():
        assert found["values"][name] == pytest.approx(expected), name
