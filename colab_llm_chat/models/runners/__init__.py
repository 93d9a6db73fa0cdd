"""How models run: the forwards behind `engine.runner.Runner`, and where keys and values live."""
