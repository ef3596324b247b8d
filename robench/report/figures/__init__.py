"""Pictures, drawn without a screen and written as PNG. They know numbers and images, and nothing of how these were measured."""
