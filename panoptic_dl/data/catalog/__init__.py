"""Where datasets lie: functions that check a folder, register it and return its name."""
