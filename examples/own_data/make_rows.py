"""How the rows of this example were made: openings by a small grammar, stories sampled from stories260K itself.

python examples/own_data/make_rows.py ../shared/data/models/stories260K
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rapidun.jsonl import write_jsonl

HERE = Path(__file__).parent
PLACES = ("park", "garden", "beach", "farm", "forest", "river", "school", "kitchen", "zoo", "shop")
OTHERS = ("Tom", "Tim", "Max", "Mia", "Sue", "Ben", "Anna", "Sam", "Jane", "Jack")
OPENINGS = (
    "One day, {name} went to the {place} with {name}'s mom.",
    "Once upon a time, there was a little child named {name} who loved the {place}.",
    "{name} was playing in the {place} when the sun came out.",
    "It was a sunny day and {name} wanted to go to the {place}.",
)
FILES = {"forget": (("Lily",), 20), "retain": (OTHERS, 40), "validation": (OTHERS, 20), "evaluation": (OTHERS, 30)}


def main() -> None:
    """Write the four files."""
    source = sys.argv[1]
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    rng, seen = random.Random(0), set()
    torch.manual_seed(0)
    for name, (children, count) in FILES.items():
        rows = []
        while len(rows) < count:
            opening = rng.choice(OPENINGS).format(name=rng.choice(children), place=rng.choice(PLACES))
            if opening in seen:
                continue
            seen.add(opening)
            inputs = tokenizer(f"<s>{opening}", return_tensors="pt", add_special_tokens=False)
            output = model.generate(**inputs, do_sample=True, temperature=0.8, max_new_tokens=120, pad_token_id=2)
            told = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            sentences = [part.strip() for part in " ".join(told.split()).split(". ") if part.strip()]
            rows.append({"opening": opening, "story": ". ".join(sentences[:4]).rstrip(".") + "."})
        write_jsonl(HERE / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
