"""Tables, figures, and runs and dashboards in wandb."""
