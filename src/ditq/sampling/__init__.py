"""How a model is sampled: noise levels, steppers, guidance, and prompts to pictures."""
