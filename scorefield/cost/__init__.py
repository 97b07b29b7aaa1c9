"""What a run will cost: memory by role and floating-point operations, found without allocating its networks."""
