"""What equal and near mean for a kind of field, and how its values are shown; text is the only one so far."""
