"""The language probe on made-up features, on checkpoints, and as a command."""

import copy
import itertools
import json

import numpy as np
import pytest
import transformers as hf
from datasets import Dataset
from sklearn.linear_model import LogisticRegression

from hf_langimb import extract_features, probe_languages
from hf_langimb.cli import main
from hf_langimb.measures.alignment import translations
from hf_langimb.measures.probe import _fit, probe_model
from hf_langimb.models.adapters import add_lora


def noise(rows, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width))


def two_languages(rows, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(["en", "fr"], rows // 2))


def assert_alike(found, expected):
    """Two probes of the same rows: counts are equal, measures equal to 1e-6, as fits differ in their last digits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        measure = isinstance(value, float) or name == "control_interval"
        assert found[name] == (pytest.approx(value, abs=1e-6) if measure else value), name


def test_separable_languages_are_found():
    languages = two_languages(200)
    features = noise(200) + 8 * (languages == "fr")[:, None]
    result = probe_languages(features, languages)
    assert (result.accuracy, result.chance, result.languages) == (1, 0.5, ("en", "fr"))
    assert result.control == pytest.approx(0.5, abs=0.12)
    assert result.bits_below_chance == pytest.approx(1, abs=0.02)
    assert result.confidence == pytest.approx(1, abs=0.01)
    assert result.confusion.tolist() == [[100, 0], [0, 100]] and result.converged
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["rows"] == 200


def test_noise_tells_nothing():
    languages = np.random.default_rng(1).permutation(np.repeat(["en", "fr", "ja"], [400, 100, 100]))
    result = probe_languages(noise(600), languages)
    assert result.chance == pytest.approx(2 / 3)
    assert [result.accuracy, result.control, result.confidence] == pytest.approx([2 / 3] * 3, abs=0.03)
    assert -0.05 < result.bits_below_chance <= 0.005
    low, high = result.control_interval
    assert low - 1e-9 <= result.chance <= high + 1e-9  # a probe that always says en
    assert result.control == pytest.approx((low + high) / 2)


def test_the_interval_of_the_control_is_where_shuffled_languages_fall():
    """Rows err together: shuffles spread more (here 1.2 times) than so many independent rows would."""
    features, languages = noise(300, 16), two_languages(300)
    low, high = probe_languages(features, languages, shuffles=40).control_interval
    drawn = [probe_languages(features, languages, seed=seed, shuffles=2).control for seed in range(1, 40)]
    spread = np.std(drawn) * np.sqrt(2)  # of one shuffle
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.015)
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.02)
    assert (high - low) / 2 == pytest.approx(2.708 * spread, rel=0.25)  # 2.708: 39 degrees of freedom
    few = probe_languages(features, languages, shuffles=10).control_interval
    assert few[0] < low < high < few[1]  # what few shuffles do not know


def test_one_layer_of_features_and_seed_and_strength_are_used():
    features, languages = noise(60), two_languages(60)
    plain = probe_languages(features, languages)
    assert_alike(probe_languages(features[None], languages, seed=0).to_dict(), plain.to_dict())
    assert probe_languages(features, languages, seed=1).confusion.tolist() != plain.confusion.tolist()
    assert abs(probe_languages(features, languages, C=1e-4).bits_below_chance) < 0.01 < -plain.bits_below_chance


def test_groups_keep_translations_together():
    """Rows of an item are near copies of which language is random: only an item that is known tells its language."""
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(40), 5)
    languages = np.array(["en", "fr"])[rng.integers(0, 2, 40)][items]
    features = np.eye(40)[items]
    together = probe_languages(features, languages, groups=items)
    assert together.accuracy < 0.65 < 0.95 < probe_languages(features, languages).accuracy
    named = probe_languages(features, languages, groups=[f"item-{item}" for item in items])
    assert_alike(named.to_dict(), together.to_dict())


def test_every_language_is_among_the_rows_to_fit_of_few_groups():
    """Else its rows would have no probability at all: minus hundreds of bits."""
    for seed in range(5):
        result = probe_languages(noise(9), list("aaabbbccc"), groups=[0, 1, 2, 0, 0, 1, 1, 1, 2], seed=seed)
        assert result.bits_below_chance > -10
        assert 2 <= result.folds <= 5
    with pytest.raises(ValueError, match="No split into folds has every language in each training part"):
        probe_languages(noise(6), list("aabbcc"), groups=[0, 1, 0, 2, 1, 2], folds=2)
    for seed in range(4):
        assert 0 <= probe_languages(noise(4), ["en", "fr"] * 2, groups=[0, 0, 1, 1], seed=seed).control <= 1
    languages = np.repeat(["en", "fr"], [20, 2])
    assert probe_languages(noise(22) + 20 * (languages == "fr")[:, None], languages).accuracy == 1


@pytest.mark.filterwarnings("error")
def test_a_solver_that_does_not_converge_is_recorded_without_a_warning():
    scale = 10.0 ** np.arange(0, 8)
    assert not probe_languages(noise(100, 8) * scale, two_languages(100), C=1e6).converged


def test_a_fit_is_the_one_of_scikit_learn():
    features, rng = noise(400, 6), np.random.default_rng(1)
    for number, C in itertools.product((2, 3), (1, 1e-4)):
        target = np.argmax(features[:, :number] + rng.standard_normal((400, number)), axis=1)
        weights, converged = _fit(np.hstack([features, np.ones((400, 1))]), target, C)
        expected = LogisticRegression(C=C, tol=1e-8).fit(features, target)
        assert converged
        np.testing.assert_allclose(weights, np.column_stack([expected.coef_, expected.intercept_]), atol=1e-3)


EN_FR = ["en", "fr"] * 2
RANGES = "C must be above 0, folds and shuffles must be 2 or more"


def test_bad_input():
    for features, languages, settings, message in (
        (noise(4), ["en"] * 4, {}, "at least two languages .*, got only en"),
        (noise(4), ["en", "en", "en", "fr"], {}, "at least two languages with two rows each, got only one of fr: add"),
        (noise(4), ["en", "en", "fr", "fr"], {"groups": [0, 1, 2, 2]}, "two groups of rows each, got only one of fr"),
        (noise(6), EN_FR, {}, r"shape \[4, H\] for 4 languages, got \[6, 4\]"),
        (noise(4)[:, 0], EN_FR, {}, r"shape \[4, H\] for 4 languages, got \[4\]"),
        (np.stack([noise(4)] * 2), EN_FR, {}, r"got \[2, 4, 4\]"),
        (noise(4), ["en", "fr", "en", None], {}, "language column is empty in 1 "),
        (np.full((4, 4), np.nan), EN_FR, {}, "Features contain NaN or infinity"),
        (noise(4), EN_FR, {"groups": [0, 1]}, "one entry per row in each column, .* 2 in the group column"),
        *((noise(4), EN_FR, wrong, RANGES) for wrong in ({"C": 0}, {"C": np.nan}, {"folds": 1}, {"shuffles": 1})),
    ):
        with pytest.raises(ValueError, match=message):
            probe_languages(features, languages, **settings)


@pytest.fixture
def checkpoint(tmp_path, tiny_bert, bert_tokenizer):
    tiny_bert(num_hidden_layers=2).save_pretrained(tmp_path / "model")
    bert_tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def two_texts(rows=40):
    """Two languages with words of their own; a second text that tells nothing."""
    rng, words, languages = np.random.default_rng(0), {"en": (0, 12), "fr": (12, 24)}, ["en", "fr"] * (rows // 2)
    texts = [" ".join(f"w{i}" for i in rng.integers(*words[language], 5)) for language in languages]
    ids = [str(i // 2) for i in range(rows)]
    return Dataset.from_dict({"text": texts, "text_pair": ["w0"] * rows, "language": languages, "id": ids})


def test_every_layer_of_a_checkpoint_and_the_authors_code_as_protocol(checkpoint, bert_tokenizer, tiny_bert):
    found = probe_model(checkpoint, two_texts(200), text_columns=["text"], layers=None, pooling="mean")
    assert [probe["layer"] for probe in found["layers"]] == [0, 1, 2]
    assert (found["protocol"], found["pooling"], found["C"]) == ("text", "mean", 1.0)
    assert found["layers"][0]["accuracy"] > 0.95
    (last,) = probe_model(checkpoint, two_texts(200), text_columns=["text"], pooling="mean")["layers"]
    assert_alike(last, found["layers"][2] | {"layer": -1})
    found = probe_model(checkpoint, two_texts(), text_columns=["text", "text_pair"], protocol="code")
    assert (found["C"], found["text_columns"], found["pooling"]) == (1e-4, ["text"], "pooler")
    model, data = tiny_bert(num_hidden_layers=2), two_texts()
    features = extract_features(model, bert_tokenizer, data, pooling="pooler", text_columns=["text"])
    expected = probe_languages(features, data["language"], groups=data["id"], C=1e-4)
    assert_alike(found["layers"][0], {"layer": "pooler"} | expected.to_dict())
    pair = probe_model(checkpoint, two_texts(), text_columns=["text", "text_pair"])
    assert (pair["C"], pair["text_columns"], pair["pooling"]) == (1.0, ["text", "text_pair"], "cls")


def test_what_cannot_be_probed(checkpoint, tmp_path, bert_tokenizer, tiny_bert):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    masked = hf.BertForMaskedLM(hf.BertConfig(vocab_size=40, **size))
    for name, model, message in (
        ("nothing", None, r"Expected a model with its tokenizer at '.*nothing' \(Hub id or folder; in a run: "),
        ("masked", masked, "has no trained pooler: choose pooling cls, mean or last"),
        ("deeper", masked, "lacks weights of its encoder, such as .*layer.1"),
        ("small", tiny_bert(vocab_size=10), "has 29 tokens, the model 10: save the model with its own tokenizer"),
        ("alone", tiny_bert(), "with its own tokenizer|Expected a model with its tokenizer"),
    ):
        if model:
            model.save_pretrained(tmp_path / name)
            if name != "alone":  # transformers makes a tokenizer of five special tokens up
                bert_tokenizer.save_pretrained(tmp_path / name)
        if name == "deeper":
            hf.BertConfig(vocab_size=40, **size | {"num_hidden_layers": 2}).save_pretrained(tmp_path / name)
        pooling = "pooler" if name == "masked" else None
        with pytest.raises(ValueError, match=message):
            probe_model(str(tmp_path / name), two_texts(), text_columns=["text"], pooling=pooling)
    with pytest.raises(ValueError, match="Unknown protocol 'paper': choose one of text, code"):
        probe_model(checkpoint, two_texts(), text_columns=["text"], protocol="paper")
    with pytest.raises(ValueError, match=r"at least two languages .*, got only en"):
        only = two_texts().filter(lambda row: row["language"] == "en")
        probe_model(checkpoint, only, text_columns=["text"])


def test_a_decoder_without_padding_or_limit_and_an_adapter(tmp_path, decoder_tokenizer, tiny_bert, bert_tokenizer):
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    hf.GPT2ForSequenceClassification(hf.GPT2Config(vocab_size=27, **shape)).save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(decoder_tokenizer)
    tokenizer.pad_token, tokenizer.model_max_length = None, int(1e30)
    tokenizer.save_pretrained(tmp_path)
    longer = two_texts().map(lambda row: {"text": row["text"] * 10})
    (probed,) = probe_model(str(tmp_path), longer, text_columns=["text"], pooling="mean")["layers"]
    assert probed["rows"] == 40
    # An adapter of plain PEFT, without langimb.json.
    base, folder = tmp_path / "base", tmp_path / "adapter"
    tiny_bert().save_pretrained(base)
    add_lora(hf.AutoModelForSequenceClassification.from_pretrained(base), 2).save_pretrained(folder)
    bert_tokenizer.save_pretrained(folder)
    adapted = probe_model(str(folder), two_texts(), text_columns=["text"])["layers"][0]
    assert adapted["rows"] == 40 and not (folder / "langimb.json").exists()


def test_the_command(checkpoint, tmp_path, capsys):
    two_texts().rename_column("id", "item").to_parquet(tmp_path / "texts.parquet")
    (tmp_path / "model" / "langimb.json").write_text("{")  # no probe needs it
    command = ["probe", checkpoint, str(tmp_path / "texts.parquet"), "--text_column", "text", "--layer", "all"]
    assert main([*command, "--pooling", "mean"]) == 0
    shown = capsys.readouterr().out
    assert "of 40 rows (layer " in shown and "chance is 50.0%" in shown
    assert main([*command, "--json", "--rows", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"].endswith("texts.parquet")
    assert [probe["rows"] for probe in found["layers"]] == [20] * 3
    assert main([*command, "--figure", str(tmp_path / "layers.svg")]) == 0
    assert (tmp_path / "layers.svg").read_text().count("<svg") == 1
    capsys.readouterr()
    figure = "expected a .svg, .png or .pdf file in a folder that exists, got"
    for flags, code, message in (
        (["--figure", str(tmp_path / "layers.gif")], 2, figure),
        (["--figure", str(tmp_path / "no/layers.svg")], 2, figure),
        (["--layer", "last"], 2, "expected a number or all, got 'last'"),
        (["--language-column", "tongue"], 1, "Expected a language column 'tongue'"),
        (["--split", "nope"], 1, "texts.parquet: Expected the split 'nope', found train: choose one with"),
    ):
        assert main([*command, *flags]) == code
        assert message in capsys.readouterr().err
    assert main(["probe", checkpoint, str(tmp_path / "none.parquet")]) == 1
    assert capsys.readouterr().err.startswith("langimb: ")


def test_translations_are_compared_with_the_language_that_has_most_of_them():
    """Three texts in common of five; in language c they are rotated, in b they are others."""
    rng = np.random.default_rng(0)
    states, rotation = rng.normal(size=(5, 8)), np.linalg.qr(rng.normal(size=(8, 8)))[0]
    rows = [("a", i, states[i]) for i in range(5)]
    rows += [("c", i, states[i] @ rotation) for i in (4, 2, 0)] + [("b", i, rng.normal(size=8)) for i in (0, 1, 3)]
    rows += [("d", 9, states[0])]  # no text in common
    languages, ids, features = zip(*rows, strict=True)
    found = translations(np.stack([np.stack(features), np.stack([states[i % 5] for i in ids])]), [0, 1], languages, ids)
    assert (found["reference"], found["languages"]) == ("a", {"b": 3, "c": 3})
    first, second = found["layers"]
    assert first["languages"]["c"]["cka"] == pytest.approx(1)
    assert first["languages"]["c"]["cosine"] < 0.9
    assert second["mean"]["cosine"] == pytest.approx(1) and second["mean"]["retrieval"] == 1
    assert second["mean"]["retrieval_chance"] == 0
    with pytest.raises(ValueError, match="No two languages have two texts in common"):
        translations(features, [0], ["a", "b"], ["1", "2"])


def test_alignment_on_the_command_line_needs_ids(checkpoint, tmp_path, capsys):
    two_texts().rename_column("id", "pair").to_parquet(tmp_path / "rows.parquet")
    words = [
        "probe",
        checkpoint,
        str(tmp_path / "rows.parquet"),
        "--text-column",
        "text",
        "--layer",
        "all",
        "--alignment",
    ]
    assert main(words) == 1
    assert "name the column that they share with --id-column" in capsys.readouterr().err
    main([*words, "--id-column", "pair"])
    shown = capsys.readouterr().out
    assert "close their features are to those in en, mean over 1 language," in shown
    assert "| layer | cosine (chance) | retrieval (chance) |" in shown
