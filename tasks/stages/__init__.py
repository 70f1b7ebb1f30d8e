"""The stages, one file each, and what they share. A stage never imports another."""
