"""Other people's policies as System 1."""
