"""`python -m hf_langimb` is the same as `langimb`; in several processes: `accelerate launch -m hf_langimb`."""

import sys

from hf_langimb.cli import main

sys.exit(main())
