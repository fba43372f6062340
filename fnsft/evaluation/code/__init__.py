"""Programs that a model writes: how they are asked for, found in its text, and checked."""
