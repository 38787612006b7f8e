"""Measure any published or local classifier: quality by language, language probe, token attributions.

accelerate launch recipes/evaluate.py MODEL DATASET                  # tables and a page
accelerate launch recipes/evaluate.py MODEL DATASET --push_to_hub    # and its card on the Hub, as one commit
"""

from hf_langimb.runs.evaluate import main

if __name__ == "__main__":
    main()
