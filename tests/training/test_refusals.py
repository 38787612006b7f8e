"""Bad training data and arguments: the message says what was expected, what was got and what to do."""

import pytest
import torch
from by_hand import UNFIT, relabeled, without
from datasets import ClassLabel
from transformers import BertForTokenClassification, TrainingArguments

from hf_langimb import DataCollatorWithLanguage, LangImbTrainer

BAD_DATA = {  # of UNFIT: the message
    "no language": r"train_dataset: .*language column 'language', found columns .*'label'.*language_column.*fastText",
    "lang": r"language column 'language', found columns .*'lang'.*name the right column with language_column",
    "no language in a list": r"train_dataset: .*language column 'language', found columns .*'label'.*fastText",
    "no label in a list": r"train_dataset: .*label column 'label', got none in columns .*'stars'.*rename_column",
    "splits": r"train_dataset: .*splits \['train'\].*dataset\['train'\]",
    "unlabeled rows of a ClassLabel": r"train_dataset: The label column has class id -1.*[Ff]ilter",
    "stars": r"train_dataset: .*label column 'label', got none in columns .*'stars'.*rename_column\('stars', 'label'\)",
    "null language": r"train_dataset: The language column is empty in 1 of 21.*[Ff]ill",
    "null label": r"train_dataset: The label column is empty in 2 of 21",
    "no rows": r"train_dataset: No rows.*empty",
    "an empty list": r"train_dataset: No rows.*empty",
    "all ignored": r"train_dataset: .*outputs for labels 0 to 2, but the column 'label' has only -100.*use predict",
    "labels as strings": r"labels 0 to 2, but the column 'label' has str such as 'l0'.*class_encode_column\('label'\)",
    "labels as booleans": r"labels 0 to 2, but the column 'label' has bool such as False.*cast the column to int64",
    "labels as floats": r"train_dataset: The label column has .*(float|double).*int64",
    "ClassLabel of other size": r"labels 0 to 2, but .* has 4 classes \(a, b, c, d\): load the model with num_labels=4",
    "class id too many": r"outputs for labels 0 to 2, but .* has labels 1 to 3: load the model with num_labels=4",
    "few classes": r"outputs for labels 0 to 2, but .* has labels 0 to 1: load the model with num_labels=2.*ClassLabel",
    "two label columns": r"one label column 'label', got labels and label in columns .*: keep one",
    "a missing cell": r"'per_language' cannot weight cells without rows.*\(en, 2\), \(fr, 0\).*missing_cell_policy",
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_training_data_is_refused_in_words(build, rows, name):
    with pytest.raises(ValueError, match=f"(?s){BAD_DATA[name]}"):
        build(data=UNFIT[name](rows), weighting="per_language")


def test_only_the_cells_that_a_scheme_cannot_weight_are_named(build, rows):
    """Weights of classes alone need rows of each label in any language, so (fr, a) may be empty."""
    data = without(rows, "fr", 0).cast_column("label", ClassLabel(names=["a", "b", "c"]))
    assert build(data=data, weighting="class").weights.shape == (3, 3)
    with pytest.raises(ValueError, match=r"'class' cannot weight .*: \(en, c\), \(fr, c\), \(ja, c\)\. Collect"):
        build(data=data.filter(lambda row: row["label"] < 2), weighting="class")


def test_languages_named_by_numbers_are_refused(build, rows):
    numbers = rows.map(lambda row: {"language": {"en": "1", "fr": "0", "ja": "2"}[row["language"]]})
    with pytest.raises(ValueError, match=r"a ClassLabel whose names are numbers.*cast the column to strings"):
        build(data=numbers.cast_column("language", ClassLabel(names=["1", "0", "2"])))
    assert build(data=numbers).distribution.languages == ("0", "1", "2")


def test_rows_without_a_label_and_other_kinds_of_problems(build, rows, tiny_bert):
    with_none = relabeled(rows, lambda label: label - 1, "int64")
    advice = r"labels -1 to 1: leave out the rows labeled -1, or label them -100, which the loss ignores"
    with pytest.raises(ValueError, match=advice):
        build(data=with_none)
    for way in ("evaluate", "predict"):
        with pytest.raises(
            ValueError, match=r"labels from 0 to 2, .* labels -1 to 1: one label per text .int64., and -100"
        ):
            getattr(build(batch=21, per_device_eval_batch_size=21), way)(with_none)
    with pytest.raises(ValueError, match=r"problem_type 'regression': set it to 'single_.*or to 'multi_label"):
        build(tiny_bert(problem_type="regression"))
    build(tiny_bert(problem_type="single_label_classification")).train()


def test_a_batch_of_unknown_language_cannot_train(build, bert_tokenizer):
    class Forgetful(DataCollatorWithLanguage):
        def __call__(self, features):
            return super().__call__(features) | {"language_ids": torch.full([len(features)], -1)}

    collator = Forgetful(bert_tokenizer, languages=["en", "fr", "ja"])
    trainer = build(weighting="per_language", batch=21, keywords={"data_collator": collator})
    with pytest.raises(ValueError, match="have a language that is not one of en, fr, ja"):
        trainer.train()


def test_whole_numbers_become_what_a_search_needs(training_arguments):
    """A search makes the type of the value before of each value that it tries."""
    arguments = training_arguments(masked_entropy_weight=1, language_temperature=0)
    arguments.weight_clip = 2
    arguments.check()
    for name in ("masked_entropy_weight", "language_temperature", "weight_clip"):
        assert type(getattr(arguments, name)) is float
    assert arguments.max_repeats is None and type(arguments.lora_rank) is int


def test_bad_arguments_are_refused_in_words(build, tiny_bert, rows, decoder_tokenizer, training_arguments):
    with pytest.raises(ValueError, match="Unknown class_weighting 'balanced': choose one of none, class, per_language"):
        build(weighting="balanced")
    with pytest.raises(ValueError, match="Unknown missing_cell_policy 'skip': choose one of error, ignore, smooth"):
        build(weighting="per_language", missing_cell_policy="skip")
    for wrong, message in (
        ({"weighting": "own"}, "class_weighting='own' needs class_weights"),
        ({"weighting": "joint", "class_weights": {}}, "Choose class_weights or class_weighting='joint', not both"),
        ({"weighting": "joint", "weight_exponent": -1}, "weight_exponent must be 0 or more, got -1"),
        ({"label_smoothing_factor": -0.5}, "label_smoothing_factor must be from 0 to below 1, got -0.5"),
        ({"effective_number_beta": 1.0}, r"effective_number_beta must be from 0 to below 1, got 1\.0"),
        ({"weighting": "joint", "weight_exponent": None}, "weight_exponent must be a number, got None"),
        ({"objective": "focal", "focal_gamma": "2"}, "focal_gamma must be a number, got '2'"),
        ({"class_weights": {"en": {"0": 1}}}, "table of class weights lacks fr, ja"),
        ({"class_weights": [[1, 2]]}, "class_weights must be a file, or of the form .*, got list"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**wrong)
    with pytest.raises(ValueError, match="pass train_dataset or eval_dataset"):
        build(data=None)
    with pytest.raises(TypeError, match="LangImbTrainingArguments, got TrainingArguments"):
        LangImbTrainer(tiny_bert(), TrainingArguments("unused", report_to="none"), train_dataset=rows)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'compute_loss_func'"):
        build(keywords={"compute_loss_func": lambda *args, **kwargs: 0})
    build(keywords={"compute_loss_func": None})
    for tokenizer, found in ((decoder_tokenizer, "TokenizersBackend"), (None, "NoneType")):
        arguments = training_arguments(masked_entropy_weight=1)
        message = f"mask token .*got {found}: add one .*add_special_tokens.*masked_entropy_weight=0"
        with pytest.raises(ValueError, match=message):
            LangImbTrainer(tiny_bert(), arguments, train_dataset=rows, processing_class=tokenizer)


def test_models_and_collators_that_do_not_fit_are_refused(build, tiny_bert, rows, bert_tokenizer):
    with pytest.raises(ValueError, match=r"Expected a sequence-classification model, got BertForToken.*: load it"):
        build(BertForTokenClassification(tiny_bert().config))
    model = tiny_bert(id2label={0: "b", 1: "a", 2: "c"}, label2id={"b": 0, "a": 1, "c": 2})
    with pytest.raises(
        ValueError, match=r"id2label has the classes b, a, c, but the data have a, b, c: use dataset.align"
    ):
        build(model, rows.cast_column("label", ClassLabel(names=["a", "b", "c"])))
    orders = (["en", "fr", "ja"], ["fr", "en", "ja"])
    own, other = (DataCollatorWithLanguage(bert_tokenizer, languages=order) for order in orders)
    with pytest.raises(ValueError, match=r"data_collator.*fr, en, ja.*en, fr, ja"):
        build(keywords={"data_collator": other})  # its ids would look up the weights of other languages
    assert build(keywords={"data_collator": own}).data_collator is own
