"""Compare methods that make predictions depend less on language, each at its best setting, on the same data.

accelerate launch recipes/compare_mitigations.py                      # mini-XNLI, offline, on a CPU
accelerate launch recipes/compare_mitigations.py --config cldr_20     # 20 languages, labels skewed 20:1
accelerate launch recipes/compare_mitigations.py --config cldr_all    # 213 languages, as collected
"""

from pathlib import Path

from hf_langimb.console import RESUMES, ends_in_words

if __name__ == "__main__":
    with ends_in_words("compare_mitigations.py", RESUMES):
        from hf_langimb.runs.mitigations import main  # takes seconds, in which a user may press Ctrl-C

        main(Path(__file__).parent / "compare_mitigations")
