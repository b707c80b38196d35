"""The parts of the page, one kind of answer a file."""
