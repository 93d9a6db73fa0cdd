"""`colab-llm-chat bench`: this server beside other programs on one model, in one run, over HTTP."""
