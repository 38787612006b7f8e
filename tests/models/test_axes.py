"""The names of a model's classes, and labels by these names."""

import pytest
from datasets import Dataset

from hf_langimb.models.axes import match_labels


def test_a_class_id_out_of_range_is_no_name():
    with pytest.raises(ValueError, match=r"Labels 3 are not among .* 1, 2, 3 \(class ids 0 to 2\)"):
        match_labels(Dataset.from_dict({"label": [1, 2, 3]}), ["1", "2", "3"])
    assert match_labels(Dataset.from_dict({"label": [1, None, 0]}), ["no", "yes"]).to_pylist() == ["yes", None, "no"]
