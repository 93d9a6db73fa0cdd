"""`python -m colab_llm_chat`: the same as the command colab-llm-chat."""

import sys

from .cli import main

sys.exit(main())
