"""Clone maps and real pairs: ids of each language's tokenizer <-> ids of the model."""

import numpy as np
import pytest

from hf_langimb import CloneMap
from hf_langimb.cloned.vocabulary import SHARED, Vocabulary, real_pair


def test_language_k_owns_the_kth_copy_of_the_vocabulary_and_padding_stays():
    clones = CloneMap(5, 3)
    assert clones.model_vocabulary_size == 15
    assert clones.encode([[0, 1], [4, 0]], 2).tolist() == [[0, 11], [14, 0]]
    ids, languages = clones.decode([0, 1, 11, 14])
    assert ids.tolist() == [0, 1, 1, 4]
    assert languages.tolist() == [SHARED, 0, 2, 2]


def test_without_padding_every_id_moves():
    assert CloneMap(3, 2, padding_id=None).encode([0, 1, 2], 1).tolist() == [3, 4, 5]


@pytest.mark.parametrize("language", [0, 1, 2])
def test_decoding_gives_back_what_was_encoded(language):
    clones, ids = CloneMap(100, 3, fraction_cloned=0.6, padding_id=7, seed=3), np.arange(100)
    decoded, languages = clones.decode(clones.encode(ids, language))
    assert decoded.tolist() == ids.tolist()
    assert {*languages.tolist()} == {SHARED, language}
    assert (languages == SHARED).sum() == clones.shared == 100 - round(0.6 * 99)


def test_with_one_seed_a_smaller_share_clones_some_of_the_ids_of_a_larger_one():
    moved = [{*np.flatnonzero(CloneMap(50, 2, fraction_cloned=share).tables[1] >= 50)} for share in (0.0, 0.3, 0.8, 1)]
    assert moved[0] == set() and moved[0] < moved[1] < moved[2] < moved[3] == {*range(1, 50)}
    other = {*np.flatnonzero(CloneMap(50, 2, fraction_cloned=0.3, seed=1).tables[1] >= 50)}
    assert len(other) == len(moved[1]) and other != moved[1]


def test_a_real_pair_is_disjoint_or_shares_the_ids_of_equal_tokens():
    first, second = {"a": 0, "b": 1, "c": 2}, {"x": 0, "c": 1, "a": 2, "y": 3}
    apart, merged = (real_pair(first, second, merged=merged) for merged in (False, True))
    assert apart.encode([0, 1, 2, 3], 1).tolist() == [3, 4, 5, 6] and apart.shared == 0
    assert merged.encode([1, 2], 1).tolist() == [2, 0] and merged.shared == 2
    assert merged.model_vocabulary_size == 5
    ids, languages = merged.decode(merged.encode([0, 1, 2, 3], 1))
    assert languages.tolist() == [1, SHARED, SHARED, 1]
    assert ids.tolist() == [0, 2, 0, 3]  # shared ids are decoded as the first language's


def test_a_merged_pair_without_equal_tokens_is_disjoint():
    assert real_pair({"a": 0}, {"b": 0}, merged=True) == real_pair({"a": 0}, {"b": 0}, merged=False)


def test_a_vocabulary_is_saved_beside_a_model(tmp_path):
    clones = CloneMap(9, 2, fraction_cloned=0.5)
    clones.save(tmp_path)
    assert Vocabulary.load(tmp_path) == clones != CloneMap(9, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CloneMap(0), "one id or more"),
        (lambda: CloneMap(5, 0), "one language or more"),
        (lambda: CloneMap(5, fraction_cloned=1.1), "between 0 and 1, got 5, 2 and 1.1"),
        (lambda: CloneMap(5, padding_id=5), "padding id must be below the vocabulary size 5, got 5"),
        (lambda: CloneMap(5).encode([5], 0), "from 0 to 4, got 5 to 5"),
        (lambda: CloneMap(5).encode([1], 2), "languages 0 to 1, got 2"),
        (lambda: CloneMap(5).decode([-1]), "from 0 to 9, got -1"),
        (lambda: Vocabulary([[0, 1], [1, 1]], 3), "Language 1 must map"),
        (lambda: Vocabulary([[0, 3]], 3), "Language 0 must map"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
