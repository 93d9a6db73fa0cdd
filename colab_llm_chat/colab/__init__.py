"""What only Google Colab and a public link need: secrets, Drive, tunnel."""
