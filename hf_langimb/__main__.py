"""`python -m hf_langimb` is `langimb`; of several processes: `accelerate launch -m hf_langimb`."""

import sys

from hf_langimb.cli import main

sys.exit(main())
