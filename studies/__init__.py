"""What makes figures about quality: one file a study, its command on top."""
