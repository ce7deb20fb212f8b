"""Recording: episodes frame by frame, staged, assembled, merged."""
