"""The ground floor: errors, options, seeds, threads, clocks, files, progress; nothing of statistics."""
