"""Language-specific class imbalance on natural-language inference (arXiv 2402.13016, section 3).

accelerate launch recipes/xnli.py                    # the embedded mini-XNLI, offline, on a CPU
accelerate launch recipes/xnli.py --config mbert     # the paper's experiment
"""

from pathlib import Path

from hf_langimb.runs.experiment import main

if __name__ == "__main__":
    main("xnli", Path(__file__).parent / "xnli")
