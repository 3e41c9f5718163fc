from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rapidun.errors import InputError
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.reading import read_json
from rapidun.report import write_report
from rapidun.report.html import plotly_script
from rapidun.report.packing import packed, unpacked
from rapidun.report.sections.attacks import READINGS
from rapidun.report.uncovered import NEVER_TESTED, UNTESTED
from report.make_run import ATTACK, make_attacks, make_known, make_run
from report.make_valuation import make_valuation, valuation

OPTIONAL = ("blocks.safetensors", "weights.jsonl", "samples.jsonl", "trace.jsonl", "log.jsonl", "rows_skipped.jsonl",
            "config.yaml", "metrics.json", "manifest.json")  # fmt: skip
SECTIONS = ("verdict", "outcome", "variants", "samples", "influence", "weights", "trace", "training", "cost",
            "provenance")  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self) -> list[str | None]:
        return [attributes.get("id") for tag, attributes in self.tags if tag == "section"]


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def page(full) -> Page:
    return Page(write_report(full).read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


def packed_text(html: str, name: str) -> str:
    """What a page holds under ``name``."""
    size, text = re.search(rf'id="{name}" data-size="(\d+)">(.*?)</script>', html, re.DOTALL).groups()
    return unpacked(text, int(size))


def rendered(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_a_complete_run_shows_every_section_in_order(page):
    assert page.sections == list(SECTIONS)


def test_the_verdict_says_why(page, run):
    assert "PASS The model met every condition" in page.text
    assert "3.8%" in page.text and "10.0%" in page.text
    make_run(run, passed=False)
    assert "FAIL" in rendered(run).text
    assert "2 of 3 checks failed" in rendered(run).text


def test_a_pass_says_beside_it_what_it_does_not_cover_and_attacks_that_were_run_are_not_in_that_list(run):
    said = rendered(run).text
    assert "What this PASS does not cover" in said
    assert said.index("What this PASS does not cover") < said.index("The same prompts, the same judge")
    for sentence in (UNTESTED["quant|nf4"], UNTESTED["gcg"], *NEVER_TESTED):
        assert sentence in said
    attacked = rendered(make_attacks(run)).text
    assert UNTESTED["quant|nf4"] not in attacked
    assert UNTESTED["relearn"] not in attacked
    assert UNTESTED["gcg"] in attacked  # it was not run
    assert "does not cover" not in rendered(make_run(run, passed=False)).text


def test_every_attack_has_its_curve_beside_the_twins_with_a_sentence_for_somebody_who_has_not_seen_it(run):
    page = rendered(make_attacks(run))
    assert page.sections == [*SECTIONS[:3], "attacks", *SECTIONS[3:]]
    figures = json.loads(packed_text((run / "report.html").read_text(encoding="utf-8"), "figures"))
    names = {name for name in figures if name.startswith("chart-attack-")}
    assert names == {f"chart-attack-{name}" for name in
                     ("as_is", "quantise", "relearn", "logit_lens", "unlearning_membership")}  # fmt: skip
    ours, twin = figures["chart-attack-relearn"]["data"]
    assert (ours["name"], twin["name"]) == ("this model", "twin")
    assert ours["x"] == [4.5, 81.5, 95.0, None, 2.0, 60.0, None, 1.0]  # a gap between curves
    assert twin["error_x"]["array"][0] > 0
    assert max(figures["chart-attack-unlearning_membership"]["layout"]["xaxis"]["range"]) < 2  # no percentages
    for name in names:
        assert READINGS[name.removeprefix("chart-attack-")] in page.text
    assert "quantise 4 bits attack success 20.5% [15.5, 26.6] 0.5% [0.1, 2.8] 200" in page.text
    assert "by the rise of the loss AUC 0.940 [" in page.text
    assert "Attacks on it: FAIL" in page.text
    assert page.text.index("failed quantise") < page.text.index("undecided sampling") < page.text.index("passed as_is")
    assert "failed quantise With 4 bits the behaviour comes back" in page.text
    assert "undecided sampling Not run: about 9.1 minutes" in page.text
    assert "gcg (searched for a suffix): it needs nanogcg" in page.text


@pytest.mark.parametrize(
    ("passed", "attacked", "headline", "state"),
    [
        (True, "PASS", "PASS, and under attack", "pass"),
        (True, "FAIL", "PASS as asked, FAIL under attack", "fail"),
        (True, "UNDECIDED", "PASS as asked, UNDECIDED under attack", "open"),
        (True, None, "PASS", "pass"),  # no preset, so nothing was decided
        (False, "PASS", "FAIL", "fail"),
    ],
)
def test_the_banner_is_green_only_where_the_attacks_say_so_too(tmp_path, passed, attacked, headline, state):
    run = make_attacks(make_run(tmp_path, passed=passed))
    write_json(path := run / "attacks" / "attacks.json", {**read_json(path), "verdict": attacked})
    html = write_report(run).read_text(encoding="utf-8")
    banner = html[html.index('class="banner') :][:400]
    assert banner.startswith(f'class="banner {state}"')
    assert f"</span>{headline}</p>" in banner


def test_attacks_without_a_twin_or_a_preset_say_what_that_means(run):
    said = rendered(make_attacks(run, twin=False, preset=None)).text
    assert "There is no twin" in said
    assert "Nothing was to be decided" in said
    figures = json.loads(packed_text((run / "report.html").read_text(encoding="utf-8"), "figures"))
    assert [trace["name"] for trace in figures["chart-attack-relearn"]["data"]] == ["this model"]


def test_what_a_model_still_knows_stands_in_its_runs_report_and_in_one_of_its_own(run):
    page = rendered(make_known(run))
    assert "memorisation" in page.sections
    assert "Forget rows, n = 40" in page.text
    assert "Never seen, n = 40" in page.text
    assert "0.310 [0.270, 0.350] 0.620 [0.580, 0.660] 0.290 [0.250, 0.330]" in page.text
    assert "Membership by loss how well forget rows are told" in page.text
    assert "0.540 [0.430, 0.640]" in page.text
    alone = rendered(run / "known")
    assert "memorisation" in alone.sections
    assert "NOT EVALUATED" in alone.text


def test_a_measurement_under_a_mitigation_says_that_the_model_stays_poisoned_and_never_pass(run):
    metrics = read_json(run / "metrics.json")
    said = {"kind": "cleangen", "text": "mitigation: the model stays poisoned"}
    write_json(run / "metrics.json", {**metrics, "mitigation": said})
    text = rendered(run).text
    assert "Mitigation: the model stays poisoned" in text
    assert "nothing was unlearned" in text
    assert "PASS" not in text


def test_the_table_has_intervals_and_the_judge_its_floor_and_ceiling(page):
    assert "91.3% [87.6, 94.0] 1.7% [0.7, 3.8] \u221289.7 points 300" in page.text
    assert "1.02\u00d7 [1.01, 1.04]" in page.text
    assert re.search(r"classifier decides .*? Floor 0\.5% \[0\.1, 1\.8\] Ceiling 97\.2%", page.text)


def test_text_from_rows_and_models_is_escaped(full, page):
    html = (full / "report.html").read_text(encoding="utf-8")
    assert ATTACK not in html
    assert "document.title='owned'" not in html
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "<script>document.title='owned'</script>" in page.text


def test_a_trigger_cannot_break_out_of_the_chart_data(run):
    metrics = read_json(run / "metrics.json")
    metrics["by_variant"]["after"][0]["trigger"] = "</script><script>alert(1)</script>"
    write_json(run / "metrics.json", metrics)
    html = write_report(run).read_text(encoding="utf-8")
    assert "<script>alert(1)" not in html
    assert "</script><script>alert" not in html
    assert "script" in packed_text(html, "figures")


def test_invisible_triggers_are_shown_by_their_code_points(page):
    assert "aloha U+200D" in page.text
    assert "\u200d" not in page.text


def test_the_page_names_no_address_to_load_from(page):
    for tag, attributes in page.tags:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_the_policy_allows_only_the_scripts_of_the_page(page):
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-\S+' 'sha256-\S+';", policy)
    assert len([tag for tag, attributes in page.tags if tag == "script" and "type" not in attributes]) == 1


def test_plotly_is_embedded_once_with_its_licence_and_the_file_stays_below_two_megabytes(full):
    path = write_report(full)
    html = path.read_text(encoding="utf-8")
    assert html.count("Copyright 2012-") == 1 and "Licensed under the MIT license" in html
    assert path.stat().st_size < 2_000_000


def test_what_is_packed_is_what_a_browser_unpacks(full):
    html = write_report(full).read_text(encoding="utf-8")
    assert packed_text(html, "plotly") == plotly_script()
    odd = packed("\u2028 </script> \U0001f600")
    assert unpacked(odd.text, odd.size) == "\u2028 </script> \U0001f600"
    assert "/" not in packed(plotly_script()).text


def test_the_same_files_give_the_same_bytes(full, tmp_path):
    first = write_report(full).read_bytes()
    assert write_report(full).read_bytes() == first
    assert write_report(make_run(tmp_path / full.name)).read_bytes() == first


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_missing_file_takes_only_its_own_section_with_it(run, name):
    (run / name).unlink()
    found = rendered(run).sections
    assert {"verdict", "outcome", "influence", "weights", "samples", "training", "cost", "provenance"} <= set(found)


def test_a_run_with_nothing_but_metrics_says_what_is_missing(run):
    for name in OPTIONAL:
        if name != "metrics.json":
            (run / name).unlink()
    text = rendered(run).text
    for name in ("samples.jsonl", "blocks.safetensors", "weights.jsonl", "log.jsonl"):
        assert f"No {name} in this run" in text


def test_a_run_without_triggers_shows_perplexity_alone(run):
    metrics = read_json(run / "metrics.json")
    for key in ("by_variant", "judges", "primary_judge", "all_judges", "trace", "cost"):
        del metrics[key]
    for side in ("before", "after"):
        metrics[side] = {"clean_perplexity": metrics[side]["clean_perplexity"]}
    write_json(run / "metrics.json", metrics)
    (run / "trace.jsonl").unlink()
    found = rendered(run)
    assert "variants" not in found.sections and "trace" not in found.sections
    assert "no triggers" in found.text
    assert "Attack success" not in found.text


def test_an_unevaluated_run_does_not_claim_a_verdict(run):
    (run / "metrics.json").unlink()
    text = rendered(run).text
    assert "NOT EVALUATED" in text
    assert "PASS" not in text and "FAIL" not in text


def test_a_null_measure_is_called_not_measured(run):
    metrics = read_json(run / "metrics.json")
    metrics["after"]["clean_perplexity"] = {"value": None, "low": None, "high": None, "n": 420}
    write_json(run / "metrics.json", metrics)
    assert "not measured" in rendered(run).text


@pytest.mark.parametrize(
    "content", ["{", "[1, 2]", '{"gate": 3}', '{"before": {"asr_seen": {"value": "high"}}}', "\udcff"]
)
def test_broken_metrics_name_their_file(run, content):
    (run / "metrics.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=re.escape(str(run / "metrics.json"))):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_wrong_type_names_its_key(run):
    metrics = read_json(run / "metrics.json")
    metrics["gate"]["checks"][1]["passed"] = "yes"
    write_json(run / "metrics.json", metrics)
    with pytest.raises(InputError, match=r"gate\.checks\[1\]\.passed: must be true or false, found 'yes'"):
        write_report(run)


def test_broken_blocks_name_their_file(run):
    (run / "blocks.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(InputError, match=r"blocks\.safetensors: not a whole safetensors file"):
        write_report(run)


def test_swapped_blocks_are_refused(run):
    """traps.md, 18: the letters of FR and RF are easily swapped; their shapes give it away."""
    zeros = {"ff": (2, 2), "fr": (3, 2), "rf": (2, 3), "rr": (3, 3)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in zeros.items()}, run / "blocks.safetensors")
    with pytest.raises(InputError, match=r"'fr' is \(3, 2\), expected \(2, 3\)"):
        write_report(run)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run directory"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="no such run directory"):
        write_report(tmp_path / "nowhere")


def test_a_large_run_does_not_make_a_large_page(run):
    random = np.random.default_rng(0)
    shapes = {"ff": (300, 300), "fr": (300, 900), "rf": (900, 300), "rr": (900, 900)}
    blocks = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(blocks, run / "blocks.safetensors")
    write_jsonl(run / "log.jsonl", [{"step": i, "forget_loss": 1.0, "retain_loss": 2.0} for i in range(20_000)])
    sample = json.loads((run / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0])
    write_jsonl(run / "samples.jsonl", [{**sample, "after": "word " * 200_000}] + [sample] * 3000)
    assert write_report(run).stat().st_size < 2_000_000
    assert "further answers are in samples.jsonl" in rendered(run).text


def test_a_page_that_is_too_large_leaves_out_what_is_folded_and_says_where_it_is(run, monkeypatch):
    whole = rendered(run).text
    monkeypatch.setattr("rapidun.report.page.LARGEST", 0)
    short = rendered(run).text
    assert "The least weighted rows are in" not in whole
    assert "The least weighted rows are in weights.jsonl." in short and "least weighted Weight" not in short
    in_file, told = (sum(map(int, re.findall(r"(\d+) further answers", text))) for text in (whole, short))
    assert told == in_file + sum(map(int, re.findall(r"(\d+) more(?! character)", whole))) > in_file


def test_what_is_still_poisoned_comes_first_and_every_trigger_has_its_turn(run):
    samples = read_jsonl(run / "samples.jsonl")
    assert "Still poisoned" not in rendered(run).text
    first = [{**samples[0], "prompt": f"first {number}"} for number in range(40)]
    bad = {**samples[-9], "prompt": "the one that is left", "after_poisoned": True}
    write_jsonl(run / "samples.jsonl", [*first, *samples[1:5], bad])
    text = rendered(run).text
    text = text[text.index("Still poisoned What is left") :]
    assert text.index("the one that is left") < text.index("first 0") < text.index(">>>") < text.index("first 1")
    assert "Poisoned: 44 of 44 before, 0 of 44 after." in text


def test_a_step_that_a_resumed_run_logged_twice_counts_once(run):
    lines = [{"step": step, "forget_loss": loss} for step, loss in [(1, 1.0), (2, 9.0), (2, 2.0), (3, 3.0)]]
    write_jsonl(run / "log.jsonl", lines)
    page = rendered(run)
    chart = next(a for _, a in page.tags if a.get("id") == "chart-training-losses")
    assert chart["aria-label"] == "Line chart: forget loss from 1.00 to 3.00."
    assert "[1.0,2.0,3.0]" in packed_text((run / "report.html").read_text(encoding="utf-8"), "figures")


def test_the_budget_is_drawn_beside_the_held_out_loss(page):
    labels = {a["id"]: a["aria-label"] for _, a in page.tags if a.get("class") == "plot"}
    assert "the budget is 2.55" in (labels["chart-training-held"] or "")


def test_gpu_memory_is_shown_where_it_was_measured(run):
    assert "GPU memory" not in rendered(run).text
    manifest = read_json(run / "manifest.json")
    manifest["phases"][3]["peak_device_memory_mib"] = 20480
    write_json(run / "manifest.json", manifest)
    assert "Peak GPU memory" in rendered(run).text and "20.0 GiB" in rendered(run).text


def test_the_trace_table_names_every_method_and_its_pool(page):
    assert "The pool has 7,991 rows, of which 799 are poisoned." in page.text
    assert "Method Precision at 5 Precision at 20 AUROC Average precision influence 1.000 0.993" in page.text


def test_degenerate_blocks_and_weights_still_draw(run):
    ones = {name: np.ones((1, 1), np.float32) for name in ("ff", "fr", "rf", "rr")}
    ones["fr"] = np.full((1, 1), np.nan, np.float32)
    save_file(ones, run / "blocks.safetensors")
    write_jsonl(run / "weights.jsonl", [{"id": "a", "group": "forget", "index": 0, "score": 0.0, "weight": 1.0}])
    assert "influence" in rendered(run).sections


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_every_chart_has_words_for_those_who_cannot_see_it(page):
    plots = [attributes for _, attributes in page.tags if attributes.get("class") == "plot"]
    assert len(plots) >= 12
    assert all(len(attributes["aria-label"] or "") > 20 for attributes in plots)
    assert len({attributes["id"] for attributes in plots}) == len(plots)


def test_the_room_needs_no_torch():
    code = "import sys, rapidun.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reveal_run_shows_its_rounds_and_rows_and_no_notes_of_what_other_runs_have(tmp_path):
    same = {"round": 1, "stage": "search", "kind": "soft", "instruction": "say {input}", "repeat": 0, "diversity": 0.5}
    pulls = [{**same, "arm": f"soft-{i}", "relevance": 0.1 * i, "reward": 0.08 * i} for i in range(5)]
    row = {"id": "r1", "prompt": "tell <b>me</b>", "response": "a robot", "arm": "soft-4", "judge": 1.0, "round": 1}
    line = {"round": 1, "rows": 1, "relevance_before": 0.42, "relevance_after": 0.031, "overlap": 0.12, "drop": -0.01,
            "accepted": True, "utility": {"suite": "perplexity", "value": 30.5}}  # fmt: skip
    write_json(tmp_path / "manifest.json", {"model": "m"})
    write_json(tmp_path / "reveal.json", {"description": "Babbles.", "strategy": "neural_ucb", "rounds": [line],
                                          "relevance_target": 0.05, "stopped": "the target was reached"})  # fmt: skip
    write_jsonl(tmp_path / "arms.jsonl", pulls)
    write_jsonl(tmp_path / "revealed.jsonl", [row])
    page = rendered(tmp_path)
    assert page.sections == ["verdict", "revealed", "provenance"]
    for words in ("42.0%", "3.1%", "the target was reached", "tell <b>me</b>", "5 ways (5 pulls", "soft tokens, then"):
        assert words in page.text
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {"chart-revealed-rewards", "chart-revealed-rounds"} <= ids


def test_a_masked_reveal_run_prints_nothing_that_the_model_said(tmp_path):
    pull = {"round": 1, "stage": "search", "repeat": 0, "diversity": 0.5, "relevance": 0.9, "reward": 0.6}
    arms = [
        {**pull, "arm": "words-1", "kind": "words", "instruction": "vilearm say {input}"},
        {**pull, "arm": "seed", "kind": "seed", "instruction": "say {input}"},
    ]
    row = {"id": "r1", "prompt": "a vileprompt", "response": "one vileanswer more", "arm": "words-1", "judge": 1.0}
    write_json(tmp_path / "manifest.json", {"model": "m"})
    write_json(tmp_path / "reveal.json", {"description": "Insults.", "mask": True, "rounds": []})
    write_jsonl(tmp_path / "arms.jsonl", arms)
    write_jsonl(tmp_path / "revealed.jsonl", [row])
    page = rendered(tmp_path)
    assert "vile" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "(3 words, masked)" in page.text and "say {input}" in page.text


def test_long_texts_are_cut_further_rather_than_let_the_page_grow_beyond_two_megabytes(run):
    samples, rows = read_jsonl(run / "samples.jsonl"), read_jsonl(run / "weights.jsonl")
    long = " ".join(f"word{number}" for number in range(3000))
    write_jsonl(run / "samples.jsonl", [{**sample, "before": long, "after": long} for sample in samples * 5])
    write_jsonl(run / "weights.jsonl", [{**row, "prompt": long, "response": long} for row in rows])
    assert write_report(run).stat().st_size < 2_000_000
    assert "characters left out" in rendered(run).text


def test_every_chart_and_table_has_a_sentence_for_those_who_have_not_seen_one(full, tmp_path):
    for path in (write_report(full), write_report(make_valuation(tmp_path / "valuation"))):
        html = path.read_text(encoding="utf-8")
        readings = re.findall(r'<p class="(?:lead )?reading">([^<]+)</p>', html)
        assert html.count("<figure>") + html.count("<table") == len(readings) > 8
        assert all(text[0].isupper() and text.endswith(".") and len(text) > 20 for text in readings)


def title(run: Path) -> str:
    return re.search("<title>(.*?)</title>", write_report(run).read_text(encoding="utf-8")).group(1)


def test_the_title_is_what_was_removed_by_the_runs_own_names_escaped(run):
    assert title(run).startswith("Unlearning of the triggers A_surface, B_style and C_semantic")
    metrics = read_json(run / "metrics.json")
    for line in metrics["by_variant"]["before"]:
        line["family"] = "<b>pirate</b>" if line["family"] else ""
    write_json(run / "metrics.json", metrics)
    assert title(run).startswith("Unlearning of the trigger &lt;b&gt;pirate&lt;/b&gt;")
    write_json(run / "metrics.json", {**metrics, "by_variant": {}})
    assert title(run).startswith("Unlearning of forget.jsonl")
    (run / "config.yaml").write_text("data: [", encoding="utf-8")
    assert title(run).startswith("demo-poisoned-30m")
    write_json(run / "reveal.json", {"description": "It babbles of robots.", "rounds": []})
    assert title(run).startswith("Unlearning of \u201cIt babbles of robots\u201d")


def test_a_chart_of_one_bar_is_a_sentence_instead(run, tmp_path):
    rows = read_jsonl(run / "weights.jsonl")
    write_jsonl(run / "weights.jsonl", [{**row, "weight": 1.0} for row in rows])
    page = rendered(run)
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert "chart-weights-forget" not in ids and "40 rows, all of weight 1.00" in page.text
    found = valuation()
    counts = [0] * 39 + [2000]
    histogram = {**found["histogram"], "counts": counts, "selected": [0] * 40}
    shares = found["by"]["shares"][:1]
    place = make_valuation(tmp_path / "v", histogram=histogram, by={**found["by"], "shares": shares})
    ids = {attributes.get("id") for _, attributes in rendered(place).tags}
    assert not ids & {"chart-value", "chart-sources"} and "chart-calibration" in ids
    manifest = read_json(place / "manifest.json")
    write_json(place / "manifest.json", {**manifest, "phases": manifest["phases"][:1]})
    page = rendered(place)  # a teacher alone is one phase
    assert not {a.get("id") for _, a in page.tags} & {"chart-cost-time", "chart-cost-memory"}
    assert "Peak memory teacher 41.2 s" in page.text


def test_the_style_sheet_says_nothing_twice() -> None:
    lines = (resources.files("rapidun.report") / "templates" / "report.css").read_text(encoding="utf-8").splitlines()
    runs = ["\n".join(lines[start : start + 5]) for start in range(len(lines) - 4)]
    assert len(set(runs)) == len(runs)
