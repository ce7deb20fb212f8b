"""LeRobot v3 datasets on disk: tables, videos, demonstrations."""
