"""Models to start from: every classifier begins with a new last layer, also where the checkpoint has one."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_langimb.models.loading import new_classifier

SHAPE = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a classifier of three classes whose last layer is far from a new one."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SHAPE, id2label={0: "c", 1: "b", 2: "a"}))
    model.classifier.weight.data.fill_(5.0)
    model.save_pretrained(tmp_path)
    return str(tmp_path), model


@pytest.mark.parametrize("names", [["a", "b", "c"], ["yes", "no"]])
def test_a_trained_head_is_replaced_whatever_its_classes(checkpoint, names):
    folder, trained = checkpoint
    model = new_classifier(folder, names)
    assert model.config.id2label == dict(enumerate(names))
    assert model.classifier.weight.shape == (len(names), 16)
    assert float(model.classifier.weight.detach().abs().max()) < 0.2 and not model.classifier.bias.any()
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[word], trained.state_dict()[word])


def test_weights_of_another_shape_are_refused(checkpoint):
    folder, trained = checkpoint
    trained.config.vocab_size = 31
    trained.config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"weights have unexpected shapes, such as bert\.embeddings\.word_embeddings"):
        new_classifier(folder, ["a", "b"])
