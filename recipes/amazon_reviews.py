"""Language-specific class imbalance on product reviews in six languages (arXiv 2402.13016, section 3).

accelerate launch recipes/amazon_reviews.py                            # the paper's experiment, with mBERT
accelerate launch recipes/amazon_reviews.py --dataset_name YOUR_DATA   # any reviews with five ratings

The Multilingual Amazon Reviews Corpus was withdrawn by its owner. The default is a mirror on the Hub; the terms of the
corpus (non-commercial research only) still apply to it. This package contains none of it. YOUR_DATA needs the columns
text, label (five values, from the fewest stars to the most) and language; other names are given with --text_columns,
--label_column and --language_column. A folder or Hub dataset without a configuration for each language needs
--config_names default.
"""

from pathlib import Path

from hf_langimb.console import RESUMES, ends_in_words

MIRROR = "mteb/AmazonReviewsClassification"
GONE = (
    "The owner withdrew the corpus, and this mirror of it (terms: non-commercial research only) may be unavailable. "
    "Use other reviews with five ratings: --dataset_name YOUR_DATA --label_column NAME"
)

if __name__ == "__main__":
    with ends_in_words("amazon_reviews.py", RESUMES):
        from hf_langimb.runs.experiment import main  # takes seconds, in which a user may press Ctrl-C

        main("amazon_reviews", Path(__file__).parent / "amazon_reviews", if_missing={MIRROR: GONE})
