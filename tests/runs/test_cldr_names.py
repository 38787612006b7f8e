"""The YAMLs of the recipe cldr_names: their data and plans."""

from pathlib import Path

import pytest

import hf_langimb
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.runs.setups import prepare_setups, resolve_setup
from hf_langimb.runs.subsets import load_data

pytest.importorskip("babel")
FOLDER = Path(hf_langimb.__file__).parents[1] / "recipes" / "cldr_names"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "languages", "bits", "empty"),
    [
        ("all", 213, 0.117, 55),
        ("skew-20", 20, 0.51, 0),
        ("skew-100", 20, 0.77, 0),
    ],
)
def test_training_rows_have_the_skew_of_the_configuration(config, languages, bits, empty):
    recipe = parse_recipe("cldr_names", FOLDER, ["--config", config, "--use_cpu"])
    data = load_data(recipe.data, "language")
    setups = prepare_setups(recipe, {name: resolve_setup(name, recipe.setups) for name in recipe.data.setups}, data)
    trained = data.distribution("train", setups["independence"].plan)
    assert (len(data.languages), len(trained.missing_cells) - empty) == pytest.approx((languages, 0), abs=4)
    assert trained.mutual_information_bits == pytest.approx(bits, abs=0.01)  # 150 rows per language are whole rows
    if data.plans:
        assert {data.distribution("train", setup.plan).rows for setup in setups.values()} == {3000}
        assert data.distribution("test", "balanced").counts.tolist() == [[32] * 5] * 20
