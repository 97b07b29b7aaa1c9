"""What leaves a run for other tools: schedules of stock pipelines, LoRA files, model cards."""
