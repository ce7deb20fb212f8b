"""The LeRobot policy `vine_skill`: flow matching over action chunks on crops."""
