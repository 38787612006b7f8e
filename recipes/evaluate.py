"""Measure any published or local classifier: quality by language, language probe, token attributions.

accelerate launch recipes/evaluate.py MODEL DATASET                  # prints tables and writes an HTML page
accelerate launch recipes/evaluate.py MODEL DATASET --push_to_hub    # also updates the model's card, in one commit
"""

from hf_langimb.console import RESUMES, ends_in_words

if __name__ == "__main__":
    with ends_in_words("evaluate.py", RESUMES):
        from hf_langimb.runs.evaluate import main  # takes seconds, in which a user may press Ctrl-C

        main()
