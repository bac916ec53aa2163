"""Fine-tuning: a trained model goes on learning, from examples of one task."""
