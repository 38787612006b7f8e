"""Your own data: does your model use language as a shortcut, and do weights remove it? The same as `langimb train`.

accelerate launch recipes/custom.py --dataset_name DATASET
"""

import sys

from hf_langimb.console import RESUMES, ends_in_words

if __name__ == "__main__":
    with ends_in_words("custom.py", RESUMES):
        from hf_langimb.runs.custom import FOLDER, words_of
        from hf_langimb.runs.experiment import main  # takes seconds, in which a user may press Ctrl-C

        main("custom", FOLDER, words_of(sys.argv[1:]))
