"""Pin a distillation to a teacher, its data and complete settings."""
