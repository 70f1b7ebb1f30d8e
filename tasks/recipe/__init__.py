"""The recipe: YAML in, one frozen Recipe out."""
