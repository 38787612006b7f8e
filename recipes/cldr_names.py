"""Labels that depend on language, in many languages: is a name from the Unicode CLDR a territory, a currency, ...?

pip install -e ".[cldr]"                                        # Babel, which contains the names
accelerate launch recipes/cldr_names.py                         # 20 languages, labels skewed 20:1, offline, on a CPU
accelerate launch recipes/cldr_names.py --config large          # 129 languages, not skewed; --config all: 213
"""

from pathlib import Path

from hf_langimb.console import RESUMES, ends_in_words

if __name__ == "__main__":
    with ends_in_words("cldr_names.py", RESUMES):
        from hf_langimb.runs.experiment import main  # takes seconds, in which a user may press Ctrl-C

        main("cldr_names", Path(__file__).parent / "cldr_names")
