"""llama.cpp's tokenizers, and which of them gives the ids of a model's own."""
