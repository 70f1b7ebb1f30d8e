"""What generators on language models share: loading, training, decoding."""
