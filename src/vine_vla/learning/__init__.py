"""Learning: what every training shares: schedules, devices, precision, augmentation."""
