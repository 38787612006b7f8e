"""Language-specific class imbalance on natural-language inference (arXiv 2402.13016, section 3).

accelerate launch recipes/xnli.py                    # the built-in mini-XNLI, offline, on a CPU
accelerate launch recipes/xnli.py --config mbert     # the paper's experiment
"""

from pathlib import Path

from hf_langimb.console import RESUMES, ends_in_words

if __name__ == "__main__":
    with ends_in_words("xnli.py", RESUMES):
        from hf_langimb.runs.experiment import main  # takes seconds, in which a user may press Ctrl-C

        main("xnli", Path(__file__).parent / "xnli")
