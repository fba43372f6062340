"""How neurons work together: token statistics, activations, graphs. Arrays in, arrays out."""
