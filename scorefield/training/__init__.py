"""The alternation of online score and generator, and everything that keeps a long run safe."""
