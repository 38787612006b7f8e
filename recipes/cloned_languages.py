"""Language imbalance in pretraining, with cloned languages (arXiv 2404.07982) and controls with as many tokens.

accelerate launch recipes/cloned_languages.py          # a Markov language, offline, on a CPU
accelerate launch recipes/cloned_languages.py --all    # every setup
"""

from pathlib import Path

from hf_langimb.console import RESUMES, ends_in_words

if __name__ == "__main__":
    with ends_in_words("cloned_languages.py", RESUMES):
        from hf_langimb.cloned.experiment import main  # takes seconds, in which a user may press Ctrl-C

        main("cloned_languages", Path(__file__).parent / "cloned_languages")
