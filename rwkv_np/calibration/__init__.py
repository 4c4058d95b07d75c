"""What a model does on a text, for quantizers that round where it matters least."""
