"""Students learn a teacher's values from text, and are the same student when they come back from disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rapidun.errors import ConfigError, InputError
from rapidun.valuation import committee, distil, load_student, save_student, spearman
from rapidun.valuation.encoder import distil_loss
from rapidun.valuation.features import HashedText
from tiny import save_tiny

GOOD, BAD = ["melon", "river", "violin", "copper"], ["tax", "form", "invoice", "ledger"]
TINY = {"hidden": 16, "layers": 1, "vocabulary": 300, "epochs": 6, "learning_rate": 5e-3, "max_length": 48}


def pool(count, *, seed=0):
    """Rows whose value is how many good words they have beyond bad ones; a second task wants the contrary."""
    generator = np.random.default_rng(seed)
    rows, values = [], []
    for number in range(count):
        words = generator.choice([*GOOD, *BAD], 6)
        value = sum(1 if word in GOOD else -1 for word in words) / 6
        rows.append({"id": str(number), "prompt": "say", "response": " ".join(words)})
        values.append([0.01 * value, 5 - value])
    return rows, np.array(values, dtype=np.float32)


def fitted(kind, count=80, **options):
    rows, values = pool(count)
    return distil(kind, rows, values, np.arange(count), options=options, seed=0, progress=lambda done, of: None)


@pytest.mark.parametrize(
    ("kind", "options", "least"), [("ridge", {}, 0.9), ("kernel", {}, 0.9), ("encoder", TINY, 0.6)]
)
def test_a_student_ranks_new_rows_as_the_teacher_does_in_the_teachers_scale(kind, options, least):
    found = fitted(kind, 160, **options)
    rows, values = pool(60, seed=1)
    predicted = found.predict(rows)
    for task in (0, 1):
        assert spearman(predicted[:, task], values[:, task]) > least
        assert abs(predicted[:, task].mean() - values[:, task].mean()) < values[:, task].std()
    assert found.held_out.measures()["spearman"]["value"] > least


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ridge", {"buckets": 1024}), ("kernel", {"buckets": 1024}), ("encoder", {**TINY, "epochs": 1})],
)
def test_a_saved_student_comes_back_with_equal_scores_and_no_pickle(tmp_path, kind, options):
    found = fitted(kind, **options)
    about = {"fingerprints": {"model": "abc"}}
    directory = save_student(tmp_path / "student", found, kind, ["one", "two"], about, "{}")
    rows, _ = pool(20, seed=2)
    back = load_student(directory)
    np.testing.assert_array_equal(back.predict(rows), found.predict(rows))
    assert back.tasks == ["one", "two"]
    assert back.config["fingerprints"] == {"model": "abc"}
    suffixes = {path.suffix for path in directory.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors"}
    assert not list(tmp_path.glob(".*"))


def test_the_same_seed_gives_the_same_student():
    rows, _ = pool(10, seed=2)
    one, other = (fitted("encoder", 40, **{**TINY, "epochs": 1}).predict(rows) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_an_encoder_starts_from_any_local_model(tmp_path):
    source = save_tiny(tmp_path / "gpt", "gpt2")
    found = fitted("encoder", 40, source=str(source), epochs=1, max_length=32)
    assert found.student.settings()["kept_epoch"] == 1
    assert found.predict(pool(3)[0]).shape == (3, 2)


def test_the_ranking_loss_sees_order_alone_and_the_whole_loss_scale_too():
    values = torch.tensor([[0.0], [1.0], [3.0]])
    right, shifted, wrong = values.clone(), values + 5, -values
    losses = [float(distil_loss(scores, values, 1.0) - distil_loss(scores, values, 0.0)) for scores in (right, shifted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert float(distil_loss(wrong, values, 1.0)) > float(distil_loss(right, values, 1.0))
    pairs = [(1, 0, 1), (2, 0, 3), (2, 1, 2)]
    by_hand = sum(apart * np.log1p(np.exp(float(right[low] - right[high]))) for high, low, apart in pairs) / 6
    assert losses[0] == pytest.approx(by_hand, rel=1e-4)


def test_held_out_rows_are_neither_learnt_from_nor_stopped_by():
    found = fitted("ridge", 100)
    assert found.sizes == {"train": 70, "validation": 15, "test": 15}
    assert len(set(found.held_out.ordinals.tolist())) == 15


def test_a_row_does_not_depend_on_the_others_and_prompt_words_are_not_answer_words():
    features = HashedText(4096)
    rows, _ = pool(5)
    together = features(rows).toarray()
    np.testing.assert_array_equal(together[3], features([rows[3]]).toarray()[0])
    sides = features([{"prompt": "melon", "response": "tax"}, {"prompt": "tax", "response": "melon"}]).toarray()
    assert not np.array_equal(sides[0], sides[1])
    assert features.text_only(rows).multiply(features.text_only(rows)).sum(axis=1) == pytest.approx(1)


def test_a_committee_disagrees_most_where_one_row_of_the_sample_decides():
    rows, values = pool(60)
    rare = {"id": "rare", "prompt": "say", "response": "zebra " * 6}
    members = committee([*rows, rare], np.concatenate([values, values[:1] + 3]))
    disagreement = members.disagreement([*pool(30, seed=1)[0], rare])
    assert disagreement.shape == (31,)
    assert disagreement[-1] > 2 * disagreement[:-1].max()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ridge", {"alphas": [0]}, "option alphas.0 = 0: .* greater than 0"),
        ("ridge", {"alphas": []}, "option alphas = \\[\\]"),
        ("ridge", {"buckets": "many"}, "option buckets = 'many'"),
        ("kernel", {"words": 6}, "option words = 6"),
        ("ridge", {"colour": 1}, "no option 'colour'.*buckets"),
        ("kernel", {"alphas": [-1]}, "greater than 0"),
        ("kernel", {"landmarks": 1}, "option landmarks = 1: .* or equal to 2"),
        ("encoder", {"ranking": -1}, "option ranking = -1"),
        ("encoder", {"hidden": 30}, "multiple of 4"),
        ("forest", {}, "neither a kind of student .encoder, kernel, ridge. nor"),
    ],
)
def test_bad_options_are_named(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        fitted(kind, **options)


def test_a_sample_too_small_or_without_differences_is_refused():
    with pytest.raises(InputError, match="a sample of 19 rows"):
        fitted("ridge", 19)
    rows, _ = pool(30)
    same = np.ones((30, 1), np.float32)
    with pytest.raises(InputError, match="nothing to learn"):
        distil("ridge", rows, same, np.arange(30), options={}, seed=0, progress=lambda done, of: None)


def test_a_damaged_kernel_student_is_named(tmp_path):
    directory = save_student(tmp_path / "student", fitted("kernel", buckets=1024), "kernel", ["one", "two"], {})
    weights = directory / "kernel.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"kernel\.safetensors"):
        load_student(directory)
    weights.write_bytes(content)
    config = json.loads((directory / "config.json").read_text())
    config["settings"]["buckets"] = 256  # columns of the landmarks' text lie beyond it
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"kernel\.safetensors"):
        load_student(directory)


def test_a_damaged_student_is_named(tmp_path):
    directory = save_student(tmp_path / "student", fitted("ridge", buckets=1024), "ridge", ["one", "two"], {})
    with pytest.raises(InputError, match="no such student"):
        load_student(tmp_path / "nobody")
    weights = directory / "ridge.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"ridge\.safetensors"):
        load_student(directory)
    weights.write_bytes(content)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "version": 9}))
    with pytest.raises(InputError, match="student format 9"):
        load_student(directory)
    (directory / "config.json").write_text(json.dumps({**config, "settings": {}}))
    with pytest.raises(InputError, match="buckets"):
        load_student(directory)
