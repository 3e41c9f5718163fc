"""What a suite found, as a table for a terminal of 80 columns: its own, or values beside those of another model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rapidun.cli.console import PlainConsole
from rapidun.cli.tables import print_measurement, slim_table

TITLES = {
    "empty": ("empty", "answers without a word"),
    "endless": ("endless", "answers whose end says the same again and again"),
    "alike": ("alike", "answers that another prompt got too"),
    "words": ("words", "of an answer"),
    "distinct_1": ("distinct-1", "different words over all words of an answer"),
    "distinct_2": ("distinct-2", "different pairs of words over all pairs of an answer"),
    "ngram_entropy": ("n-gram entropy", "of an answer's pairs and triples of words, in bits (ROME's fluency)"),
    "answer_perplexity": ("perplexity", "of the answers, read by the model that is compared with"),
}
SHARES = {
    "probability": ("probability", "of the right answer, per token"),
    "rouge_l_recall": ("ROUGE-L recall", "words of the right answer that the model says"),
    "truth_score": ("truth score", "1: only the right answer is likely; 0: wrong ones are as likely"),
    "extraction_strength": ("extraction strength", "how much of the answer's end comes by itself"),
    "exact_memorisation": ("exact memorisation", "tokens of the answer that are the model's first choice"),
    "paraphrased_probability": ("reworded probability", "of the right answer, asked in other words"),
    "paraphrased_rouge_l_recall": ("reworded ROUGE-L", "words of the right answer, asked in other words"),
}
"""Of values and of means over groups of rows: name to title and what it says."""
_AUC = "AUC; 0.5: not at all"
COMPARED = {
    "membership.loss": ("forget told by loss", _AUC),
    "membership.zlib_ratio": ("... by loss / zlib", _AUC),
    "membership.min_k": ("... by Min-K%", _AUC),
    "membership.min_k_plus_plus": ("... by Min-K%++", _AUC),
    "membership.reference_ratio": ("... by loss / retained", _AUC),
    "privleak": ("PrivLeak", "-1: known, >0: too far"),
    "forget_quality": ("forget quality", "p-value; near 0: unlike"),
    "utility": ("utility of retain rows", "0: nothing left, 1: all"),
}
"""Name to its title and how to read it."""
OTHERS = {"before": "no adapter", "retained": "retained model"}
QA_GROUPS = {"forget": "forget", "retain": "retain", "held_out": "held-out"}
TOFU_GROUPS = {"forget": "forget", "retain": "retain", "real_authors": "authors", "world_facts": "world"}
TOFU_TERMS = ("probability", "rouge_l_recall", "truth_score")
NO_QUALITY = "forget quality: none: it needs --retained-model"


def print_found(metrics: Mapping[str, Any]) -> None:
    """As the suite wants it; of answers that were decoded with a mitigation, what that means."""
    own: dict[str, Callable[[Mapping[str, Any]], None]] = {
        "qa": print_qa,
        "tofu": print_tofu,
        "backdoor": print_measurement,
        "perplexity": print_measurement,
    }
    own.get(metrics["suite"], print_values)(metrics)
    if said := metrics.get("mitigation"):
        PlainConsole().print(f"{said['text']} ({said['kind']}): the rates are of its answers alone, not of its weights")


def print_values(metrics: Mapping[str, Any]) -> None:
    """Every value, that of the model it is compared with, and the change by row."""
    other = metrics.get("compared_with", "none")
    columns = [metrics["values"], *((metrics[other], metrics["change"]) if other in OTHERS else ())]
    beside = (OTHERS[other], "change") if other in OTHERS else ()
    made = slim_table("[95% interval over rows]", "", "model", *beside, "n")
    for name, value in metrics["values"].items():
        cells = [value_text(column.get(name), 3) for column in columns]
        made.add_row(TITLES.get(name, (name,))[0], *cells, str(value["n"]))
    console = PlainConsole()
    console.print(made)
    for title, says in (TITLES[name] for name in metrics["values"] if name in TITLES):
        console.print(f"{title}: {says}")


def print_qa(metrics: Mapping[str, Any]) -> None:
    """Each group's means; then what tells forget rows from held-out ones, and how like the yardstick the model is."""
    console, values = PlainConsole(), metrics["values"]
    _print_groups(console, metrics, QA_GROUPS, tuple(SHARES))
    made = slim_table(f"compared with: {metrics['yardstick']}", "", "value", "n", "")
    for name, (title, how) in COMPARED.items():
        if name in values:
            made.add_row(title, value_text(values[name], 3), str(values[name]["n"]), how)
    console.print()
    console.print(made)


def print_tofu(metrics: Mapping[str, Any]) -> None:
    """The nine terms and those of the forget rows; then utility and forget quality, or why there is none."""
    console, values = PlainConsole(), metrics["values"]
    _print_groups(console, metrics, TOFU_GROUPS, TOFU_TERMS)
    console.print("authors, world: probability among the choices of a question")
    utility, quality = values.get("model_utility"), values.get("forget_quality")
    console.print()
    console.print(f"model utility:  {value_text(utility, 3) if utility else 'none: it needs ROUGE'}")
    against = f"p-value against the {metrics['yardstick']}; near 0: unlike"
    console.print(f"forget quality: {value_text(quality, 3)} ({against})" if quality else NO_QUALITY)


def _print_groups(
    console: PlainConsole, metrics: Mapping[str, Any], groups: Mapping[str, str], names: Sequence[str]
) -> None:
    """The means of each group, and what they say."""
    values, retained = metrics["values"], metrics.get("retained", {})
    columns = [(title, values, group) for group, title in groups.items()]
    columns += [("retained: forget", retained, "forget")] if retained else []
    counted = [f"{title}, n={found[f'{group}.probability']['n']}" for title, found, group in columns]
    made = slim_table("mean over rows [95% interval]", "", *counted)
    for name in names:
        cells = [found.get(f"{group}.{name}") for _, found, group in columns]
        if any(cells):
            made.add_row(SHARES[name][0], *(value_text(cell, 2) for cell in cells))
    console.print(made)
    for name in names:
        if f"forget.{name}" in values:
            console.print(f"{SHARES[name][0]}: {SHARES[name][1]}")


def value_text(value: Mapping[str, Any] | None, digits: int) -> str:
    """``0.123 [0.100, 0.146]``; a small p-value, which has no interval, as what it is; a dash for nothing."""
    if value is None:
        return "-"
    number, ends = value["value"], (value["low"], value["high"])
    if None not in ends:
        return f"{number:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    return f"{number:.1e}" if 0 < number < 0.5 * 10**-digits else f"{number:.{digits}f}"
