"""Datasets of every kind, brought to texts, language, label and id."""

from dataclasses import replace

import pytest
from conftest import write_configurations
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_langimb import JointDistribution
from hf_langimb.data.rows import find_text_columns, normalize_spacing
from hf_langimb.data.spec import DataSpec
from hf_langimb.models.loading import tokenize

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by datasets, of CSV files

ROWS = {"text": ["un", "one", "deux"], "language": ["fr", "en", "fr"], "label": [0, 1, 1]}


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def rows(**changes):
    return Dataset.from_dict(ROWS | changes)


def standardize(dataset, label_names=(), languages=(), **columns):
    spec = DataSpec("the data", **{"text_columns": ["text"]} | columns)
    return spec.standardized(dataset, label_names=label_names, languages=languages)


def named(names=("no", "yes"), **changes):
    return rows(**changes).cast_column("label", ClassLabel(names=list(names)))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl", "json"])
def test_a_file(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        rows().to_parquet(path)
    elif suffix in ("csv", "tsv"):
        rows().to_csv(path, index=False, sep="," if suffix == "csv" else "\t")
    else:
        rows().to_json(path)
    loaded = DataSpec(str(path)).read()
    assert loaded.to_dict() == ROWS
    assert DataSpec(str(path), split="train").read().to_dict() == ROWS


@pytest.mark.parametrize("form", ["parquet", "csv", "disk"])
def test_a_folder_of_splits(tmp_path, form):
    splits = DatasetDict({"train": rows(), "validation": rows(label=[1, 1, 1]), "test": rows(label=[0, 0, 0])})
    folder = tmp_path / "data"
    folder.mkdir()
    if form == "disk":
        splits.save_to_disk(folder)
    else:
        for name, part in splits.items():
            getattr(part, f"to_{form}")(folder / f"{name}.{form}")
    loaded = DataSpec(str(folder)).read()
    assert set(loaded) == {"train", "validation", "test"}
    assert loaded["validation"]["label"][:] == [1, 1, 1]
    assert DataSpec(str(folder), split="test").read()["label"][:] == [0, 0, 0]
    with pytest.raises(ValueError, match="dev"):
        DataSpec(str(folder), split="dev").read()


def test_configurations_are_languages(tmp_path):
    def table(config, split):
        return Dataset.from_dict({"text": [f"{config} {split} {i}" for i in range(2)], "label": [0, 1]})

    splits = {"fr": ["train", "test"], "en": ["train", "test", "validation"]}
    tables = {config: {split: table(config, split) for split in names} for config, names in splits.items()}
    folder = write_configurations(tmp_path, tables)
    loaded = DataSpec(folder, config_names=["fr", "en"]).read()
    assert set(loaded) == {"train", "test"}  # splits that both have
    expected = {"text": ["fr train 0", "fr train 1", "en train 0", "en train 1"], "label": [0, 1, 0, 1]}
    assert loaded["train"].to_dict() == expected | {"language": ["fr", "fr", "en", "en"], "row": [0, 1, 0, 1]}
    test = DataSpec(folder, config_names=["en", "fr"], split="test").read()
    assert test["language"][:] == ["en", "en", "fr", "fr"]
    alone = DataSpec(folder, config_names=["en"]).read()
    assert set(alone) == {"train", "test", "validation"}
    assert alone["train"].column_names == ["text", "label", "language"]  # of the folder
    for names, message in ((["de"], "configuration 'de', found .*fr"), (["en", "de"], "configuration 'de', found")):
        with pytest.raises(ValueError, match=message):
            DataSpec(folder, config_names=names).read()


def test_parallel_configurations_keep_translations_together_and_a_language_column(tmp_path):
    texts = {config: Dataset.from_dict({"text": [f"{config} {i}" for i in range(5)]}) for config in ("en", "fr")}
    write_configurations(tmp_path, {config: {"train": table} for config, table in texts.items()})
    assert len(DataSpec(str(tmp_path), ["en", "fr"], split="train[:2]").texts(first=4)) == 4
    for first in (None, 4):
        found = DataSpec(str(tmp_path), ["en", "fr"]).texts(first=first)
        assert found["id"][:] == [str(i) for i in range(first or 5)] * 2
    folder = write_configurations(tmp_path / "column", {key: {"train": rows()} for key in ("a", "b")})
    assert DataSpec(folder, config_names=["a", "b"]).read()["train"]["language"][:] == ROWS["language"] * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "Cannot read a dataset at .*nothing.*Hub id, folder, or .*no such file"),
        (lambda folder: "nobody/nothing", "Cannot read a dataset at 'nobody/nothing'"),
        (lambda folder: folder, "Cannot read a dataset at"),  # an empty folder
        (lambda folder: write(folder / "a.xlsx", "?"), "Expected a .parquet, .csv, .tsv, .jsonl, .json file, found"),
        (lambda folder: write(folder / "a.parquet", "no parquet"), "a.parquet: Parquet magic bytes not found"),
        (lambda folder: write(folder / "a.jsonl", '{"text": "a"}\n{"te'), "a.jsonl: JSON parse error"),
        (lambda folder: two_tables(folder), "empty: its files have different columns: pass a single file"),
    ],
)
def test_nothing_to_open(tmp_path, monkeypatch, make, message):
    for module in ("datasets.config", "huggingface_hub.constants"):  # else it tries for 20 seconds
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    folder = tmp_path / "empty"
    folder.mkdir()
    spec = DataSpec(str(make(folder)))
    for way in (spec.read, spec.counts):
        with pytest.raises(ValueError, match=message) as caught:
            way()
        assert "\n" not in str(caught.value)


def two_tables(folder):
    rows().to_parquet(folder / "a.parquet")
    rows().rename_column("language", "tongue").to_parquet(folder / "b.parquet")
    return folder


def write(path, text):
    path.write_text(text)
    return path


def test_one_data_set_on_disk_and_a_file_without_configurations(tmp_path):
    named().save_to_disk(tmp_path / "data")
    assert DataSpec(str(tmp_path / "data")).read().features["label"].names == ["no", "yes"]
    rows().to_parquet(tmp_path / "rows.parquet")
    for names in (["fr"], ["fr", "en"]):
        message = f"rows.parquet: .* no configurations, got --config-name {', '.join(names)}: leave it out"
        with pytest.raises(ValueError, match=message):
            DataSpec(str(tmp_path / "rows.parquet"), config_names=names).read()


# All ways to read agree.


@pytest.fixture(params=["rows.csv", "rows.tsv", "folder", "configurations"])
def null_words(request, tmp_path):
    """Function (text): the spec of a dataset in CSV or TSV with this content, and how often it has the rows."""

    def make(text):
        name = request.param
        file = tmp_path / (name if "." in name else f"{name}/train.csv")
        file.parent.mkdir(exist_ok=True)
        write(file, text.replace(",", "\t") if name == "rows.tsv" else text)
        if name != "configurations":
            return DataSpec(str(tmp_path / name)), 1
        lines = "".join(f"- config_name: {config}\n  data_files: {name}/train.csv\n" for config in "ab")
        write(tmp_path / "README.md", f"---\nconfigs:\n{lines}---\n")
        return DataSpec(str(tmp_path), ["a", "b"]), 2

    return make


def test_words_that_pandas_takes_for_nulls_are_values(null_words):
    spec, times = null_words("language,label,text\nnan,None,null\nfr,1,NA\nnan,True,a\n")
    columns = {"language": ["nan", "fr", "nan"], "label": ["None", "1", "True"], "text": ["null", "NA", "a"]}
    read, rows = spec.read(), spec.rows()
    read = read["train"] if isinstance(read, DatasetDict) else read
    for name, values in columns.items():
        assert read[name][:] == rows[name][:] == values * times
    assert spec.counts() == {"train": JointDistribution.from_dataset(rows)}
    assert sorted(spec.texts()["text"]) == sorted(columns["text"] * times)
    assert sorted(spec.rows(first=1)["language"]) == ["fr", "nan"]
    assert spec.standardized(read)["language"][:] == rows["language"][:]


def test_empty_fields_are_nulls(null_words):
    spec, _ = null_words("language,label,text\n,None,null\nfr,1,NA\n")
    for way in (spec.texts, lambda: spec.rows(first=1)):
        with pytest.raises(ValueError, match=f"{spec.name}: The language column is empty in . of"):
            way()


@pytest.mark.parametrize("file", ["rows.csv", "rows.parquet", "rows.jsonl"])
def test_empty_strings_are_nulls_in_every_format(tmp_path, file):
    rows = {"language": ["fr", "", "en", "fr"], "label": ["a", "b", "", "b"], "text": ["un", "deux", "three", ""]}
    write_as = {"csv": Dataset.to_csv, "parquet": Dataset.to_parquet, "jsonl": Dataset.to_json}
    write_as[file.partition(".")[2]](Dataset.from_dict(rows), str(tmp_path / file))
    spec = DataSpec(str(tmp_path / file))
    (counted,) = spec.counts().values()
    assert (counted.rows, counted.null_languages, counted.null_labels) == (2, 1, {"en": 1})
    with pytest.raises(ValueError, match="is empty in"):
        spec.rows()
    kept = replace(spec, drop_null=True).rows()
    assert kept.to_dict() == {"text": ["un"], "language": ["fr"], "label": ["a"]}


BROKEN = {
    "garbage.parquet": (bytes(range(256)), "Parquet magic bytes not found"),
    "truncated.parquet": (b"PAR1" + bytes(400), "Parquet magic bytes not found"),
    "empty.parquet": (b"", "Parquet file size is 0 bytes"),
    "garbage.csv": (bytes(range(256)) * 9, "Error tokenizing data|not UTF-8 text"),
    "garbage.tsv": (bytes(range(256)) * 9, "not UTF-8 text .*: name its encoding"),
    "empty.csv": (b"", "the file is empty"),
    "header.csv": (b"language,label,text\n", "No rows to (count|read): the dataset is empty"),
    "ragged.csv": (b"language,label\nfr,a\nfr,a,b,c\n", "Expected 2 fields in line 3, saw 4"),
    "utf16.csv": (
        "language,label\nfr,a\n".encode("utf-16-le"),
        "not UTF-8 text .*: name its encoding",
    ),
    "garbage.jsonl": (bytes(range(256)) * 9, "not UTF-8 text .*: name its encoding"),
    "garbage.json": (bytes(range(256)) * 9, "not UTF-8 text .*: name its encoding"),
    "empty.jsonl": (b"", "No rows to (count|read): the dataset is empty"),
    "lists.jsonl": (b"[1, 2]\n[3, 4]\n", "its rows are not JSON objects"),
    "numbers.jsonl": (b"1\n2\n", "its rows are not JSON objects"),
    "nulls.jsonl": (b"\nnull\nnull\n", "its rows are not JSON objects"),  # pyarrow crashes
    "nulls.json": (b"null", "its rows are not JSON objects"),
    "deep.jsonl": (b'{"a": ' * 200_000 + b"1" + b"}" * 200_000, "its rows are nested too deeply"),
    "latin1.jsonl": (
        '{"text": "été"}'.encode("latin-1"),
        "not UTF-8 text .*: name its encoding",
    ),
    "twice.csv": (b"\xef\xbb\xbflanguage,label,language\nfr,a,b\n", "its header has 'language' more than once: rename"),
    "utf16.jsonl": (
        '{"language": "fr"}'.encode("utf-16-be"),
        "not UTF-8 text .*: name its encoding",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_sentence_that_names_them(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    spec = DataSpec(str(tmp_path / name))
    for way in (spec.counts, spec.read, spec.rows, spec.texts):
        with pytest.raises(ValueError, match=f"{name}: .*({message})") as caught:
            way()
        assert "\n" not in str(caught.value)


def test_a_repeated_column_that_is_not_used_is_no_error(tmp_path):
    path = write(tmp_path / "twice.csv", "text,language,label,note,note\na,fr,1,x,y\nb,en,0,x,y\n")
    assert DataSpec(str(path)).counts()["train"].rows == len(DataSpec(str(path)).rows()) == 2
    with pytest.raises(ValueError, match=r"^\S*twice.csv: its header has 'note' more than once: rename one\.$"):
        DataSpec(str(path), label_column="note").rows()


def test_damaged_metadata_is_named(tmp_path):
    for file, content in (("state.json", "{}"), ("dataset_info.json", "[]"), ("README.md", "---\n: [\n---\n")):
        folder = tmp_path / file / "data"
        if file == "README.md":
            folder.mkdir(parents=True)
            rows().to_csv(folder / "train.csv", index=False)
        else:
            rows().save_to_disk(folder)
        write(folder / file, content)
        for way in (DataSpec(str(folder)).counts, DataSpec(str(folder)).read):
            with pytest.raises(ValueError, match=f"data: .*Error: .*is its .*{file}.* damaged"):
                way()


def test_text_columns():
    for present, asked, found in (
        ("text label", "", "text"),
        ("hypothesis premise text", "", "premise hypothesis"),
        ("sentence2 sentence1", "", "sentence1 sentence2"),
        ("text_pair text", "", "text text_pair"),
        ("text title body", "body", "body"),
        ("text title body", "title body", "title body"),
    ):
        assert find_text_columns(Dataset.from_dict({n: ["a"] for n in present.split()}), asked.split()) == found.split()
    for asked, message in (
        ("", r"Found no text column among \['body', 'title'\]: name one or two with text_column"),
        ("text", "Expected a text column 'text', found columns"),
        ("title text", "Expected a text column 'text', found columns"),
        ("title body text", "one text column or two"),
    ):
        with pytest.raises(ValueError, match=message):
            find_text_columns(Dataset.from_dict({"title": ["a"], "body": ["b"]}), asked.split())


# Standard columns.


def test_standard_columns():
    loaded, text = standardize(named()), Value("string")
    assert loaded.column_names == ["text", "language", "label", "id"]
    labels = ClassLabel(names=["no", "yes"])
    assert loaded.features == Features({"text": text, "language": text, "label": labels, "id": text})
    assert loaded.to_dict() == ROWS | {"id": ["0", "1", "2"]}


def test_labels_of_every_type():
    for labels, order, names, expected in (
        (["b", "a", "b"], (), ["a", "b"], [1, 0, 1]),
        (["b", "a", "b"], ("b", "c", "a"), ["b", "c", "a"], [0, 2, 0]),
        ([10, 2, 10], (), ["2", "10"], [1, 0, 1]),  # by number, not as text
        ([5, 1, 1], ("1", "2", "3", "4", "5"), ["1", "2", "3", "4", "5"], [4, 0, 0]),
        ([True, False, True], (), ["False", "True"], [1, 0, 1]),
    ):
        loaded = standardize(rows(label=labels), label_names=order)
        assert loaded.features["label"].names == names
        assert loaded["label"][:] == expected
    dataset = named(["yes", "no"])  # class labels keep their order, and follow another
    assert standardize(dataset).features["label"].names == ["yes", "no"]
    assert standardize(dataset, label_names=["no", "perhaps", "yes"])["label"][:] == [2, 0, 0]


def test_languages_of_every_type_and_some_alone():
    dataset = rows(language=[0, 1, 0]).cast_column("language", ClassLabel(names=["fr", "en"]))
    assert standardize(dataset)["language"][:] == ["fr", "en", "fr"]
    assert standardize(rows(language=[7, 8, 7]))["language"][:] == ["7", "8", "7"]
    loaded = standardize(rows(), languages=["fr"])
    assert loaded["text"][:] == ["un", "deux"]
    assert loaded.features["label"].names == ["0", "1"]
    assert len(standardize(rows(), languages=["de", "it"])) == 0


def test_other_column_names_and_a_pair():
    dataset = Dataset.from_dict({"a": ["x"], "b": ["y"], "lang": ["fr"], "stars": [3], "item": [12], "more": [0]})
    columns = {"language_column": "lang", "label_column": "stars", "id_column": "item"}
    loaded = standardize(dataset, text_columns=["b", "a"], **columns)
    assert loaded.to_dict() == {"b": ["y"], "a": ["x"], "language": ["fr"], "label": [0], "id": ["12"]}


def test_what_cannot_be_standardized():
    for changes, settings, message in (
        ({}, {"language_column": "lang"}, "Expected a language column 'lang'.*fastText"),
        ({}, {"label_column": "stars"}, "Expected a label column 'stars', found columns"),
        ({}, {"id_column": "item"}, "id column 'item', found columns"),
        ({}, {"text_columns": ["body"]}, "Expected a text column 'body'"),
        ({"label": [0, None, 1]}, {}, "label column is empty in 1 of 3"),
        ({"language": ["fr", None, None]}, {}, "language column is empty in 2 of 3"),
        ({"text": ["un", None, "deux"]}, {}, "text column 'text' is empty in 1 of 3 rows"),
        ({"text": [1, 2, 3]}, {}, "text column 'text' has values of type int64, expected strings"),
        ({"label": [0.5, 1.0, 1.5]}, {}, "label column has values of type double"),
        ({"label": ["a", "b", "x"]}, {"label_names": ["a", "b"]}, r"Labels \['x'\] of column 'label' are not among"),
    ):
        with pytest.raises(ValueError, match=message):
            standardize(rows(**changes), **settings)
    with pytest.raises(ValueError, match="-1"):  # hidden test labels
        standardize(named().map(lambda row: {"label": -1}))


def test_tokens_of_texts_and_pairs_and_of_long_texts(bert_tokenizer):
    dataset = Dataset.from_dict({"a": ["w1 w2", "w3"], "b": ["w4", "w5 w6"], "label": [0, 1]})
    single, pair = tokenize(dataset, bert_tokenizer, ["a"]), tokenize(dataset, bert_tokenizer, ["a", "b"])
    assert bert_tokenizer.convert_ids_to_tokens(single[0]["input_ids"]) == ["[CLS]", "w1", "w2", "[SEP]"]
    assert bert_tokenizer.convert_ids_to_tokens(pair[0]["input_ids"]) == ["[CLS]", "w1", "w2", "[SEP]", "w4", "[SEP]"]
    assert pair[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert single["label"][:] == [0, 1]
    assert "a" not in pair.column_names
    assert "b" in single.column_names
    dataset = Dataset.from_dict({"a": ["w1 " * 100], "b": ["w2 " * 100]})
    assert len(tokenize(dataset, bert_tokenizer, ["a", "b"], 10)[0]["input_ids"]) == 10
    assert len(tokenize(dataset, bert_tokenizer, ["a", "b"])[0]["input_ids"]) == 32  # as long as the model takes


# Text to probe.


def texts_file(path):
    texts = ["un  chat , noir", "le chat", "le chien", "a cat", "the cat", "the ( big ) dog"]
    table = {"text": texts, "language": ["fr"] * 3 + ["en"] * 3, "item": [0, 1, 2] * 2}
    Dataset.from_dict(table).to_parquet(path)
    return str(path)


def test_texts_have_language_id_and_one_spacing(tmp_path):
    path = texts_file(tmp_path / "texts.parquet")
    texts = ["un chat, noir", "le chat", "le chien", "a cat", "the cat", "the (big) dog"]
    expected = {"text": texts, "language": ["fr"] * 3 + ["en"] * 3, "id": ["0", "1", "2"] * 2}
    assert DataSpec(path).texts(["fr", "en"]).to_dict() == expected
    first = DataSpec(path).texts(first=2)
    assert first["text"][:] == ["a cat", "the cat", "un chat, noir", "le chat"]  # languages sorted
    named = DataSpec(path, id_column="text").texts()
    assert named["id"][:] == ["a cat", "the cat", "the ( big ) dog", "un  chat , noir", "le chat", "le chien"]
    Dataset.from_parquet(path).remove_columns("item").to_parquet(tmp_path / "plain.parquet")
    assert DataSpec(str(tmp_path / "plain.parquet")).texts()["id"][:] == ["0", "1", "2", "3", "4", "5"]


def test_pairs_and_splits(tmp_path):
    pairs = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "language": ["fr", "en"]}
    both = DatasetDict(validation=Dataset.from_dict(pairs), test=Dataset.from_dict(pairs | {"premise": ["e", "f"]}))
    both.save_to_disk(tmp_path / "both")
    assert DataSpec(str(tmp_path / "both")).texts()["premise"][:] == ["f", "e"]  # the split test
    found = DataSpec(str(tmp_path / "both"), split="validation").texts()
    assert found.column_names == ["premise", "hypothesis", "language", "id"]
    DatasetDict(a=Dataset.from_dict(pairs), b=Dataset.from_dict(pairs)).save_to_disk(tmp_path / "others")
    with pytest.raises(ValueError, match=r"others: Expected one split, found a, b: choose one with --split"):
        DataSpec(str(tmp_path / "others")).texts()


def test_first_rows_of_configurations_are_streamed(tmp_path, monkeypatch):
    texts = {name: Dataset.from_dict({"text": [f"{name} {i}" for i in range(5)]}) for name in ("en", "fr")}
    folder = write_configurations(tmp_path, {f"20231101.{name}": {"train": rows} for name, rows in texts.items()})
    monkeypatch.setattr(DataSpec, "read", None)  # would read it all
    rows = DataSpec(folder, ["20231101.fr", "20231101.en"]).texts(["en", "fr"], first=2)
    assert rows["text"][:] == ["en 0", "en 1", "fr 0", "fr 1"]
    assert rows["language"][:] == ["en", "en", "fr", "fr"]


def test_texts_that_cannot_be_probed(tmp_path):
    for settings, languages, message in (
        ({}, ["fr", "de"], "texts.parquet: Expected text in fr, de, found fewer than two rows in de"),
        ({"text_columns": ["body"]}, [], "Expected a text column 'body'"),
        ({"id_column": "nothing"}, [], "Expected an id column 'nothing'"),
    ):
        with pytest.raises(ValueError, match=message):
            DataSpec(texts_file(tmp_path / "texts.parquet"), **settings).texts(languages)


def test_spacing():
    for text, expected in (
        ("Council , the .", "Council, the."),
        ("« oui » !", "« oui »!"),
        ("das „Wort“ und »das« Wort", "das „Wort“ und »das« Wort"),
        ("he said `` it 's , well , .5 '' and did n't", "he said \"it's, well, .5\" and didn't"),
        (" a\t( b )\n c ", "a (b) c"),
        ("e\u0301te\u0301", "été"),
        ("a - b", "a - b"),
    ):
        assert normalize_spacing(text) == expected
        assert normalize_spacing(expected) == expected
