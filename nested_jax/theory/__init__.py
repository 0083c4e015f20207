"""What a transform does, told before it runs: responses, stability, growth, curvature."""
