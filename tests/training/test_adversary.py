"""The language adversary: its gradients by hand, what it does to features, accumulation, and checkpoints."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from hf_langimb import LangImbTrainer
from hf_langimb.training.adversary import ADVERSARIES, LanguageAdversary

KINDS = [kind for kind in ADVERSARIES if kind != "none"]


@pytest.fixture
def data():
    """Function (rows, skew): texts whose first word tells the language and whose second one tells the label."""

    def make(rows, skew):
        random = np.random.default_rng(0)
        languages, labels = random.integers(2, size=rows), random.integers(3, size=rows)
        labels = np.where(random.random(rows) < skew, 2 * languages, labels)
        texts = [
            f"w{one} w{3 + label} w{random.integers(10, 24)}" for one, label in zip(languages, labels, strict=True)
        ]
        return Dataset.from_dict({"text": texts, "language": [f"l{one}" for one in languages], "label": labels})

    return make


@pytest.fixture
def make(data, bert_tokenizer, tiny_bert, training_arguments):
    """Function (rows, skew, **arguments): a trainer on these texts."""

    def build(rows=48, skew=0.0, **arguments):
        tokenized = data(rows, skew).map(
            lambda batch: bert_tokenizer(batch["text"]), batched=True, remove_columns="text"
        )
        settings = {"learning_rate": 0.01, "per_device_train_batch_size": 12} | arguments
        arguments = training_arguments(**settings)
        return LangImbTrainer(tiny_bert(), arguments, train_dataset=tokenized, processing_class=bert_tokenizer)

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_by_hand(kind, tiny_bert):
    random = torch.Generator().manual_seed(0)
    adversary = LanguageAdversary(kind, tiny_bert().double(), languages=3, weight=0.7)
    weight, bias = torch.randn(3, 16, generator=random).double(), torch.randn(3, generator=random).double()
    with torch.no_grad():
        adversary.classifier.weight.copy_(weight)
        adversary.classifier.bias.copy_(bias)
    features = torch.randn(5, 16, generator=random).double().requires_grad_()
    languages = torch.tensor([0, 1, 2, 0, 1])
    adversary.losses(features, languages, progress=1.0).sum().backward()
    coefficient = 0.7 * (2 / (1 + np.exp(-10.0)) - 1)
    probabilities = torch.softmax(features @ weight.T + bias, dim=1).detach()
    residuals = probabilities - F.one_hot(languages, 3)
    assert adversary.classifier.weight.grad.numpy() == pytest.approx(
        (residuals.T @ features).detach().numpy(), abs=1e-6
    )
    assert adversary.classifier.bias.grad.numpy() == pytest.approx(residuals.sum(0).numpy(), abs=1e-6)
    expected = -coefficient * residuals @ weight
    if kind == "language_entropy":
        logs = probabilities.log()
        slopes = probabilities * (logs - (probabilities * logs).sum(dim=1, keepdim=True))  # of minus the entropy
        expected = coefficient * slopes @ weight
    assert features.grad.numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    right = (probabilities.argmax(dim=1) == languages).double().mean().item()
    assert adversary.logs(lambda seen: seen) == pytest.approx(
        {"adversary_accuracy": right, "adversary_coefficient": coefficient}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_accuracy_of_the_adversary_and_its_coefficient_are_logged(kind, make):
    logs = {"logging_strategy": "steps", "logging_steps": 10}
    trainer = make(240, 0.8, max_steps=40, language_adversary=kind, language_adversary_weight=1.0, **logs)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "adversary_accuracy" in entry]
    assert len(logged) == 4 and all(0 <= entry["adversary_accuracy"] <= 1 for entry in logged)
    assert logged[0]["adversary_coefficient"] < logged[-1]["adversary_coefficient"] <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_give_the_same_step(kind, make):
    weights = []
    for size, accumulated in ((12, 1), (4, 3)):
        steps = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 2}
        trainer = make(language_adversary=kind, language_adversary_weight=1.0, optim="sgd", **steps)
        trainer.train()
        weights.append([*trainer.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=5e-5)


def test_a_training_goes_on_from_its_checkpoint(make, tmp_path):
    settings = {"language_adversary": "gradient_reversal", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make(**settings)
    whole.train()
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    found, expected = (trainer.adversary.classifier.state_dict() for trainer in (resumed, whole))
    torch.testing.assert_close(found, expected)
    (tmp_path / "run" / "checkpoint-2" / "language_adversary.pt").unlink()
    with pytest.raises(ValueError, match=r"no language_adversary.pt: it was trained without language_adversary"):
        make(**settings).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    state = copy.deepcopy(whole.adversary.state_dict())
    with pytest.raises(ValueError, match="trained with language_adversary='language_entropy', got 'gradient_reversal'"):
        whole.adversary.load_state_dict(state | {"kind": "language_entropy"})
    state["classifier"]["weight"] = torch.zeros(5, 16)
    with pytest.raises(ValueError, match=r"shape \[5, 16\], the model needs \[2, 16\]"):
        whole.adversary.load_state_dict(state)


def test_wrong_arguments_are_refused(training_arguments):
    for wrong, message in (
        ({"language_adversary": "other"}, "Unknown language_adversary 'other'"),
        ({"language_adversary_weight": -1.0}, "language_adversary_weight must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            training_arguments(**wrong)
