"""The parts of expectation propagation: factors, their moments, steps to the fixed point, learning."""
