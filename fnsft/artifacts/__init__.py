"""One reader and one writer for each artefact; written to a sibling, then renamed."""
