"""The products: quantize = grid x scale x rounding. Each factor is one file, found by its name."""
