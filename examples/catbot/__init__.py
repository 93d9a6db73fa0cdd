"""The demo model's workshop: its conversations, its training and its evaluation."""
