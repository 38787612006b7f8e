"""Language-specific class imbalance on product reviews in six languages (arXiv 2402.13016, section 3).

accelerate launch recipes/amazon_reviews.py --config mbert                            # the paper's experiment
accelerate launch recipes/amazon_reviews.py --config mbert --dataset_name YOUR_DATA   # any text, label and language

The Multilingual Amazon Reviews Corpus was withdrawn by its owner. The default is a mirror on the Hub; the terms of the
corpus (non-commercial research only) still apply to it. This package contains none of it. If the mirror is gone,
use any data set with the columns text, label (five values, from the fewest stars to the most) and language.
"""

from pathlib import Path

from hf_langimb.console import RESUMES, ends_in_words

if __name__ == "__main__":
    with ends_in_words("amazon_reviews.py", RESUMES):
        from hf_langimb.runs.experiment import main  # takes seconds, in which a user may press Ctrl-C

        main("amazon_reviews", Path(__file__).parent / "amazon_reviews")
