"""`colab-llm-chat chat`: the chat in a terminal, in a notebook's cell output, and for scripts by a pipe."""
