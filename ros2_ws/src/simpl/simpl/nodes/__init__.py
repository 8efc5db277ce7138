"""One process each: convert a message, call the core, convert the answer."""
