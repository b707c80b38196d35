"""The checks, one a file: functions of a case to what was found."""
